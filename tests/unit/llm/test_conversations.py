"""Ordered concurrency: outcomes in the order of the items, how many conversations are open, what ends a run."""

import random
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reasonir.core.errors import RunStopped, UserError
from reasonir.llm.conversations import Conversation, hold_conversations
from reasonir.llm.engines.completions import Budget, CompletionLog
from reasonir.llm.engines.concurrency import ConcurrentGenerator
from reasonir.llm.records import Completion, Message, Request


class Shuffled:
    """Answers up to `capacity` requests at once, in an order drawn from `seed`."""

    model = "m"

    def __init__(self, seed: int, capacity: int) -> None:
        self.draw, self.capacity, self.most, self.ids = random.Random(seed), capacity, 0, []

    def complete(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        source, waiting, more = iter(requests), [], True
        while more or waiting:
            while more and len(waiting) < self.capacity:
                request = next(source, self)
                if request is self:
                    more = False
                elif request is None:
                    break
                else:
                    waiting.append(request)
                    self.ids.append(request.id)
            self.most = max(self.most, len(waiting))
            if waiting:
                answered = waiting.pop(self.draw.randrange(len(waiting)))
                yield Completion(id=answered.id, text=answered.messages[0].content, finish="stop")

    def finish_in_flight(self) -> None:
        self.finished = len(self.ids)

    def close(self) -> None:
        pass


def ask(text: str) -> Request:
    return Request(id="", messages=(Message("user", text),))


def converse(number: int) -> Conversation[str | None]:
    """Three turns for multiples of 3, none for multiples of 5, else one; the last turn of 7's asks twice."""
    texts: list[str] = []
    for turn in range(0 if number % 5 == 0 else 3 if number % 3 == 0 else 1):
        twins = "ab" if number % 7 == 0 else "a"
        completions = yield [ask(f"{number}/{turn}{twin}") for twin in twins]
        texts += [completion.text for completion in completions]
    return " ".join(texts) or None


@pytest.mark.parametrize("seed", range(5))
def test_outcomes_come_in_order_within_the_window(seed: int) -> None:
    handed: list[tuple[int, str | None]] = []
    answers = 0

    def items() -> Iterator[int]:
        for number in range(200):
            assert number - len(handed) < 10
            yield number

    def count() -> None:
        nonlocal answers
        answers += 1

    model = Shuffled(seed, 7)
    hold_conversations(model, items(), converse, lambda *pair: handed.append(pair), window=10, on_answer=count)
    assert [item for item, _ in handed] == list(range(200))
    assert handed[3][1] == "3/0a 3/1a 3/2a" and handed[15][1] is None and handed[14][1] == "14/0a 14/0b"
    assert handed[21][1] == "21/0a 21/0b 21/1a 21/1b 21/2a 21/2b"
    assert model.most == 7 and len(set(model.ids)) == len(model.ids) == answers


@pytest.mark.parametrize("seed", range(3))
def test_a_turn_without_requests_waits_for_all_earlier_items(seed: int) -> None:
    """Also where thousands wait for one: nothing is called deeper with each."""
    handed: list[int] = []

    def in_order(number: int) -> Conversation[int]:
        if number % 3:
            yield [ask(str(number))]
        yield []
        assert handed == list(range(number))
        if number % 4 == 0:
            yield [ask(f"{number} again")]
            yield []
        return number

    hold_conversations(Shuffled(seed, 7), range(3_000), in_order, lambda item, _: handed.append(item))
    assert handed == list(range(3_000))


def test_items_without_questions_are_handed_on_as_they_are_read() -> None:
    """No answer ever comes, and yet no outcome waits for the end of the input."""
    handed: list[int] = []

    def items() -> Iterator[int]:
        for number in range(0, 500, 5):
            assert len(handed) == number // 5
            yield number

    hold_conversations(Shuffled(0, 2), items(), converse, lambda item, outcome: handed.append(item))
    assert len(handed) == 100


def test_a_broken_input_is_raised_after_what_came_before() -> None:
    handed: list[int] = []

    def items() -> Iterator[int]:
        yield from range(20)
        raise UserError("line 21")

    with pytest.raises(UserError, match="line 21"):
        hold_conversations(Shuffled(0, 4), items(), converse, lambda item, outcome: handed.append(item), window=8)
    assert handed == list(range(20))


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError("No space left on device")])
def test_ctrl_c_and_a_full_disk_end_the_run_at_once(end: BaseException) -> None:
    """Nothing is handed on behind the outcome that could not be written, and no further item is read."""
    handed: list[int] = []
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1, 1000):
            read.append(number)
            yield number

    def write(item: int, outcome: str | None) -> None:
        if item == 50:
            raise end
        handed.append(item)

    model = Shuffled(1, 4)
    with pytest.raises(type(end)):
        hold_conversations(model, items(), converse, write, window=8)
    assert hasattr(model, "finished") == isinstance(end, KeyboardInterrupt), "what is in flight is kept at Ctrl-C"
    assert handed == list(range(1, 50)) and len(read) < 60


def test_an_interrupt_while_an_item_is_read_is_not_held_back() -> None:
    def items() -> Iterator[int]:
        yield from range(1, 20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hold_conversations(Shuffled(0, 4), items(), converse, lambda item, outcome: None)


class Echo(ConcurrentGenerator):
    """The engines' own concurrency, with an engine that knows its answer; it fails at one question."""

    async def ask(self, request: Request) -> Completion:
        if request.messages[0].content.startswith("900:"):
            raise RunStopped("the server is down")
        return Completion(id=request.id, text=request.messages[0].content, finish="stop")


def three_turns(number: int) -> Conversation[str]:
    text = f"{number}:"
    for turn in range(3):
        completions = yield [ask(f"{text}{turn}{twin}") for twin in "ab"]
        assert [completion.text for completion in completions] == [f"{text}{turn}a", f"{text}{turn}b"]
        text = completions[1].text
    return text


def test_conversations_are_opened_as_the_model_has_room(tmp_path: Path) -> None:
    """A thousand items on two seats, without a window: no more than a few are open at once, outcomes stream."""
    found: dict[int, str] = {}
    most = 0

    def items(count: int) -> Iterator[int]:
        nonlocal most
        for number in range(count):
            most = max(most, number + 1 - len(found))
            yield number

    with closing(Echo("m", CompletionLog(tmp_path / "log.jsonl"), Budget(), 2)) as model:
        hold_conversations(model, items(900), three_turns, found.__setitem__)
        assert found == {n: f"{n}:0b1b2b" for n in range(900)}
        assert 1 <= most <= 12
        found.clear()
        with pytest.raises(RunStopped, match="the server is down"):
            hold_conversations(model, items(1000), three_turns, found.__setitem__)
        assert list(found) == list(range(len(found))) and 880 < len(found) <= 900
