"""The ranks of a run: who this process is, the few numbers ranks exchange, and a watchdog that ends endless waiting.

Invariant: a rank that fails, dies or hangs ends the run on all ranks with a non-zero exit, and the log names rank, step
and phase. In one process everything here does nothing.
"""

import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from reasonir.core.errors import RunStopped
from reasonir.core.processes import local_rank, rank, world_size
from reasonir.train.parallel.rounds import join_round

EXIT_HUNG = 1
# Time that a rank which lost another one gives that rank's own message, so that the cause stands first in the log.
SECONDS_FOR_THE_CAUSE = 5.0
# Words in messages of torch's back ends that say another rank is gone; they raise plain RuntimeErrors.
LOST_CONTACT = ("connection closed by peer", "connection reset by peer", "broken pipe", "timed out waiting", "gloo",
                "nccl", "connection was likely closed", "failed to connect")  # fmt: skip


class Ranks:
    """All ranks of the run, as seen by this one.

    rank: 0 to world - 1. device: where this rank computes. restarted: whether torchrun started the ranks again.
    """

    def __init__(self, timeout_seconds: float) -> None:
        """Join the ranks that torchrun or accelerate launched."""
        self.rank, self.world = rank(), world_size()
        self.timeout_seconds = timeout_seconds
        self.device = _own_device()
        self.label = "start"
        self._since = math.inf
        self._closed = threading.Event()
        self._store: Any = None
        self._watchdog: threading.Thread | None = None
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        if self.world > 1:
            # Longer than the watchdog waits: the watchdog must speak first, because it knows the phase.
            limit = timedelta(seconds=2 * timeout_seconds + 60)
            store, _, _ = next(dist.rendezvous("env://", self.rank, self.world))
            self._store, number = join_round(store, self.rank, self.world, limit.total_seconds())
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            store = dist.PrefixStore("group", self._store)
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world, timeout=limit)
            # The count of this node is 0 where another node's rank has crashed; the number is 1 where rank 0 itself
            # holds the store and begins it anew.
            restarted = self.sum([number - 1 + restarted])[0] > 0
            self._watchdog = threading.Thread(target=self._watch, daemon=True, name="watchdog")
            self._watchdog.start()
        self.restarted = restarted

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def phase(self, label: str, *, limited: bool = True) -> None:
        """Say what this rank does from now on, and start the watchdog's clock; without a limit it may take any time."""
        self.label, self._since = label, time.monotonic() if limited else math.inf

    def barrier(self) -> None:
        """Wait for all ranks. Collective."""
        if self.world > 1:
            self.sum([0.0])

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers over ranks, in float64. Collective."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's object, by rank. Collective and slow: for failures and reports."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    @contextmanager
    def leader_first(self, label: str) -> Iterator[None]:
        """Let rank 0 through, then the others, so that they find its files on the disk; end when all are through.

        Collective. Without a limit of time: a rank that waits here, rank 0 too, is no hung rank, and torch's own limit
        does not count because nobody is inside a collective.
        """
        self.phase(label, limited=False)
        self._wait_until_through(label, 0 if self.leads else 1)
        yield
        if self.world > 1:
            self._store.add(f"through/{label}", 1)
        self._wait_until_through(label, self.world)

    def _wait_until_through(self, label: str, count: int) -> None:
        while self.world > 1 and self._store.add(f"through/{label}", 0) < count:
            time.sleep(0.1)

    def close(self) -> None:
        """Leave the process group and end the watchdog."""
        self.stop_watching()
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def stop_watching(self) -> None:
        """Wait for the watchdog's end: a thread inside the store would abort the process at the interpreter's end."""
        self._closed.set()
        if self._watchdog is not None:
            self._watchdog.join(SECONDS_FOR_THE_CAUSE)

    def _watch(self) -> None:
        """End this process when it stays in one phase for too long."""
        tick = min(5.0, self.timeout_seconds / 4)
        # A connection of its own: the main thread may be blocked inside the other one.
        store = self._store.clone()
        while not self._closed.wait(tick):
            store.set(f"phase/{self.rank}", self.label)
            waited = time.monotonic() - self._since
            if waited > self.timeout_seconds:
                self._closed.wait(tick)  # until the other watchdogs have written the phases of their ranks
                if self._closed.is_set() or time.monotonic() - self._since < self.timeout_seconds:
                    continue
                others = {r: _phase_of(store, r) for r in range(self.world) if r != self.rank}
                apart = [f"rank {r}: {label}" for r, label in others.items() if label != self.label]
                where = "; ".join(apart[:8]) or "all other ranks are in the same phase"
                print(
                    f"reasonir-train: error: rank {self.rank} spent {waited:.0f} s in `{self.label}`, more than "
                    f"parallel.collective_timeout_seconds={self.timeout_seconds:g} allows ({where})",
                    file=sys.stderr,
                    flush=True,
                )
                # The main thread hangs in a collective, so sys.exit would wait for it.
                os._exit(EXIT_HUNG)


def _phase_of(store: Any, other: int) -> str:
    key = f"phase/{other}"
    return store.get(key).decode() if store.check([key]) else "silent"


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed looks for one, and warns
        return torch.device("cpu")
    torch.cuda.set_device(local_rank())
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def open_ranks(timeout_seconds: float) -> Iterator[Ranks]:
    """Join the ranks. If another rank is lost, leave with one line, after that rank had time to say why."""
    ranks = Ranks(timeout_seconds)
    try:
        yield ranks
    except Exception as error:
        if ranks.world > 1 and _is_lost_contact(error):
            time.sleep(SECONDS_FOR_THE_CAUSE)
            raise RunStopped(f"lost another rank in `{ranks.label}`; the first message above it says why") from error
        raise
    except SystemExit:  # a polite stop: all ranks are here, none is lost
        ranks.close()
        raise
    finally:
        ranks.stop_watching()
    ranks.close()


def _is_lost_contact(error: BaseException) -> bool:
    known = isinstance(error, (dist.DistBackendError, dist.DistNetworkError))
    text = str(error).lower()
    return known or (isinstance(error, RuntimeError) and any(sign in text for sign in LOST_CONTACT))
