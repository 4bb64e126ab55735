"""Measure a training step beside what others do, on three mixes of text lengths.

    python scripts/bench_train.py [--model tiny|llama_1b|llama_8b|FOLDER] [--mixes public hq vl] [--repeats 5]
                                  [--precision fp32|bf16] [--lora-rank 16] [--variants packed padded ...]
                                  [--chunk-tokens 4096] [--queries N] [--peak packed]

llama_1b and llama_8b: the shapes of Llama 3.2 and 3.1, random weights; scripts/bench_cuda.sh runs them on one GPU.

padded: GradCache over 8 rows, queries and documents each padded to their batch's longest, as the collators of Tevatron
and GritLM do, on transformers' own modules. published: the same with layer checkpointing, as the released ReasonIR
trains. trimmed: chunks padded to their own longest. sentence_transformers: its cached loss at its best mini-batch,
tried first (rows, and budgets of tokens). packed, packed_kept_graphs: ours, without and with graphs kept.

Every variant computes the same step on the same weights and batch; loss and gradient are compared before anything is
timed: asserted in fp32, printed as gradient_off (from the first variant's) in bf16. Variants take turns (A A B B A A
...): of two steps in a row the second counts, and of those the median. One JSON line per mix and variant; a variant
that runs out of memory says so. peak_gib: what a step needs beyond the weights, on a CPU in a process of its own
(--peak runs that step alone), on CUDA by the allocator.
gemm_share: the time of the forward pass's linear products alone, at their own shapes and by the faster of torch's ways,
times how many such passes the step makes (a backward pass counts as two), over the time of the step; it takes its turn
like the variants. product_share: the same with attention's own products, as if they ran at the linear ones' rate. On a
CPU all of them run in a process that keeps freed memory, as the training command does.

On CUDA, with a GPU whose dense bfloat16 peak is known: mfu = operations that the step's mathematics needs, over seconds
and peak; hfu = the same with the forward passes that are repeated (GradCache, layer checkpointing). Needed of a token:
2 P forward (P: entries of the linear layers), 4 P backward (2 P where they are frozen), and 4 L D a layer for attention
over its text's L tokens forward, twice that backward; D: heads times channels.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from reasonir.model import Encoder
from reasonir.model.adapters import add_adapters
from reasonir.model.pooling import pool
from reasonir.model.templates import Template, TemplateStyle
from reasonir.model.tiny import build_tiny, build_tokenizer
from reasonir.model.trunk.attention import PACKED_ATTENTION, register
from reasonir.model.trunk.bidirectional import prepare_trunk
from reasonir.train.data.batches import GlobalBatch
from reasonir.train.gradcache import GradCache, GraphBudget
from reasonir.train.memory.machine import graph_allowance, keep_freed_memory
from reasonir.train.objectives.infonce import info_nce
from reasonir.train.parallel.engine import Engine
from reasonir.train.parallel.ranks import Ranks
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
VARIANTS = ("published", "padded", "trimmed", "sentence_transformers", "packed", "packed_kept_graphs")
COMPARED = ("padded", "trimmed", "sentence_transformers", "published")
PASSES = {"published": 5, "padded": 4, "trimmed": 4, "sentence_transformers": 4, "packed": 4, "packed_kept_graphs": 3}
"""Linear products of a step over those of one forward pass: forward 1, backward 2, replay 1, layer checkpointing 1."""
LLAMAS = {  # hidden size, intermediate size, layers, heads, key-value heads
    "llama_1b": (2_048, 8_192, 16, 32, 8),
    "llama_8b": (4_096, 14_336, 32, 32, 8),
}
LLAMA_VOCABULARY = 128_256
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 products a second by the vendor's data sheets (SXM)."""
REPEATED_FORWARDS = {"published": 2, "packed_kept_graphs": 0}
"""Forward passes of a step that its mathematics does not need; 1 where not named."""
COMPARED_STRIDE = 61
"""Where nothing is asserted every 61st number of a gradient is compared: large models leave no room for two copies."""
PEER_ROWS, PEER_TOKENS = (4, 8, 16, 32), (2_048, 4_096, 8_192)


def lengths(kind: str, first: float, second: float, count: int, draw: np.random.Generator) -> np.ndarray:
    """Draw text lengths, 4 to LONGEST tokens."""
    values = draw.uniform(first, second, count) if kind == "uniform" else draw.lognormal(np.log(first), second, count)
    return np.clip(values, 4, LONGEST).astype(int)


