"""The two output files of a recipe, in the order of its items, continued after any kill.

`data.jsonl` has the accepted rows, `rejections.jsonl` the rejected answers; `final` marks the last one of a rejected
item. An item's rejected answers are written before its row. An item that the server did not answer ends in neither
file; its last line says so, and the next run cuts both files there and goes on from the kept answers.
Invariant: every item of a finished run ends exactly once, in one of the files. Their bytes depend on items and answers,
not on time, concurrency or interruptions.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import naming
from reasonir.data.training_rows import query_text
from reasonir.llm.attempts import UNANSWERED, Trail
from reasonir.synth.config import DATA_FILE, REJECTIONS_FILE
from reasonir.synth.recipes.inputs import Item
from reasonir.synth.recipes.writing import DUPLICATE, Outcome

# Each flush costs a switch between threads. Rows that a kill loses are made again from completions.jsonl.
SECONDS_BETWEEN_FLUSHES = 0.2


@dataclass(slots=True)
class _Line:
    """A line of a file, and the byte behind it."""

    row: dict[str, Any]
    end: int

    @property
    def final(self) -> bool:
        return bool(self.row["final"])


class Output:
    """Writes outcomes and counts them."""

    def __init__(self, folder: Path, seen: Callable[[str], bool] | None) -> None:
        """Prepare the files of a folder; `recover` opens them.

        Args:
            folder: The run's folder.
            seen: Remembers a query and returns whether it was known; None lets queries repeat.
        """
        self._paths = (folder / DATA_FILE, folder / REJECTIONS_FILE)
        self._seen = seen
        self._held: list[tuple[Item, Outcome]] = []
        self._streams: list[Any] = []
        # For each file: its bytes on disk, and the lines that wait.
        self._pending = [(0, bytearray()), (0, bytearray())]
        self._last_flush = 0.0
        self.items = self.accepted = self.input_tokens = self.output_tokens = 0
        self.rejected: Counter[str] = Counter()
        self.rejected_answers: Counter[str] = Counter()
        self.tallies: Counter[str] = Counter()

    def recover(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass over the finished items, cut the lines of an unfinished one off, and return the remaining items.

        Raises:
            UserError: The files contain items that the input does not have at their place.
        """
        # Read side by side with the items, line by line, because a folder may hold millions of rows.
        data, rejections = (_read_lines(path) for path in self._paths)
        row, rejection = next(data, None), next(rejections, None)
        ends = [0, 0]
        items = iter(items)
        rest: Iterator[Item] = iter(())
        unfinished: Item | None = None
        for item in items:
            # 1 the item's lines: rejected answers up to the final one, or a row
            lines: list[_Line] = []
            while rejection is not None and _belongs(rejection.row, item) and not (lines and lines[-1].final):
                lines.append(rejection)
                rejection = next(rejections, None)
            accepted = None
            if not (lines and lines[-1].final):
                if row is None or not _belongs(row.row, item):
                    unfinished, rest = item, chain((item,), items)
                    break
                accepted, row = row, next(data, None)
            # 2 both files are kept up to the last finished item
            if lines:
                ends[1] = lines[-1].end
            self._count([line.row for line in lines], None if accepted is None else accepted.row)
            if accepted is not None:
                ends[0] = accepted.end
                # Queries of earlier runs reject their repeats in this one.
                if self._seen is not None:
                    self._seen(query_text(accepted.row))
        # 3 what no item of the input took
        if unfinished is not None and lines and lines[-1].row["reason"] == UNANSWERED:
            # The run went on behind an item that the server did not answer; the kept answers make those rows again.
            row = rejection = None
        if unfinished is not None and rejection is not None and position_of(rejection.row) > unfinished.position:
            # Rejections reach the disk before rows (`_flush`). After a kill in between, those of later items stand
            # there alone; they are cut off with the lines of the unfinished item, and the answers are kept elsewhere.
            rejection = None
        left = row or rejection
        if left is not None:
            raise UserError(
                f"{self._paths[0].parent} holds item {left.row['id']!r}, which the input no longer has at that place; "
                "the input changed since: name a new output_dir"
            )
        self._open(ends)
        return rest

    def _open(self, ends: list[int]) -> None:
        """Open both files to be written from these bytes on, which cuts off what stands behind them."""
        for which, (path, end) in enumerate(zip(self._paths, ends, strict=True)):
            path.touch()
            stream = path.open("r+b")
            stream.truncate(end)
            self._streams.append(stream)
            self._pending[which] = (end, bytearray())

    def write(self, item: Item, outcome: Outcome) -> None:
        """Write the next item, or hold it back if the server did not answer.

        Such items wait for the next one that was answered: a server that went down leaves no trail behind.
        """
        if outcome.rejection is not None and outcome.rejection.reason == UNANSWERED:
            self._held.append((item, outcome))
            return
        for held, unanswered in self._held:
            self._append(1, self._rejected(held, unanswered.trail))
        self._held.clear()
        self._write(item, outcome)

    def _rejected(self, item: Item, trail: Trail) -> list[dict[str, Any]]:
        return [{"id": item.id, "position": item.position, "final": False} | line for line in trail.rejected]

    def _write(self, item: Item, outcome: Outcome) -> None:
        row, trail = outcome.row, outcome.trail
        tokens = {"input_tokens": trail.input_tokens, "output_tokens": trail.output_tokens}
        # 1 a repeated query rejects its row; a rejection without an answer, such as an empty document, gets a line too
        if row is not None:
            row["provenance"] |= {"position": item.position, **tokens}
            if self._seen is not None and self._seen(query_text(row)):
                trail.reject(DUPLICATE, "row", row["provenance"]["attempt"], query_text(row))
                row = None
        else:
            assert outcome.rejection is not None, "an outcome has a row or a rejection"
            if not trail.rejected or trail.rejected[-1]["reason"] != outcome.rejection.reason:
                trail.reject(outcome.rejection, "row", 0, "")
        # 2 rejected answers before the row, see `recover`
        lines = self._rejected(item, trail)
        if row is None:
            lines[-1] |= {"final": True, **tokens}
        if lines:
            self._append(1, lines)
        if row is not None:
            self._append(0, [row])
        self._count(lines, row)

    def _append(self, which: int, rows: list[dict[str, Any]]) -> None:
        # A model may write half a surrogate pair, which UTF-8 cannot express: it becomes a question mark.
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._pending[which][1].extend(text.encode("utf-8", "replace"))
        if time.monotonic() - self._last_flush > SECONDS_BETWEEN_FLUSHES:
            self._flush()

    def _flush(self) -> None:
        """Hand whole lines to the operating system, rejected answers first; `recover` mends a kill in between."""
        for which in (1, 0):
            stream, (start, lines) = self._streams[which], self._pending[which]
            path = self._paths[which]
            # Ctrl-C may come at any point here, and `close` flushes again: the lines are then written to the same place
            # once more. One assignment ends that, because between two of them a signal could come as well.
            with naming(path):
                stream.seek(start)
                stream.write(lines)
                stream.flush()
            self._pending[which] = (start + len(lines), bytearray())
        self._last_flush = time.monotonic()

    def _count(self, lines: list[dict[str, Any]], row: dict[str, Any] | None) -> None:
        self.items += 1
        self.rejected_answers.update(line["reason"] for line in lines)
        if row is None:
            self.rejected[lines[-1]["reason"]] += 1
        else:
            self.accepted += 1
            self.tallies.update(row["provenance"].get("tallies", {}))
        ending = lines[-1] if row is None else row["provenance"]
        self.input_tokens += ending["input_tokens"]
        self.output_tokens += ending["output_tokens"]

    def counts(self) -> dict[str, Any]:
        """Return the numbers of items, rows and rejections by reason, over all runs of this folder."""
        return {
            "in": self.items,
            "accepted": self.accepted,
            "rejected": dict(sorted(self.rejected.items())),
            "refused_answers": dict(sorted(self.rejected_answers.items())),
            "tallies": dict(sorted(self.tallies.items())),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }

    def close(self) -> None:
        """Wait until the disk has both files."""
        try:
            if self._streams:
                self._flush()
            for stream in self._streams:
                # The manifest follows; after a power cut it must not stand beside lost rows.
                os.fsync(stream.fileno())
        finally:
            # A full disk refuses what a stream still holds once more.
            for stream in self._streams:
                with suppress(OSError):
                    stream.close()
            self._streams = []


def position_of(row: dict[str, Any]) -> int:
    """Return the item's place in the input from a line of either file."""
    # A row has its place in the provenance, because its own fields are those that training reads.
    return int(row["position"] if "position" in row else row["provenance"]["position"])


def _belongs(row: dict[str, Any], item: Item) -> bool:
    return bool(row["id"] == item.id and position_of(row) == item.position)


def _read_lines(path: Path) -> Iterator[_Line]:
    """Yield the whole lines of an output file; a torn last line is left out."""
    if not path.exists():
        return
    end = 0
    # Bytes, because `recover` cuts the file at a byte.
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            end += len(raw)
            if not raw.endswith(b"\n"):
                return
            try:
                row = json.loads(raw)
                position_of(row)
                yield _Line(row, end)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}:{number}: not a line that this command wrote ({error}); remove it") from error
