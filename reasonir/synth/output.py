"""The two files of a recipe, written in the order of its items, continued after any kill.

`data.jsonl` holds accepted rows, `rejections.jsonl` refused answers (`final` on the last one of a rejected item).
Invariant: both are append-only; every item ends exactly once, in one of them; their bytes depend on items and answers,
not on time, concurrency or interruptions. An item's refusals are written before its row.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.llm.attempts import SERVER_ERROR, Rejection
from reasonir.synth.recipes.inputs import Item
from reasonir.synth.recipes.writing import Outcome

DATA_FILE, REJECTIONS_FILE = "data.jsonl", "rejections.jsonl"
SECONDS_BETWEEN_FLUSHES = 0.2
"""Every flush costs a switch between threads, and what is lost in a kill is in the log of answers."""
DUPLICATE = Rejection("duplicate_query", "The query says the same as that of an earlier row.")


@dataclass(slots=True)
class _Line:
    row: dict[str, Any]
    end: int


class Output:
    """Writes outcomes; `seen` says whether a query came before (None where queries may repeat)."""

    def __init__(self, folder: Path, seen: Callable[[str], bool] | None) -> None:
        self._paths = (folder / DATA_FILE, folder / REJECTIONS_FILE)
        self._seen = seen
        self._held: list[tuple[Item, Outcome]] = []
        self._streams: list[Any] = []
        self._pending = (bytearray(), bytearray())
        self._last_flush = 0.0
        self.items = self.accepted = self.input_tokens = self.output_tokens = 0
        self.rejected: Counter[str] = Counter()
        self.refused_answers: Counter[str] = Counter()
        self.tallies: Counter[str] = Counter()

    def recover(self, items: Iterable[Item]) -> Iterator[Item]:
        """Go past the items that were finished before, cut off what was not, and return the rest.

        Raises:
            UserError: the files hold items that the input does not have at that place.
        """
        data, refused = (_read_lines(path) for path in self._paths)
        row, refusal = next(data, None), next(refused, None)
        ends = [0, 0]
        items = iter(items)
        rest: Iterator[Item] = iter(())
        for item in items:
            lines: list[_Line] = []
            while refusal is not None and _belongs(refusal.row, item) and not (lines and lines[-1].row["final"]):
                lines.append(refusal)
                refusal = next(refused, None)
            accepted = not (lines and lines[-1].row["final"]) and row is not None and _belongs(row.row, item)
            if not accepted and not (lines and lines[-1].row["final"]):
                rest = chain((item,), items)
                break
            if lines:
                ends[1] = lines[-1].end
            self._count([line.row for line in lines], row.row if accepted and row is not None else None)
            if accepted and row is not None:
                ends[0] = row.end
                if self._seen is not None:
                    self._seen(query_text(row.row))
                row = next(data, None)
        left = row or refusal
        if left is not None:
            raise UserError(
                f"{self._paths[0].parent} holds item {left.row['id']!r}, which the input no longer has at that place; "
                "the input changed since: name a new output_dir"
            )
        for path, end in zip(self._paths, ends, strict=True):
            stream = path.open("ab")
            stream.truncate(end)
            self._streams.append(stream)
        return rest

    def write(self, item: Item, outcome: Outcome) -> None:
        """Write the next item. Items that the server failed wait for one that it did not.

        A server that went down thus leaves no trail of rejections: its items are asked for again in the next run.
        """
        self._held.append((item, outcome))
        if outcome.refusal is None or outcome.refusal.reason != SERVER_ERROR:
            self.release()

    def release(self) -> None:
        """Write what waits."""
        for item, outcome in self._held:
            self._write(item, outcome)
        self._held.clear()

    def _write(self, item: Item, outcome: Outcome) -> None:
        row, refusal, trail = outcome.row, outcome.refusal, outcome.trail
        tokens = {"input_tokens": trail.input_tokens, "output_tokens": trail.output_tokens}
        lines = trail.refused
        if row is not None:
            row["provenance"] |= {"position": item.position, **tokens}
            if self._seen is not None and self._seen(query_text(row)):
                attempt = row["provenance"]["attempt"]
                lines = [*lines, _refusal_line(DUPLICATE, attempt, query_text(row))]
                row = None
        elif not lines or lines[-1]["reason"] != refusal.reason:  # type: ignore[union-attr]
            lines = [*lines, _refusal_line(refusal, 0, "")]  # type: ignore[arg-type]
        lines = [{"id": item.id, "position": item.position, "final": False} | line for line in lines]
        if row is None:
            lines[-1] |= {"final": True, **tokens}
        if lines:
            self._append(1, lines)
        if row is not None:
            self._append(0, [row])
        self._count(lines, row)

    def _append(self, which: int, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._pending[which].extend(text.encode("utf-8", "replace"))
        if time.monotonic() - self._last_flush > SECONDS_BETWEEN_FLUSHES:
            self._flush()

    def _flush(self) -> None:
        """Hand whole lines to the operating system, refusals before rows; a kill in between is mended by `recover`."""
        for stream, lines in reversed(list(zip(self._streams, self._pending, strict=True))):
            stream.write(lines)
            stream.flush()
            lines.clear()
        self._last_flush = time.monotonic()

    def _count(self, lines: list[dict[str, Any]], row: dict[str, Any] | None) -> None:
        self.items += 1
        self.refused_answers.update(line["reason"] for line in lines)
        if row is None:
            self.rejected[lines[-1]["reason"]] += 1
        else:
            self.accepted += 1
            self.tallies.update(row["provenance"].get("tallies", {}))
        ending = lines[-1] if row is None else row["provenance"]
        self.input_tokens += ending["input_tokens"]
        self.output_tokens += ending["output_tokens"]

    def counts(self) -> dict[str, Any]:
        """Return items in, rows out and rejections by reason, over all runs of this folder."""
        return {
            "in": self.items,
            "accepted": self.accepted,
            "rejected": dict(sorted(self.rejected.items())),
            "refused_answers": dict(sorted(self.refused_answers.items())),
            "tallies": dict(sorted(self.tallies.items())),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }

    def close(self) -> None:
        """Put both files on the disk; what waits for a server is left for the next run."""
        if self._streams:
            self._flush()
        for stream in self._streams:
            os.fsync(stream.fileno())
            stream.close()
        self._streams = []


def query_text(row: dict[str, Any]) -> str:
    """Return the text of a row's query."""
    query = row["query"]
    return query if isinstance(query, str) else str(query[1])


def place_of(row: dict[str, Any]) -> int:
    """Return the place in the input of a line of either file."""
    return int(row["position"] if "position" in row else row["provenance"]["position"])


def _belongs(row: dict[str, Any], item: Item) -> bool:
    return bool(row["id"] == item.id and place_of(row) == item.position)


def _refusal_line(refusal: Rejection, attempt: int, text: str) -> dict[str, Any]:
    return {"reason": refusal.reason, "detail": refusal.detail, "stage": "row", "attempt": attempt, "text": text}


def _read_lines(path: Path) -> Iterator[_Line]:
    """Yield the whole lines of an output file; a torn last one is left out."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            end += len(raw)
            if not raw.endswith(b"\n"):
                return
            try:
                row = json.loads(raw)
                place_of(row)
                yield _Line(row, end)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}:{number}: not a line that this command wrote ({error}); remove it") from error