def make_batch(mix: str, vocabulary: int, queries: int | None = None) -> GlobalBatch:
    """A batch of random tokens: every query (default: as many as the mix has) with a positive and a hard negative."""
    draw = np.random.default_rng(0)
    usual, query_kind, document_kind = MIXES[mix]
    queries = queries or usual
    texts = [
        [draw.integers(5, vocabulary, n).astype(np.int32) for n in lengths(*kind, count, draw)]
        for kind, count in ((query_kind, queries), (document_kind, 2 * queries))
    ]
    return GlobalBatch(
        step=0, source=mix, query_ids=texts[0], query_prefixes=np.full(queries, 2), document_ids=texts[1],
        document_prefixes=np.zeros(2 * queries, int), positive_index_B=np.arange(queries) * 2,
        ignore_BN=np.zeros((queries, 2 * queries), bool), weights=np.ones(queries, np.float32), row_names=[],
    )  # fmt: skip


@contextmanager
def others_modules(encoder: Encoder) -> Iterator[None]:
    """Take our arithmetic out of the model meanwhile: its modules compute as transformers and PEFT wrote them."""
    ours = {m: m.__dict__.pop("forward") for m in encoder.trunk.modules() if "forward" in m.__dict__}
    packed = encoder.trunk.config._attn_implementation
    encoder.trunk.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        encoder.trunk.set_attn_implementation(packed)
        for module, forward in ours.items():
            module.forward = forward


class Rows(NamedTuple):
    """A chunk of padded rows: of the queries (side 0) or the documents (1)."""

    side: int
    begin: int
    stop: int

    @property
    def computed_tokens(self) -> int:
        """Nothing is kept, so nothing is counted."""
        return 0


def padded_step(encoder: Encoder, plan: GlobalBatch, autocast: bool, trimmed: bool = False) -> float:
    """GradCache over chunks of 8 rows in batch order; queries and documents are not mixed."""
    queries, device = len(plan.query_ids), encoder.device
    prefixes = torch.from_numpy(np.concatenate([plan.query_prefixes, plan.document_prefixes]))
    sides, chunks = [], []
    for first, side in ((0, plan.query_ids), (queries, plan.document_ids)):
        rows = [torch.from_numpy(row.astype(np.int64)) for row in side]
        sides.append((first, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), [len(row) for row in rows]))
        chunks += [Rows(len(sides) - 1, i, min(i + PADDED_ROWS, len(rows))) for i in range(0, len(rows), PADDED_ROWS)]

    def embed(chunk: Rows) -> torch.Tensor:
        side, begin, stop = chunk
        first, padded, lengths = sides[side]
        sizes = torch.tensor(lengths[begin:stop])
        width = int(sizes.max()) if trimmed else padded.shape[1]
        tokens = padded[begin:stop, :width].to(device)
        mask = (torch.arange(width) < sizes[:, None]).long().to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            states = encoder.trunk(input_ids=tokens, attention_mask=mask).last_hidden_state
            flat = torch.cat([states[j, :size] for j, size in enumerate(sizes.tolist())])
            return pool(flat, sizes.to(device), prefixes[first + begin : first + stop].to(device))

    ignored, positives = torch.from_numpy(plan.ignore_BN).to(device), torch.from_numpy(plan.positive_index_B).to(device)
    with others_modules(encoder):
        cache = GradCache(embed=embed, budget=GraphBudget(0), parameters=[], device=device)
        embeddings, graphs = cache.embed_chunks(chunks)
        loss = info_nce(embeddings[:queries], embeddings[queries:], positives, ignored, TEMPERATURE).mean()
        (gradient,) = torch.autograd.grad(loss, embeddings)
        cache.replay(chunks, graphs, gradient)
    return float(loss)


def published_step(encoder: Encoder, plan: GlobalBatch, autocast: bool) -> float:
    """The same with layer checkpointing."""
    encoder.trunk.gradient_checkpointing_enable()
    value = padded_step(encoder, plan, autocast)
    encoder.trunk.gradient_checkpointing_disable()
    return value


