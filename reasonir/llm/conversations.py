"""Ordered concurrency: many conversations with one language model at once, their outcomes in the order of the items.

A conversation is a coroutine. It yields the requests of its next turn, is sent their completions in the same order, and
returns an outcome. A turn without requests goes on when all earlier items are handed on: what is decided there may
depend on their outcomes. What a conversation yields must never depend on time: then a log of paid answers replays it.
Invariants: outcomes are handed on in the order of the items, whatever the order of the answers. A new conversation is
opened only when the model has room for more requests than the open ones are making, so that the model's concurrency
bounds their number. Everything runs in the caller's thread.
"""

import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from reasonir.llm.records import Completion, Request
from reasonir.llm.records import Generator as LanguageModel

ItemType = TypeVar("ItemType")
OutcomeType = TypeVar("OutcomeType")
# One item's coroutine. Its requests' ids are overwritten.
Conversation = Generator[list[Request], list[Completion], OutcomeType]


def hold_conversations(
    model: LanguageModel,
    items: Iterable[ItemType],
    converse: Callable[[ItemType], Conversation[OutcomeType]],
    hand_on: Callable[[ItemType, OutcomeType], None],
    *,
    window: int | None = None,
    on_answer: Callable[[], None] | None = None,
) -> None:
    """Hold one conversation for each item; call `hand_on` with every item and its outcome, in the order of the items.

    An error of `items` (a broken line of a file) ends the reading: the conversations that are open are finished and
    handed on, then the error is raised. Any other error is raised at once; before Ctrl-C and SIGTERM, what the model
    works on is kept.

    Args:
        model: Answers the requests.
        items: Read one by one, when a conversation is opened.
        converse: Returns the conversation of an item.
        hand_on: Receives each outcome as soon as it and all earlier ones are there. A function and not an iterator,
            because items that end without a request finish while the model asks for its next one.
        window: Most items between the first unfinished one and the last opened one, both included, which bounds the
            memory of outcomes that wait for an earlier one. None is no bound.
        on_answer: Called after each completion, for a progress bar.
    """
    conversations = _Conversations(items, converse, hand_on, window)
    with _ended_politely():
        try:
            for completion in model.complete(conversations.requests()):
                conversations.receive(completion)
                if on_answer is not None:
                    on_answer()
        except (KeyboardInterrupt, SystemExit):
            model.finish_in_flight()
            raise
    if conversations.reading_error is not None:
        raise conversations.reading_error


@contextmanager
def _ended_politely() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, with status 143, where nobody else handles it."""
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@dataclass(slots=True)
class _Open(Generic[ItemType, OutcomeType]):
    """An item whose outcome was not handed on yet.

    unanswered: requests of the current turn that are still out. waits: its turn had no request, and earlier items are
    not handed on yet.
    """

    item: ItemType
    conversation: Conversation[OutcomeType]
    completions: list[Completion | None] = field(default_factory=list)
    unanswered: int = 0
    waits: bool = False
    outcomes: list[OutcomeType] = field(default_factory=list)  # empty or one: None is an outcome too


class _Conversations(Generic[ItemType, OutcomeType]):
    """The open items in their order, the requests that wait to be sent, and where each answer belongs."""

    def __init__(
        self,
        items: Iterable[ItemType],
        converse: Callable[[ItemType], Conversation[OutcomeType]],
        hand_on: Callable[[ItemType, OutcomeType], None],
        window: int | None,
    ) -> None:
        self.reading_error: Exception | None = None
        self._items, self._converse, self._hand_on, self._window = iter(items), converse, hand_on, window
        self._open: deque[_Open[ItemType, OutcomeType]] = deque()
        self._unsent: deque[Request] = deque()
        self._places: dict[str, tuple[_Open[ItemType, OutcomeType], int]] = {}
        self._requests_made, self._more_items = 0, True

    def requests(self) -> Iterator[Request | None]:
        """Yield requests as the model asks for them; None where every open conversation waits for an answer."""
        while self._unsent or self._open or self._more_items:
            if self._unsent:
                yield self._unsent.popleft()
            # A new item only here, where the model wants a request and no open conversation has one.
            elif self._more_items and (self._window is None or len(self._open) < self._window):
                self._open_next()
            else:
                yield None

    def receive(self, completion: Completion) -> None:
        """Give a completion to the conversation that asked for it; the last one of a turn starts the next turn."""
        entry, place = self._places.pop(completion.id)
        # By place: the answers of one turn come in any order.
        entry.completions[place] = completion
        entry.unanswered -= 1
        if not entry.unanswered:
            self._advance(entry)
            self._hand_on_finished()

    def _open_next(self) -> None:
        try:
            item = next(self._items)
        except StopIteration:
            self._more_items = False
            return
        # Not BaseException: Ctrl-C ends the run at once.
        except Exception as error:
            self._more_items, self.reading_error = False, error
            return
        entry = _Open(item, self._converse(item))
        self._open.append(entry)
        self._advance(entry)
        self._hand_on_finished()

    def _advance(self, entry: _Open[ItemType, OutcomeType]) -> None:
        entry.waits = False
        try:
            # A coroutine that has not begun takes None only.
            turn = entry.conversation.send(entry.completions or None)  # type: ignore[arg-type]
        except StopIteration as end:
            entry.outcomes.append(end.value)
            return
        entry.waits = not turn
        entry.completions, entry.unanswered = [None] * len(turn), len(turn)
        for place, request in enumerate(turn):
            self._requests_made += 1
            # A number of our own, because the items' ids need not tell the requests of a turn apart.
            named = replace(request, id=str(self._requests_made))
            self._places[named.id] = (entry, place)
            self._unsent.append(named)

    def _hand_on_finished(self) -> None:
        while self._open:
            first = self._open[0]
            if first.waits:
                self._advance(first)
            elif first.outcomes:
                self._open.popleft()
                self._hand_on(first.item, first.outcomes[0])
            else:
                return
