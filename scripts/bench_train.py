"""Measure a training step: padded chunks, packed, packed with kept graphs, on three mixes of text lengths.

    python scripts/bench_train.py [--model tiny|FOLDER] [--mixes public hq vl] [--repeats 5] [--precision fp32]

Every variant computes the same GradCache step on the same weights and batch; loss and gradient are compared before
anything is timed. Variants take turns (A B C A B C ...), the medians count. One JSON line per mix and variant; peak
memory is that of a process of its own that runs one step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from reasonir.model import Encoder
from reasonir.model.pooling import pool
from reasonir.model.tiny import build_tiny
from reasonir.train.data import BatchPlan
from reasonir.train.engine import Engine
from reasonir.train.gradcache import GraphBudget, backward_through_chunks
from reasonir.train.loss import info_nce
from reasonir.train.ranks import Ranks
from reasonir.train.step import TrainingStep

# Queries, and (kind, parameters) of the query and document lengths in tokens. log-normal: median, sigma.
MIXES = {
    "public": (64, ("lognormal", 16, 0.5), ("lognormal", 120, 0.6)),
    "hq": (32, ("lognormal", 150, 0.35), ("lognormal", 270, 0.8)),
    "vl": (8, ("uniform", 400, 2048), ("lognormal", 500, 0.7)),
}
LONGEST = 2_048
PADDED_ROWS = 8
CHUNK_TOKENS = 4_096
TEMPERATURE = 0.02
VARIANTS = ("padded_chunks", "packed", "packed_kept_graphs")


def lengths(kind: str, first: float, second: float, count: int, draw: np.random.Generator) -> np.ndarray:
    """Draw text lengths, 4 to LONGEST tokens."""
    values = draw.uniform(first, second, count) if kind == "uniform" else draw.lognormal(np.log(first), second, count)
    return np.clip(values, 4, LONGEST).astype(int)


def make_batch(mix: str, vocabulary: int) -> BatchPlan:
    """A batch of random tokens: every query with one positive and one hard negative of its own."""
    draw = np.random.default_rng(0)
    queries, query_kind, document_kind = MIXES[mix]
    texts = [
        [draw.integers(5, vocabulary, n).astype(np.int32) for n in lengths(*kind, count, draw)]
        for kind, count in ((query_kind, queries), (document_kind, 2 * queries))
    ]
    return BatchPlan(
        step=0, source=mix, query_ids=texts[0], query_prefixes=np.full(queries, 2), document_ids=texts[1],
        document_prefixes=np.zeros(2 * queries, int), positive_index_B=np.arange(queries) * 2,
        ignore_BN=np.zeros((queries, 2 * queries), bool), weights=np.ones(queries, np.float32), row_names=[],
    )  # fmt: skip


def padded_step(encoder: Encoder, plan: BatchPlan, autocast: bool) -> float:
    """GradCache as Tevatron and GritLM run it: chunks of 8 rows in batch order, each padded to its longest text."""
    ids = [torch.from_numpy(row.astype(np.int64)) for row in (*plan.query_ids, *plan.document_ids)]
    prefixes = torch.from_numpy(np.concatenate([plan.query_prefixes, plan.document_prefixes]))
    chunks = [slice(i, i + PADDED_ROWS) for i in range(0, len(ids), PADDED_ROWS)]
    queries, device = len(plan.query_ids), encoder.device

    def embed(i: int) -> torch.Tensor:
        rows = ids[chunks[i]]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            states = encoder.trunk(input_ids=tokens, attention_mask=mask).last_hidden_state
            sizes = torch.tensor([len(row) for row in rows], device=device)
            flat = torch.cat([states[j, : len(row)] for j, row in enumerate(rows)])
            return pool(flat, sizes, prefixes[chunks[i]].to(device))

    def loss(embeddings: torch.Tensor) -> torch.Tensor:
        ignored, positives = torch.from_numpy(plan.ignore_BN), torch.from_numpy(plan.positive_index_B)
        return info_nce(
            embeddings[:queries], embeddings[queries:], positives.to(device), ignored.to(device), TEMPERATURE
        ).mean()

    packed = encoder.trunk.config._attn_implementation
    encoder.trunk.set_attn_implementation("sdpa")
    value, _ = backward_through_chunks(
        embed, [1] * len(chunks), loss, budget=GraphBudget(0), parameters=[], device=device
    )
    encoder.trunk.set_attn_implementation(packed)
    return float(value)


def variants(encoder: Encoder, plan: BatchPlan, precision: str) -> dict[str, Callable[[], float]]:
    """The three ways to compute one step; each returns the loss and leaves the gradient on the parameters."""
    ranks = Ranks(600.0)
    engine = Engine(encoder, torch.optim.SGD(encoder.parameters()), ranks, 0.0)
    steps = {
        name: TrainingStep(
            engine, ranks, chunk_tokens=CHUNK_TOKENS, temperature=TEMPERATURE, graph_memory_gib=gib, precision=precision
        )
        for name, gib in (("packed", 0.0), ("packed_kept_graphs", 8.0))
    }
    return {
        "padded_chunks": lambda: padded_step(encoder, plan, precision == "bf16"),
        "packed": lambda: steps["packed"](plan).loss_nats,
        "packed_kept_graphs": lambda: steps["packed_kept_graphs"](plan).loss_nats,
    }


def check_equal(encoder: Encoder, ways: dict[str, Callable[[], float]], tolerance: float) -> None:
    """Assert the same loss and gradient in every variant."""
    losses, gradients = {}, {}
    for name, step in ways.items():
        encoder.zero_grad(set_to_none=True)
        losses[name] = step()
        parts = [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
        gradients[name] = torch.cat(parts)
    reference = gradients["padded_chunks"]
    assert reference.norm() > 0
    for name, gradient in gradients.items():
        off = float((gradient - reference).norm() / reference.norm())
        assert off < tolerance, f"{name}: gradient differs by {off:.2g}"
        assert abs(losses[name] - losses["padded_chunks"]) < tolerance * max(1.0, losses[name]), name


def load(model: str) -> Encoder:
    """The built-in tiny Llama, or a folder."""
    encoder = build_tiny([f"{i} {i * i}" for i in range(3000)]) if model == "tiny" else Encoder.from_pretrained(model)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return encoder.train()


def seconds_of(step: Callable[[], float], encoder: Encoder) -> float:
    """Time one step from cleared gradients."""
    encoder.zero_grad(set_to_none=True)
    if encoder.device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    step()
    if encoder.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def peak_gib(arguments: argparse.Namespace, mix: str, variant: str) -> float:
    """Run one step in a process of its own and return what it needed beyond the loaded model, GiB."""
    command = [sys.executable, __file__, "--peak", variant, "--mixes", mix, "--model", arguments.model]
    command += ["--precision", arguments.precision]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def report_peak(arguments: argparse.Namespace) -> None:
    """The child of `peak_gib`."""
    encoder = load(arguments.model)
    plan = make_batch(arguments.mixes[0], encoder.trunk.get_input_embeddings().num_embeddings)
    before = highest_resident_gib()
    variants(encoder, plan, arguments.precision)[arguments.peak]()
    if encoder.device.type == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**30)
    else:
        print(highest_resident_gib() - before)


def highest_resident_gib() -> float:
    """Peak resident memory of this process; getrusage would start at the peak of the process that launched it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError("no VmHWM in /proc/self/status; peak memory on a CPU needs Linux")


def main() -> None:
    """Compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--mixes", nargs="+", default=list(MIXES), choices=list(MIXES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        report_peak(arguments)
        return
    encoder = load(arguments.model)
    for mix in arguments.mixes:
        plan = make_batch(mix, encoder.trunk.get_input_embeddings().num_embeddings)
        ways = variants(encoder, plan, arguments.precision)
        check_equal(encoder, ways, 1e-4 if arguments.precision == "fp32" else 5e-2)
        tokens = sum(len(row) for row in (*plan.query_ids, *plan.document_ids))
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.repeats):
            for name, step in ways.items():
                times[name].append(seconds_of(step, encoder))
        rates = {name: tokens / statistics.median(values) for name, values in times.items()}
        for name, rate in rates.items():
            line = {
                "mix": mix,
                "variant": name,
                "real_tokens_per_second": round(rate),
                "times_padded": round(rate / rates["padded_chunks"], 2),
                "peak_gib": round(peak_gib(arguments, mix, name), 3),
                "real_tokens": tokens,
                "precision": arguments.precision,
                "device": torch.cuda.get_device_name() if encoder.device.type == "cuda" else "cpu",
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