class Peer:
    """sentence-transformers' cached loss on a copy of the encoder; its gradients are put on our parameters."""

    def __init__(self, encoder: Encoder, plan: GlobalBatch, autocast: bool) -> None:
        from sentence_transformers import SentenceTransformer

        from reasonir.model.folders import save_encoder

        with tempfile.TemporaryDirectory() as folder:
            save_encoder(encoder, folder, query_instruction="", max_tokens=LONGEST)
            self.model = SentenceTransformer(folder, device=str(encoder.device)).train()
        trunk = next(module for module in self.model.modules() if module.__class__ is encoder.trunk.__class__)
        trunk.load_state_dict(encoder.trunk.state_dict())
        trunk.set_attn_implementation("sdpa")
        ours, theirs = dict(encoder.trunk.named_parameters()), dict(trunk.named_parameters())
        self.pairs = [(ours[name], theirs[name]) for name in ours]
        self.columns = [self._column(plan.query_ids, int(plan.query_prefixes[0]), encoder.device)]
        self.columns += [self._column(plan.document_ids[first::2], 0, encoder.device) for first in (0, 1)]
        self.autocast, self.device = autocast, encoder.device.type
        self.best: dict[str, int] = {"mini_batch_size": PEER_ROWS[0]}

    def _column(self, ids: list[np.ndarray], prefix: int, device: torch.device) -> dict[str, torch.Tensor]:
        rows = [torch.from_numpy(row.astype(np.int64)) for row in ids]
        column = {
            "input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device),
            "attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True),
        }
        column["attention_mask"] = column["attention_mask"].to(device)
        if prefix:
            column["prompt_length"] = torch.full((len(rows),), prefix)
        return column

    def tune(self, encoder: Encoder) -> None:
        """Take the fastest of its mini-batches that fit, by one step each."""
        ways = [{"mini_batch_size": rows} for rows in PEER_ROWS]
        ways += [{"mini_batch_size": 10**6, "mini_batch_num_tokens": tokens} for tokens in PEER_TOKENS]
        seconds = []
        for way in ways:
            self.best = way
            try:
                seconds.append(seconds_of(self, encoder))
            except torch.cuda.OutOfMemoryError:
                seconds.append(float("inf"))
        self.best = ways[int(np.argmin(seconds))]

    def __call__(self) -> float:
        from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

        loss = CachedMultipleNegativesRankingLoss(self.model, scale=1 / TEMPERATURE, **self.best)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            value = loss([dict(column) for column in self.columns], torch.empty(0))
            value.backward()
        for ours, theirs in self.pairs:
            ours.grad, theirs.grad = theirs.grad, None
        return float(value.detach())


@torch.no_grad()
def gemm_seconds(encoder: Encoder, tokens: int, autocast: bool, chunk_tokens: int) -> float:
    """Time one forward pass's linear products over `tokens` tokens, in chunks, each at its own shape; the best of 3.

    Without autocast two ways compete: matmul, and the layers as the model runs them.
    """
    layers = [m for m in encoder.trunk.modules() if isinstance(m, torch.nn.Linear)]
    weights = [layer.weight for layer in layers]
    dtype = torch.bfloat16 if autocast else weights[0].dtype
    rows = min(tokens, chunk_tokens)
    inputs = {w.shape[1]: torch.randn(rows, w.shape[1], device=w.device, dtype=dtype) for w in weights}
    outputs = {w.shape[0]: torch.empty(rows, w.shape[0], device=w.device, dtype=dtype) for w in weights}
    products = [(w.to(dtype), layer) for w, layer in zip(weights, layers, strict=True)]
    ways: list[Callable[[torch.Tensor, torch.Tensor, torch.nn.Module], object]] = [
        lambda x, weight, _: torch.matmul(x, weight.T, out=outputs[len(weight)])
    ]
    if not autocast:
        ways.append(lambda x, _, layer: layer(x))
    best = float("inf")
    for multiply in ways * 3:
        if encoder.device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        for weight, layer in products:
            multiply(inputs[weight.shape[1]], weight, layer)
        if encoder.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return best * tokens / rows


def step_of(
    variant: str, encoder: Encoder, plan: GlobalBatch, precision: str, chunk_tokens: int
) -> Callable[[], float]:
    """One way to compute the step; it returns the loss and leaves the gradient on the parameters."""
    low = precision == "bf16"
    if variant == "sentence_transformers":
        return Peer(encoder, plan, low)
    if variant == "published":
        return lambda: published_step(encoder, plan, low)
    if variant in ("padded", "trimmed"):
        return lambda: padded_step(encoder, plan, low, trimmed=variant == "trimmed")
    ranks = Ranks(600.0)
    engine = Engine(encoder, torch.optim.SGD(encoder.parameters()), ranks, 0.0)
    step = TrainingStep(
        engine, ranks, partial(info_nce, temperature=TEMPERATURE), chunk_tokens=chunk_tokens,
        graph_memory_gib=0.0 if variant == "packed" else 8.0, precision=precision,
    )  # fmt: skip
    if variant == "packed_kept_graphs" and encoder.device.type == "cuda":
        step(plan)  # as training does: graphs fill what a step leaves free
        step.budget.limit_bytes = graph_allowance(encoder.device)
    return lambda: step(plan).loss_nats


