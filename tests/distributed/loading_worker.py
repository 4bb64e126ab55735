"""One rank that loads a model for an engine in shards and then whole; writes what each took and gave.

Run by test_loading.py: python -m tests.distributed.loading_worker MODEL ENGINE OUT
"""

import gc
import hashlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from reasonir.model import Encoder
from reasonir.train.optim import build_adamw
from reasonir.train.parallel import engine as engines
from reasonir.train.parallel.ranks import Ranks, open_ranks
from tests.distributed.parity_worker import deepspeed_json

READS = {"fsdp2": "_read_own_rows", "zero3": "_partition_as_read"}


def own_bytes() -> int:
    """Return the memory of this process that is backed by no file and not shared with whom it was forked from."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    # What a fork has not written to is anonymous and shared; what it has written to is private and dirty.
    return kib["Private_Dirty"] * 1024


class Peak:
    """The most memory of its own that this process took, MiB beyond what it had, sampled in a thread.

    Pages of the checkpoint's file do not count: the kernel gives them up where memory is short.
    """

    def __init__(self) -> None:
        """Start."""
        # A collection writes into every object: the pages of a forked process become its own, now and not meanwhile.
        gc.collect()
        self._done = threading.Event()
        self._before = self.most = own_bytes()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.most = max(self.most, own_bytes())

    def stop(self) -> float:
        """Return the peak."""
        self._done.set()
        self._thread.join()
        return (max(self.most, own_bytes()) - self._before) / 2**20


def digest(engine: engines.Engine) -> str:
    """Return a hash over the numbers that this rank holds."""
    found = hashlib.sha256()
    for piece in engine.pieces(share=True):
        numbers = engines.local(piece.holder).detach().view(-1)[piece.offset : piece.offset + piece.count]
        found.update(f"{piece.name}|{piece.start}|".encode() + numpy_bytes(numbers))
    return found.hexdigest()


def numpy_bytes(numbers: torch.Tensor) -> bytes:
    """Return the bytes of a tensor."""
    return bytes(numbers.contiguous().cpu().numpy().tobytes())


def load(path: str, name: str, ranks: Ranks, in_shards: bool) -> dict[str, Any]:
    """Load, open the engine, and say what it took until all weights were there, MiB."""
    peak = Peak()
    encoder = Encoder.from_pretrained(path, dtype=torch.float32, device="cpu", in_shards=in_shards).train()
    assert in_shards == (encoder.stored is not None)
    ranks.barrier()
    read, taken = getattr(engines, READS[name]), []

    def reading(*args: Any) -> None:
        read(*args)
        taken.append(peak.stop())

    setattr(engines, READS[name], reading)
    json_options = deepspeed_json(name)
    json_options.get("zero_optimization", {})["reduce_bucket_size"] = 1_000_000
    engine = engines.open_engine(name, encoder, lambda e: build_adamw(e, 1e-4, 1e-4, 0.0), ranks,
                                 max_gradient_norm=1.0, deepspeed=json_options)  # fmt: skip
    setattr(engines, READS[name], read)
    return {"mib": taken[0], "digest": digest(engine)}


def main(path: str, name: str, out: str) -> None:
    """Load both ways and write the figures of every rank."""
    with open_ranks(600.0) as ranks:
        if name == "zero3":
            engines._import_deepspeed(ranks.device)
        sizes = [
            p.numel() * 4 / 2**20 for p in Encoder.from_pretrained(path, device="cpu", in_shards=True).parameters()
        ]
        ranks.barrier()
        found = {how: ranks.gather(load(path, name, ranks, how == "shards")) for how in ("shards", "whole")}
        if ranks.leads:
            figures = {"model_mib": sum(sizes), "largest_mib": max(sizes), **found}
            Path(out).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
