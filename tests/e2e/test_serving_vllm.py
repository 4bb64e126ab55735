"""A saved folder in a real vLLM engine on the CPU: the embeddings of `Encoder`, by vLLM's pooling and by ours."""

import gc
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reasonir.core.errors import UserError
from reasonir.model import Encoder
from reasonir.model.folders import save_encoder
from reasonir.model.presets import PresetOptions
from reasonir.model.serving import ServedEncoder, engine_states, server_states
from reasonir.model.tiny import build_tiny
from tests.kit.layouts import write_layout
from tests.kit.texts import INSTRUCTION, SENTENCES
from tests.kit.vllm import needs_vllm

pytestmark = [needs_vllm, pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's engine"),
              pytest.mark.filterwarnings("ignore")]  # fmt: skip
MAX_TOKENS = 200


@contextmanager
def engine(folder: Path, task: str, dtype: str) -> Iterator[Any]:
    from vllm import LLM
    from vllm.config import PoolerConfig

    llm = LLM(
        str(folder), runner="pooling", pooler_config=PoolerConfig(task=task), dtype=dtype, enforce_eager=True
    )  # fmt: skip
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


SIZES = {"hidden_size": 64, "intermediate_size": 96, "layers": 2, "heads": 2, "key_value_heads": 1}
"""Heads of a size that vLLM's attention on a CPU knows."""


@pytest.fixture
def small() -> Encoder:
    return build_tiny(SENTENCES, vocabulary_size=400, **SIZES)


@pytest.fixture(autouse=True)
def _small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_from_vllm_pooled_here_are_the_encoders_embeddings(small: Encoder, tmp_path: Path, dtype: str) -> None:
    save_encoder(small, str(tmp_path / "model"), query_instruction=INSTRUCTION, max_tokens=MAX_TOKENS)
    with engine(tmp_path / "model", "token_embed", dtype) as llm:
        states = engine_states(llm)
        served = ServedEncoder(str(tmp_path / "model"), states)
        queries, documents = (served.encode(SENTENCES, text, MAX_TOKENS) for text in (INSTRUCTION, ""))
        ids = [5, 6, 7, 8]
        before, after = (states([[*ids, last]])[0] for last in (9, 10))
        everything = [rows.mean(0) for rows in states([token_ids(small, text) for text in SENTENCES])]
    moved = np.abs(before[0] - after[0]).max()
    assert moved > 1e-3, "the last token does not reach the first: vLLM ran the model causally"
    for ours, theirs in ((small.encode(SENTENCES, INSTRUCTION, MAX_TOKENS), queries),
                         (small.encode(SENTENCES, "", MAX_TOKENS), documents)):  # fmt: skip
        assert np.abs(ours - theirs).max() < 1e-5 or dtype == "bfloat16"
        assert np.einsum("nd,nd->n", ours, theirs).min() > 0.999
    unmasked = np.stack(everything) / np.linalg.norm(everything, axis=1, keepdims=True)
    assert np.einsum("nd,nd->n", queries, unmasked).min() < 0.99, "a plain mean would have done"


def token_ids(encoder: Encoder, text: str) -> list[int]:
    return encoder.template.encode([(INSTRUCTION, text)], MAX_TOKENS)[0].ids.tolist()


@pytest.mark.slow
def test_vllms_own_last_token_pooling_needs_nothing_of_ours(tmp_path: Path) -> None:
    write_layout(tmp_path / "imported", "qwen3")
    encoder = Encoder.from_pretrained(str(tmp_path / "imported"))
    save_encoder(encoder, str(tmp_path / "model"), query_instruction=INSTRUCTION, max_tokens=MAX_TOKENS)
    prompt = json.loads((tmp_path / "model" / "config_sentence_transformers.json").read_text())["prompts"]["query"]
    with engine(tmp_path / "model", "embed", "float32") as llm:
        queries, documents = (
            np.array([answer.outputs.embedding for answer in llm.embed(texts, use_tqdm=False)])
            for texts in ([prompt + text for text in SENTENCES[:7]], SENTENCES[:7])
        )
        served = ServedEncoder(str(tmp_path / "model"), lambda ids: [np.zeros((1, 64), np.float32) for _ in ids])
        with pytest.raises(UserError, match="token_embed"):
            served.encode(["two words"])
    assert np.abs(queries - encoder.encode(SENTENCES[:7], INSTRUCTION)).max() < 1e-5
    assert np.abs(documents - encoder.encode(SENTENCES[:7])).max() < 1e-5
    assert np.abs(queries - documents).max() > 1e-3


@pytest.mark.slow
def test_vllm_pools_a_causal_last_token_by_itself_as_every_reader_does(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    preset = PresetOptions(attention="causal", pooling="last").of_new_model()
    encoder = build_tiny(SENTENCES, vocabulary_size=400, **SIZES, preset=preset)
    save_encoder(encoder, str(tmp_path / "model"), query_instruction=INSTRUCTION, max_tokens=MAX_TOKENS)
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    with engine(tmp_path / "model", "embed", "float32") as llm:
        for side, instruction in (("query", INSTRUCTION), ("document", "")):
            answers = llm.embed([theirs.prompts[side] + text for text in SENTENCES[:7]], use_tqdm=False)
            ours = encoder.encode(SENTENCES[:7], instruction, MAX_TOKENS)
            assert np.abs(np.array([answer.outputs.embedding for answer in answers]) - ours).max() < 1e-5, side
            assert np.abs(theirs.encode(SENTENCES[:7], prompt_name=side) - ours).max() < 1e-5, side


@contextmanager
def server(folder: Path, log: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` starts; the command itself looks for a distribution vllm, which the CPU's builds are not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--runner",
               "pooling", "--pooler-config", '{"task": "token_embed"}', "--dtype", "float32", "--enforce-eager",
               "--served-model-name", "tiny", "--port", str(port)]  # fmt: skip
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.slow
def test_a_vllm_server_gives_the_encoders_embeddings_over_http(small: Encoder, tmp_path: Path) -> None:
    save_encoder(small, str(tmp_path / "model"), query_instruction=INSTRUCTION, max_tokens=MAX_TOKENS)
    with server(tmp_path / "model", tmp_path / "log") as address:
        served = ServedEncoder(str(tmp_path / "model"), server_states(address, "tiny"))
        queries = served.encode(SENTENCES, INSTRUCTION, MAX_TOKENS)
        with pytest.raises(UserError, match=r"refused \(404\)"):
            ServedEncoder(str(tmp_path / "model"), server_states(address, "another")).encode(["x"])
    assert np.abs(queries - small.encode(SENTENCES, INSTRUCTION, MAX_TOKENS)).max() < 1e-5
    with pytest.raises(UserError, match="cannot be reached"):
        served.encode(["x"])
