"""Many queries on one language model: their coroutines take turns.

Invariant: another query is begun only when the model asks for more than those begun have to ask, so that as many are
open as its concurrency needs, however many there are.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from reasonir.eval.rerank.methods import Reranked, Steps
from reasonir.llm import Completion, Generator, Request


@dataclass(slots=True)
class _Open:
    """A query in work. left: answers still out of its last questions."""

    name: str
    steps: Steps
    answers: list[Completion | None] = field(default_factory=list)
    left: int = 0


class _Turns:
    """The questions that are next, where their answers belong, and the queries that ended."""

    def __init__(self, works: Iterable[tuple[str, Steps]]) -> None:
        self.finished: deque[tuple[str, Reranked]] = deque()
        self._source, self._numbers = iter(works), count()
        self._to_ask: deque[Request] = deque()
        self._places: dict[str, tuple[_Open, int]] = {}

    def requests(self) -> Iterator[Request | None]:
        """Yield questions, None where what is asked next depends on an answer that is still out."""
        while True:
            while not self._to_ask and (following := next(self._source, None)) is not None:
                self._advance(_Open(*following))
            if self._to_ask:
                yield self._to_ask.popleft()
            elif self._places:
                yield None
            else:
                return

    def take(self, answer: Completion) -> None:
        """Hand an answer to the query that asked; the last of its questions lets it go on."""
        work, place = self._places.pop(answer.id)
        work.answers[place] = answer
        work.left -= 1
        if work.left == 0:
            self._advance(work)

    def _advance(self, work: _Open) -> None:
        try:
            batch = work.steps.send(work.answers or None)  # type: ignore[arg-type]
        except StopIteration as end:
            self.finished.append((work.name, end.value))
            return
        work.answers, work.left = [None] * len(batch), len(batch)
        for place, request in enumerate(batch):
            named = replace(request, id=str(next(self._numbers)))
            self._places[named.id] = (work, place)
            self._to_ask.append(named)


def interleave(
    works: Iterable[tuple[str, Steps]], model: Generator, on_answer: Callable[[], None] = lambda: None
) -> Iterator[tuple[str, Reranked]]:
    """Run the coroutines side by side and yield each one's name and result as it ends; each must ask in every step."""
    turns = _Turns(works)
    for answer in model.complete(turns.requests()):
        turns.take(answer)
        on_answer()
        while turns.finished:
            yield turns.finished.popleft()
    yield from turns.finished
