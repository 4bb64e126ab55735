"""The log of paid answers: one JSON line each, written before anyone sees the answer, never written twice.

Invariant: an answer that was paid for and reached this process is found again under its request's key, after SIGKILL
too. Memory holds a key and a place in the file per answer; texts stay on disk.
"""

import json
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.errors import RunStopped, UserError
from reasonir.core.files import lock_or_refuse, naming
from reasonir.core.stamp import checked, is_sound
from reasonir.llm.records import Completion, Request


class CompletionLog:
    """`completions.jsonl`; one process at a time may hold it."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, cut off a torn last line, note where each answer lies.

        Raises:
            UserError: another process holds the file, or a line before the last is damaged.
        """
        self.path = path
        self.input_tokens = self.output_tokens = 0
        self._places: dict[bytes, int] = {}
        # Two threads share the file's position: the caller's finds answers, the event loop's appends them.
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a+b")
        try:
            lock_or_refuse(self._stream, f"{path}: another run writes here; wait for it, or name another output_dir")
            self._end = self._read_back()
        except BaseException:
            self._stream.close()
            raise

    def _read_back(self) -> int:
        self._stream.seek(0)
        place, broken = 0, ""
        for number, line in enumerate(self._stream, start=1):
            if broken:
                raise UserError(f"{self.path}:{number - 1}: {broken}; remove the line")
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("no end of line")
                row = json.loads(line)
                if not is_sound(row):
                    raise ValueError("it is not as it was written")
                self._note(row["key"], place, int(row["input_tokens"]), int(row["output_tokens"]))
                place += len(line)
            except (ValueError, KeyError, TypeError) as error:
                broken = f"damaged line: {type(error).__name__}: {error}"
        # Only the last line may be torn, by a kill or a full disk: its answer is asked for again.
        if broken:
            self._stream.truncate(place)
        return place

    def _note(self, key: str, place: int, input_tokens: int, output_tokens: int) -> None:
        self._places[bytes.fromhex(key)] = place
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def find(self, key: str, request_id: str) -> Completion | None:
        """Return the paid answer of a key under the name that the caller gives it; None where there is none."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        with self._lock:
            self._stream.seek(place)
            row = json.loads(self._stream.readline())
        logprobs = tuple(tuple((token, value) for token, value in top) for top in row.get("logprobs", ()))
        return Completion(
            id=request_id,
            text=row["text"],
            finish=row["finish"],
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            cached=True,
            logprobs=logprobs,
        )

    def append(self, key: str, model: str, completion: Completion, seconds: float) -> None:
        """Write one paid answer through to the operating system.

        Args:
            key: Of its request.
            model: That answered.
            completion: The answer.
            seconds: Time that the request took, queueing included.
        """
        row: dict[str, Any] = {"key": key, "model": model, "text": completion.text, "finish": completion.finish,
               "input_tokens": completion.input_tokens, "output_tokens": completion.output_tokens,
               "seconds": round(seconds, 3)}  # fmt: skip
        if completion.logprobs:
            row["logprobs"] = completion.logprobs
        # ASCII, because an answer may hold half of a surrogate pair, which UTF-8 cannot write.
        line = json.dumps(checked(row)).encode("ascii") + b"\n"
        with self._lock, naming(self.path):
            self._stream.write(line)
            self._stream.flush()
            self._note(key, self._end, completion.input_tokens, completion.output_tokens)
            self._end += len(line)

    def close(self) -> None:
        """Close the file; another run may open it."""
        self._stream.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What an output folder may spend over all its runs; None is no limit."""

    max_total_tokens: int | None = None
    max_cost: float | None = None
    cost_per_million_input_tokens: float | None = None
    cost_per_million_output_tokens: float | None = None

    def cost(self, log: CompletionLog) -> float | None:
        """Return the price of all answers in the log; None without prices."""
        read, write = self.cost_per_million_input_tokens, self.cost_per_million_output_tokens
        if read is None or write is None:
            return None
        return (read * log.input_tokens + write * log.output_tokens) / 1e6

    def exhausted(self, log: CompletionLog) -> str:
        """Return what was spent where it reaches the limit, else ""."""
        tokens, cost = log.input_tokens + log.output_tokens, self.cost(log)
        spent = f"{len(log)} answers, {log.input_tokens} tokens read, {log.output_tokens} written"
        spent += f", cost {cost:.4f}" if cost is not None else ""
        if self.max_total_tokens is not None and tokens >= self.max_total_tokens:
            return f"generator.max_total_tokens={self.max_total_tokens} is spent ({spent})"
        if self.max_cost is not None and cost is not None and cost >= self.max_cost:
            return f"generator.max_cost={self.max_cost} is spent ({spent})"
        return ""


def look_up(
    requests: Iterable[Request | None], key_of: Callable[[Request], str], log: CompletionLog, budget: Budget
) -> Generator[Completion | tuple[str, Request] | None, None, str]:
    """Yield for each request its paid answer, or its key and itself where it must be paid for; None as it comes.

    Args:
        requests: As `Generator.complete` takes them.
        key_of: Returns the key of a request.
        log: The paid answers.
        budget: Ends the requests where it is spent.
    Returns:
        What was spent, "" where the requests ended by themselves.
    """
    for request in requests:
        if request is None:
            yield None
            continue
        key = key_of(request)
        known = log.find(key, request.id)
        # A paid answer is handed over even where the budget is spent.
        if known is None and (spent := budget.exhausted(log)):
            return spent
        yield known or (key, request)
    return ""


def stop_for(spent: str) -> RunStopped:
    """Return the error that ends a run whose budget is spent."""
    return RunStopped(f"{spent}; raise the limit and run the same command to go on")
