"""Measure encoding beside sentence-transformers' `encode` at its best batch size, one JSON line a variant.

    python scripts/bench_encode.py --corpus BEIR_FOLDER --model tiny|FOLDER [--documents 2000] [--max-tokens 512]

Both encode the same texts with the same weights and limit; the embeddings are compared before anything is timed (1e-5
in fp32). The batch size of sentence-transformers is tried first. Variants take turns (A B C A B C ...), medians count.
gemm_share: the time of the linear products alone, at their own shapes, over the whole time, tokenising included.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from bench_train import gemm_seconds

from reasonir.data.collections import read_documents
from reasonir.model import Encoder
from reasonir.model.encoder import DEFAULT_CHUNK_TOKENS
from reasonir.model.folders import save_encoder
from reasonir.model.tiny import build_tiny

BATCH_SIZES = (8, 16, 32, 64, 128)
TRIED_TEXTS = 400


def load(model: str, texts: list[str], max_tokens: int) -> tuple[Encoder, Callable[[list[str], int], np.ndarray]]:
    """Return our encoder and sentence-transformers' `encode` (texts, batch size) of the same folder."""
    from sentence_transformers import SentenceTransformer

    encoder = build_tiny(texts) if model == "tiny" else Encoder.from_pretrained(model)
    with tempfile.TemporaryDirectory() as folder:
        save_encoder(encoder, folder, query_instruction="", max_tokens=max_tokens)
        peer = SentenceTransformer(folder, device=str(encoder.device))
    peer.max_seq_length = max_tokens

    def encode(some: list[str], batch_size: int) -> np.ndarray:
        return peer.encode(some, batch_size=batch_size, normalize_embeddings=True)

    return encoder, encode


def seconds_of(work: Callable[[], np.ndarray]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="anything that reasonir-eval reads documents from")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--documents", type=int, default=2_000)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    texts = list(read_documents(arguments.corpus).values())[: arguments.documents]
    encoder, peer = load(arguments.model, texts, arguments.max_tokens)
    tried = texts[:TRIED_TEXTS]
    batch = min(BATCH_SIZES, key=lambda size: min(seconds_of(lambda: peer(tried, size)) for _ in range(2)))
    ways: dict[str, Callable[[], np.ndarray]] = {
        "sentence_transformers": lambda: peer(texts, batch),
        "ours": lambda: encoder.encode(texts, max_tokens=arguments.max_tokens),
        "ours_bf16": lambda: encoder.encode(texts, max_tokens=arguments.max_tokens, precision="bf16"),
    }
    embeddings = {name: work() for name, work in ways.items()}
    off = float(np.abs(embeddings["ours"] - embeddings["sentence_transformers"]).max())
    assert off < 1e-5, f"embeddings differ by {off:.2g}"
    cosine = float((embeddings["ours"] * embeddings["ours_bf16"]).sum(1).min())
    tokens = sum(len(t.ids) for t in encoder.template.encode([("", text) for text in texts], arguments.max_tokens))
    gemm = gemm_seconds(encoder, tokens, autocast=False, chunk_tokens=DEFAULT_CHUNK_TOKENS[encoder.device.type])
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, work in ways.items():
            times[name].append(seconds_of(work))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        line = {
            "model": arguments.model, "variant": name, "texts": len(texts), "tokens": tokens,
            "tokens_per_second": round(tokens / seconds), "texts_per_second": round(len(texts) / seconds, 1),
            "times_peer": round(medians["sentence_transformers"] / seconds, 2),
            "gemm_share": round(gemm / seconds, 3),
            "largest_difference": off, "smallest_cosine_bf16": round(cosine, 6),
            **({"batch_size": batch} if name == "sentence_transformers" else {}),
            "device": torch.cuda.get_device_name() if encoder.device.type == "cuda" else "cpu",
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
