"""Many items at once, their outcomes in order: a bounded window between the input and the output.

Invariant: outcomes are handed on in the order of the items, whatever the order of the answers; at most `window` items
lie between the first unfinished one and the last begun, so memory does not grow with the input. One thread.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from reasonir.llm.records import Completion, Request
from reasonir.llm.records import Generator as LanguageModel

ItemType = TypeVar("ItemType")
OutcomeType = TypeVar("OutcomeType")


@dataclass(slots=True)
class _Open(Generic[ItemType, OutcomeType]):
    """An item that was begun and not yet handed on."""

    item: ItemType
    steps: Generator[Request, Completion, OutcomeType]
    requests: int = 0
    outcome: OutcomeType | None = None


class Weave(Generic[ItemType, OutcomeType]):
    """Drives one coroutine an item over a generator, and hands the outcomes on in order."""

    def __init__(
        self,
        items: Iterable[ItemType],
        steps: Callable[[ItemType], Generator[Request, Completion, OutcomeType]],
        hand_on: Callable[[ItemType, OutcomeType], None],
        window: int,
    ) -> None:
        self._items = iter(items)
        self._steps, self._hand_on, self._window = steps, hand_on, window
        self._open: OrderedDict[int, _Open[ItemType, OutcomeType]] = OrderedDict()
        self._ready: deque[Request] = deque()
        self._begun, self._first = 0, 0
        self._more = True
        self._failure: BaseException | None = None

    def run(self, generator: LanguageModel) -> None:
        """Take all items to their end.

        A failure of the input (a broken line) ends the taking of items; those begun are finished, then it is raised.
        """
        for completion in generator.complete(self._requests()):  # type: ignore[arg-type]
            number = int(completion.id.partition(".")[0])
            self._advance(number, completion)
        if self._failure is not None:
            raise self._failure

    def _requests(self) -> Iterator[Request | None]:
        """Yield requests as they come up; None where every item waits for an answer."""
        while self._ready or self._open or self._more:
            if self._ready:
                yield self._ready.popleft()
            elif self._more and self._begun - self._first < self._window:
                self._begin_next()
            elif self._open:
                yield None

    def _begin_next(self) -> None:
        try:
            item = next(self._items)
        except StopIteration:
            self._more = False
            return
        except Exception as error:
            self._more, self._failure = False, error
            return
        number = self._begun
        self._begun += 1
        self._open[number] = _Open(item, self._steps(item))
        self._advance(number, None)

    def _advance(self, number: int, completion: Completion | None) -> None:
        """Give an item its answer (None starts it): it asks again, or ends."""
        entry = self._open[number]
        try:
            request = entry.steps.send(completion)  # type: ignore[arg-type]
        except StopIteration as end:
            entry.outcome = end.value
            self._hand_on_finished()
            return
        entry.requests += 1
        self._ready.append(replace(request, id=f"{number}.{entry.requests}"))

    def _hand_on_finished(self) -> None:
        while self._first in self._open and (outcome := self._open[self._first].outcome) is not None:
            self._hand_on(self._open.pop(self._first).item, outcome)
            self._first += 1
