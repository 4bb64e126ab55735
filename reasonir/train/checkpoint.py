"""Training checkpoints: everything a run needs to go on as if it had never stopped, on any engine and world size.

`checkpoints/step_<n>/` holds one `rank_<r>.safetensors` a rank: runs of numbers of the flattened weights and of AdamW's
moments, under keys `<kind>|<weight>|<start>`. Every number is in exactly one file, so any set of ranks can put together
what it needs.

Invariants: `step_<n>` is complete or absent. All ranks write into a folder of another name, which rank 0 renames once
all files are there. Training does not wait for the disk: numbers are copied, then a thread writes them. Randomness is
not stored, because each step seeds its own from (seed, step, rank).
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reasonir.core.errors import RunStopped, UserError, describe_os_error
from reasonir.core.files import file_sha256, flush_to_disk, read_mapping, whole_path, write_json
from reasonir.core.stamp import read_stamp, unchanged, write_stamp
from reasonir.train.dev.record import DevRecord
from reasonir.train.optim import moments_of, prepare_state, scales_of
from reasonir.train.parallel.engine import BLOCK, Engine, Piece, local
from reasonir.train.parallel.ranks import Ranks

STATE_FILE = "state.json"
WEIGHT = "weight"
# Pause of rank 0 between two looks for the other ranks' files; a shared file system must not be polled faster.
SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Position of a run.

    step: batches done. precision: as `auto` chose at the start. tokens: of all ranks. skipped_steps: batches whose
    gradient was not applied, because it was not finite. planned_steps: length of the run where its rates depend on
    that. dev: what was measured on dev sets; None where nothing was.
    """

    step: int
    precision: str
    tokens: int
    data_fingerprint: str
    skipped_steps: int = 0
    planned_steps: int | None = None
    dev: DevRecord | None = None

    @property
    def updates(self) -> int:
        """Steps that the optimizer made."""
        return self.step - self.skipped_steps

    def as_fields(self) -> dict[str, Any]:
        """Return what `state.json` holds of it; `CheckpointReader` reads it back."""
        # A run without a dev set leaves the file that it always left.
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def counts(self) -> dict[str, int]:
        """What stands in the manifest."""
        return {"steps": self.step, "tokens": self.tokens, "skipped_steps": self.skipped_steps}

    def after(self, step: int, tokens: int, *, skipped: bool) -> "TrainingState":
        """Return the position after one more batch.

        Args:
            step: Its number, counted from 1.
            tokens: Of the batch.
            skipped: Whether its gradient was thrown away.
        """
        return replace(self, step=step, tokens=self.tokens + tokens, skipped_steps=self.skipped_steps + int(skipped))