def check_equal(encoder: Encoder, ways: dict[str, Callable[[], float]], tolerance: float | None) -> dict[str, float]:
    """Assert the same loss and gradient in every variant (None: assert nothing); drop those that run out of memory.

    Returns:
        The relative distance of each variant's gradient from the first one's.
    """
    off: dict[str, float] = {}
    reference, loss = None, 0.0
    for name, step in list(ways.items()):
        encoder.zero_grad(set_to_none=True)
        try:
            value = step()
        except torch.cuda.OutOfMemoryError:
            print(json.dumps({"variant": name, "error": "out of memory"}), flush=True)
            del ways[name]
            continue
        parts = [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
        gradient = torch.cat([part[:: 1 if tolerance else COMPARED_STRIDE] for part in parts])
        if reference is None:
            reference, loss = gradient, value
        assert reference.norm() > 0
        off[name] = float((gradient - reference).norm() / reference.norm())
        if tolerance is not None:
            assert off[name] < tolerance, f"{name}: gradient differs by {off[name]:.2g}"
            assert abs(value - loss) < tolerance * max(1.0, value), name
    return off


def load(model: str, lora_rank: int = 0) -> Encoder:
    """The built-in tiny Llama, a random one of a known shape, or a folder; a CPU process keeps what it frees."""
    if model == "tiny":
        encoder = build_tiny([f"{i} {i * i}" for i in range(3000)])
        encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    elif model in LLAMAS:
        encoder = random_llama(*LLAMAS[model], torch.float32 if lora_rank == 0 else torch.bfloat16)
    else:
        encoder = Encoder.from_pretrained(model)
    if lora_rank:
        add_adapters(
            encoder, rank=lora_rank, alpha=2.0 * lora_rank, dropout=0.0, targets=["all-linear"], dora=False, seed=0
        )
        for name, weight in encoder.named_parameters():
            if "lora_B" in name:  # zero at the start, where lora_A would get no gradient to compare
                torch.nn.init.normal_(weight, std=0.02)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if encoder.device.type == "cpu":
        keep_freed_memory()
    return encoder.train()


def random_llama(
    hidden: int, intermediate: int, layers: int, heads: int, key_value_heads: int, dtype: torch.dtype
) -> Encoder:
    """A Llama of this shape with random weights, on CUDA where there is one; frozen weights may be bfloat16."""
    from transformers import AutoModel, LlamaConfig

    register()
    tokenizer = build_tokenizer([str(i) for i in range(300)], 300)
    config = LlamaConfig(
        vocab_size=LLAMA_VOCABULARY, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_value_heads, max_position_embeddings=8_192,
    )  # fmt: skip
    config.is_causal = False
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        trunk = AutoModel.from_config(config, attn_implementation=PACKED_ATTENTION, dtype=dtype)
    prepare_trunk(trunk, "a random Llama")
    return Encoder(trunk, tokenizer, Template(tokenizer, TemplateStyle.reasonir))


def operations(encoder: Encoder, plan: GlobalBatch) -> tuple[float, float]:
    """Return the operations of one forward pass over the batch, and of what its step needs (see the top)."""
    lengths = np.array([len(row) for row in (*plan.query_ids, *plan.document_ids)], dtype=float)
    linear = [m for m in encoder.trunk.modules() if isinstance(m, torch.nn.Linear)]
    entries = sum(m.weight.numel() for m in linear)
    trained = sum(m.weight.numel() for m in linear if m.weight.requires_grad)
    config = encoder.trunk.config
    channels = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * channels
    attention = 4.0 * width * config.num_hidden_layers * float((lengths**2).sum())
    products = 2.0 * entries * lengths.sum()
    return products + attention, 2 * products + 2.0 * trained * lengths.sum() + 3 * attention


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


def peak_gib(arguments: argparse.Namespace, mix: str, variant: str, peer: dict[str, int]) -> float:
    """Run one step on the CPU in a process of its own and return what it needed beyond the loaded model, GiB."""
    command = [sys.executable, __file__, "--peak", variant, "--mixes", mix, "--model", arguments.model]
    command += ["--precision", arguments.precision, "--peer", json.dumps(peer), "--lora-rank", str(arguments.lora_rank)]
    command += ["--chunk-tokens", str(arguments.chunk_tokens), "--queries", str(arguments.queries or 0)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def report_peak(arguments: argparse.Namespace) -> None:
    """The child of `peak_gib`."""
    encoder = load(arguments.model, arguments.lora_rank)
    plan = make_batch(arguments.mixes[0], encoder.trunk.get_input_embeddings().num_embeddings, arguments.queries)
    step = step_of(arguments.peak, encoder, plan, arguments.precision, arguments.chunk_tokens)
    if isinstance(step, Peer):
        step.best = json.loads(arguments.peer)
    before = highest_resident_gib()
    step()
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
    parser.add_argument("--lora-rank", type=int, default=0, help="train adapters of this rank only (0: all weights)")
    parser.add_argument("--chunk-tokens", type=int, default=CHUNK_TOKENS, help="tokens of a packed forward pass")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--queries", type=int, help="of a batch, in place of the mix's own number")
    parser.add_argument("--peak", choices=VARIANTS, help="only print what one step of this variant needs, GiB (CPU)")
    parser.add_argument("--peer", default="{}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.lora_rank and not arguments.peak and "sentence_transformers" in arguments.variants:
        parser.error("--lora-rank: sentence_transformers trains all weights here; name the other --variants")
    if arguments.peak:
        report_peak(arguments)
        return
    encoder = load(arguments.model, arguments.lora_rank)
    for mix in arguments.mixes:
        measure(arguments, encoder, mix)


def measure(arguments: argparse.Namespace, encoder: Encoder, mix: str) -> None:
    """Check and time one mix, and print a line for every variant."""
    plan = make_batch(mix, encoder.trunk.get_input_embeddings().num_embeddings, arguments.queries)
    low = arguments.precision == "bf16"
    on_cuda = encoder.device.type == "cuda"
    ways = {
        name: step_of(name, encoder, plan, arguments.precision, arguments.chunk_tokens) for name in arguments.variants
    }
    off = check_equal(encoder, ways, None if low else 1e-4)
    tokens = sum(len(row) for row in (*plan.query_ids, *plan.document_ids))
    peer = ways.get("sentence_transformers")
    if isinstance(peer, Peer):
        peer.tune(encoder)
    times: dict[str, list[float]] = {name: [] for name in ways}
    gemms, peaks = [], dict.fromkeys(ways, 0.0)
    for _ in range(arguments.repeats):
        gemms.append(gemm_seconds(encoder, tokens, low, arguments.chunk_tokens))
        for name, step in ways.items():
            if on_cuda:
                encoder.zero_grad(set_to_none=True)
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            seconds_of(step, encoder)  # memory is laid out as the variant before left it: the second one counts
            times[name].append(seconds_of(step, encoder))
            if on_cuda:
                peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**30
    gemm = statistics.median(gemms)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        best = peer.best if isinstance(peer, Peer) else {}
        line = {
            "model": arguments.model,
            "mix": mix,
            "variant": name,
            "real_tokens_per_second": round(tokens / seconds),
            **{f"times_{other}": round(medians[other] / seconds, 2) for other in COMPARED if other in medians},
            **({} if arguments.lora_rank else shares(encoder, plan, PASSES[name] * gemm / seconds)),
            **({"gradient_off": float(f"{off[name]:.2g}")} if low else {}),
            **utilisation(encoder, plan, name, seconds),
            "peak_gib": round(peaks[name] if on_cuda else peak_gib(arguments, mix, name, best), 3),
            "real_tokens": tokens,
            "precision": arguments.precision,
            **({"mini_batch": best} if name == "sentence_transformers" else {}),
            "device": torch.cuda.get_device_name() if on_cuda else "cpu",
        }
        print(json.dumps(line), flush=True)


def shares(encoder: Encoder, plan: GlobalBatch, gemm_share: float) -> dict[str, float]:
    """Return gemm_share and product_share (see the top)."""
    forward, _ = operations(encoder, plan)
    tokens = sum(len(row) for row in (*plan.query_ids, *plan.document_ids))
    linear = 2.0 * tokens * sum(m.weight.numel() for m in encoder.trunk.modules() if isinstance(m, torch.nn.Linear))
    return {"gemm_share": round(gemm_share, 3), "product_share": round(gemm_share * forward / linear, 3)}


def utilisation(encoder: Encoder, plan: GlobalBatch, variant: str, seconds: float) -> dict[str, float]:
    """Return mfu and hfu (see the top); nothing without a GPU whose peak is known."""
    name = torch.cuda.get_device_name() if encoder.device.type == "cuda" else ""
    peak = next((flops for known, flops in PEAK_FLOPS.items() if known in name), None)
    if peak is None:
        return {}
    forward, needed = operations(encoder, plan)
    done = needed + REPEATED_FORWARDS.get(variant, 1) * forward
    return {"mfu": round(needed / seconds / peak, 3), "hfu": round(done / seconds / peak, 3)}


if __name__ == "__main__":
    main()