class CheckpointWriter:
    """Writes checkpoints in a thread, one at a time, and keeps the newest few, and the best one if asked."""

    def __init__(self, folder: Path, ranks: Ranks, keep: int, keep_best: bool = False) -> None:
        """Set up for a run.

        Args:
            folder: Where checkpoints go; all ranks see it.
            ranks: All ranks of the run.
            keep: Number of newest checkpoints that rank 0 leaves there.
            keep_best: Whether it leaves the best one of the state's dev record too.
        """
        self.folder, self.ranks, self.keep, self.keep_best = folder, ranks, keep, keep_best
        self.saved_step = 0
        self.saved_at = time.monotonic()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, engine: Engine, state: TrainingState) -> None:
        """Copy this rank's numbers and let a thread write them. Waits for the checkpoint before it."""
        self.wait()
        self.saved_step, self.saved_at = state.step, time.monotonic()
        # Copied before the thread starts, because the next step changes the weights.
        numbers = dict(_snapshot(engine))
        self._thread = threading.Thread(target=self._write, args=(numbers, state), daemon=True, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return once this rank's part of the last checkpoint is on disk (on rank 0: all of it).

        Raises:
            RunStopped: it could not be written; older checkpoints are whole.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise the error that the thread met, if any."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            why = describe_os_error(failure) if isinstance(failure, OSError) else failure
            raise RunStopped(
                f"the checkpoint in {self.folder} could not be written: {why}; the ones before it are whole, "
                "resume=true continues from the newest"
            ) from failure

    def _write(self, numbers: dict[str, torch.Tensor], state: TrainingState) -> None:
        scratch = self.folder / f".step_{state.step}.partial"
        try:
            scratch.mkdir(parents=True, exist_ok=True)
            file = scratch / _rank_file(self.ranks.rank)
            _write_numbers(file, numbers)
            write_json(scratch / _note_of(file.name), {"sha256": file_sha256(file)})
            if self.ranks.leads:
                self._commit(scratch, state)
        except BaseException as error:  # raised on the main thread by `check`
            self._failure = error
            # Room for others on a full disk. Beside other ranks the next start removes the folder: they may write yet.
            if self.ranks.world == 1:
                shutil.rmtree(scratch, ignore_errors=True)

    def _commit(self, scratch: Path, state: TrainingState) -> None:
        deadline = time.monotonic() + self.ranks.timeout_seconds
        names = [_rank_file(rank) for rank in range(self.ranks.world)]
        while not all((scratch / _note_of(name)).is_file() for name in names):
            if time.monotonic() > deadline:
                raise RunStopped(f"not all ranks wrote to {scratch} within {self.ranks.timeout_seconds:g} s")
            time.sleep(SECONDS_BETWEEN_LOOKS)
        # Collected from the ranks: each has hashed its own file while the system still held it in memory.
        files = {name: read_mapping(scratch / _note_of(name))["sha256"] for name in names}
        for name in names:
            (scratch / _note_of(name)).unlink()
        write_stamp(scratch / STATE_FILE, **state.as_fields(), ranks=self.ranks.world, files=files)
        flush_to_disk(scratch)
        target = self.folder / f"step_{state.step}"
        # os.replace puts no folder in the place of one that holds files.
        shutil.rmtree(target, ignore_errors=True)
        os.replace(scratch, target)
        # A power cut after the rename must not lose the name.
        flush_to_disk(self.folder)
        best = state.dev.best_step if self.keep_best and state.dev is not None else state.step
        for step, path in list_checkpoints(self.folder)[: -self.keep]:
            # The one just written stays, even where folders of later steps lie beside it.
            if step not in (state.step, best):
                shutil.rmtree(path)


def _rank_file(rank: int) -> str:
    return f"rank_{rank:05d}.safetensors"


def _note_of(name: str) -> str:
    """Return the file in which a rank tells rank 0 the checksum of its numbers, once they are on the disk."""
    return f".{name}.json"


def _snapshot(engine: Engine) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield copies, on the CPU, of this rank's share of the weights and of the optimizer's moments."""
    for piece in engine.pieces(share=True):
        state = engine.states.get(piece.holder) or {}
        for kind, tensor in ({WEIGHT: piece.holder} | moments_of(state)).items():
            numbers = _numbers_of(piece, tensor).detach()
            yield f"{kind}|{piece.name}|{piece.start}", numbers.to("cpu", copy=True)
        for kind, scales in scales_of(state).items():
            kind, first, own = _blocks_of(piece, kind)
            yield f"{kind}|{piece.name}|{first}", scales[own].to("cpu", copy=True)


def _numbers_of(piece: Piece, tensor: torch.Tensor) -> torch.Tensor:
    return local(tensor).view(-1)[piece.offset : piece.offset + piece.count]


def _blocks_of(piece: Piece, kind: str) -> tuple[str, int, slice]:
    """Return the name of a piece's scales, the number of its first block, and its blocks among the holder's.

    Where the holder is a partition of many weights, blocks begin anywhere in a weight. The name then says where, and
    only the same blocks are read again.
    """
    first, stop = piece.offset // BLOCK, -(-(piece.offset + piece.count) // BLOCK)
    if piece.start == piece.offset:
        return kind, first, slice(first, stop)
    return f"{kind}@{piece.start}+{piece.count}-{piece.offset % BLOCK}", 0, slice(first, stop)


def _write_numbers(path: Path, numbers: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    with whole_path(path, durable=True) as scratch:
        save_file(numbers, scratch)


class CheckpointReader:
    """Numbers of one checkpoint by weight and range, from whichever ranks wrote them."""

    def __init__(self, path: Path) -> None:
        """Read the tables of contents of all files of a complete checkpoint."""
        self.path = path
        try:
            fields = _stamp_of(path)
            self.checksums: dict[str, str] = fields.pop("files", {})
            ranks, dev = fields.pop("ranks"), fields.pop("dev", None)
            self.state = TrainingState(**fields, dev=None if dev is None else DevRecord(**dev))
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path / STATE_FILE} is damaged ({error}); remove {path} to go back one checkpoint"
            ) from error
        self._open = ExitStack()
        self._runs: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        files = sorted(path.glob("rank_*.safetensors"))
        if len(files) != ranks:
            raise UserError(f"{path} has {len(files)} rank files and was written by {ranks} ranks; remove this folder")
        for file in files:
            self._read_contents(file)

    def _read_contents(self, file: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            opened = self._open.enter_context(safe_open(file, framework="pt"))
            for key in opened.keys():  # noqa: SIM118 (not a mapping)
                kind, name, start = key.split("|")
                count = opened.get_slice(key).get_shape()[0]
                self._runs.setdefault((kind, name), []).append((int(start), count, opened, key))
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); remove {self.path} to go back one checkpoint") from error

    def is_whole(self) -> bool:
        """Return whether the files are as they were written; reading takes about a second a gigabyte."""
        # Side by side: hashing lets other threads work. Checkpoints of older versions carry no checksums.
        with ThreadPoolExecutor() as pool:
            return all(pool.map(lambda file: unchanged(self.path, dict([file])), self.checksums.items()))

    def names(self) -> set[str]:
        """Return the weights that the checkpoint holds."""
        return {name for kind, name in self._runs if kind == WEIGHT}

    def holds(self, kind: str, name: str) -> bool:
        """Return whether there is anything of this kind for a weight."""
        return (kind, name) in self._runs

    def require_no_moments(self, name: str) -> None:
        """Refuse moments of a weight that are held otherwise than this run holds them: AdamW's in 8 bits are."""
        if any(found == name and kind != WEIGHT for kind, found in self._runs):
            raise UserError(
                f"{self.path} holds the 8-bit moments of {name} in other blocks; continue adamw_8bit with the engine "
                "(parallel) and the number of ranks that wrote it"
            )

    def count(self, name: str) -> int:
        """Return how many numbers of a weight there are."""
        return sum(count for _, count, _, _ in self._runs[WEIGHT, name])

    def read(self, kind: str, name: str, start: int, count: int, into: torch.Tensor) -> None:
        """Copy numbers [start, start + count) of a flattened weight, or of one of its moments, into a flat tensor.

        Args:
            kind: "weight", or the name of a moment or of its scales.
            name: Of the weight.
            start: Place of the first number.
            count: How many numbers.
            into: Tensor of that many numbers.
        Raises:
            UserError: The checkpoint does not hold all of them.
        """
        found = 0
        for first, length, opened, key in self._runs.get((kind, name), []):
            begin, end = max(first, start), min(first + length, start + count)
            if begin < end:
                into[begin - start : end - start].copy_(opened.get_slice(key)[begin - first : end - first])
                found += end - begin
        if found != count:
            raise UserError(f"{self.path} lacks numbers of {name} ({kind}); it belongs to another model")

    def close(self) -> None:
        """Close the files."""
        self._open.close()


def load_weights(reader: CheckpointReader, module: torch.nn.Module) -> None:
    """Put a checkpoint's weights into the trainable parameters of a module; those of a sharded engine come later.

    Raises:
        UserError: The checkpoint belongs to another model.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if reader.names() != parameters.keys():
        odd = sorted(reader.names() ^ parameters.keys())[0]
        raise UserError(f"{reader.path} does not fit this model: {odd} stands in one of them only")
    for name, p in parameters.items():
        if reader.count(name) != p.numel():
            raise UserError(f"{reader.path} does not fit this model: {name} has {reader.count(name)} numbers there")
        if p.is_meta:
            continue  # `load_optimizer` reads each rank's shard
        numbers = torch.empty(p.numel(), dtype=p.dtype)
        reader.read(WEIGHT, name, 0, p.numel(), numbers)
        with torch.no_grad():
            p.copy_(numbers.view_as(p))


def load_optimizer(reader: CheckpointReader, engine: Engine) -> None:
    """Put a checkpoint's exact weights and AdamW moments where this rank's engine keeps them."""
    for piece in engine.pieces(share=False):
        state = prepare_state(engine.optimizer, piece.holder, reader.state.updates)
        places = [(WEIGHT, piece.start, _numbers_of(piece, piece.holder))]
        places += [(kind, piece.start, _numbers_of(piece, tensor)) for kind, tensor in moments_of(state).items()]
        for kind, scales in scales_of(state).items():
            kind, first, own = _blocks_of(piece, kind)
            places.append((kind, first, scales[own]))
        for kind, first, place in places:
            if not reader.holds(kind, piece.name):
                reader.require_no_moments(piece.name)
                continue  # a weight that never had a gradient has no moments
            numbers = torch.empty(len(place), dtype=place.dtype)
            reader.read(kind, piece.name, first, len(place), numbers)
            with torch.no_grad():
                place.copy_(numbers)
    engine.take_over_pieces()


def _stamp_of(path: Path) -> dict[str, Any]:
    """Return what `state.json` holds.

    Raises:
        UserError: it is damaged.
    """
    stamp = read_stamp(path / STATE_FILE)
    if stamp is None:
        raise UserError(f"{path / STATE_FILE} is damaged; remove {path} to go back one checkpoint")
    return stamp


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of the complete checkpoints, oldest first."""
    found = []
    for path in folder.glob("step_*"):
        number = path.name.removeprefix("step_")
        if number.isdigit() and (path / STATE_FILE).is_file():
            found.append((int(number), path))
    return sorted(found)


def set_damaged_aside(folder: Path) -> None:
    """Take the damaged ones of the newest checkpoints out of the way, with a line each; rank 0 alone does."""
    for _, path in reversed(list_checkpoints(folder)):
        try:
            reader = CheckpointReader(path)
            whole = reader.is_whole()
            reader.close()
        except UserError:
            whole = False
        if whole:
            return
        aside = path.with_name(f"damaged_{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
        print(f"{path} is damaged: it is set aside as {aside.name}, and the one before it is taken", file=sys.stderr)


def open_newest(folder: Path, data_fingerprint: str) -> CheckpointReader | None:
    """Open the newest complete checkpoint, if there is one.

    Raises:
        UserError: It was written from other data.
    """
    found = list_checkpoints(folder)
    if not found:
        return None
    reader = CheckpointReader(found[-1][1])
    if reader.state.data_fingerprint != data_fingerprint:
        raise UserError(f"{reader.path} was written from other training data; start a new output_dir")
    return reader


def load_weights_of(folder: Path, step: int, module: torch.nn.Module) -> TrainingState:
    """Put the weights after a step into the trainable parameters of a whole module; return the state of then.

    Args:
        folder: Of the checkpoints.
        step: Of the checkpoint.
        module: The module.
    Raises:
        UserError: There is no such checkpoint.
    """
    path = folder / f"step_{step}"
    if not (path / STATE_FILE).is_file():
        raise UserError(f"{path} is missing, it held the best step; dev.keep=last with resume=true exports the last")
    reader = CheckpointReader(path)
    if not reader.is_whole():
        raise UserError(f"{path} is damaged, it held the best step; dev.keep=last with resume=true exports the last")
    load_weights(reader, module)
    reader.close()
    return reader.state


def remove_partial(folder: Path) -> None:
    """Delete checkpoints that a killed process left half-written."""
    for path in folder.glob(".step_*.partial"):
        shutil.rmtree(path)
