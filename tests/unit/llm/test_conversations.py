"""The window between input and output, and the files it ends in; answers come in any order."""

import json
import random
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.llm.conversations import Weave
from reasonir.llm.records import Completion, Message, Request
from reasonir.synth.gates.parse import Refusal
from reasonir.synth.output import Output
from reasonir.synth.recipes.inputs import Fingerprints, Item, cut_words, take_shard
from reasonir.synth.recipes.writing import Outcome, Trail


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

    def close(self) -> None:
        pass


def steps(number: int) -> Generator[Request, Completion, str]:
    """Three requests for multiples of 3, none for multiples of 5, else one."""
    texts = []
    for turn in range(0 if number % 5 == 0 else 3 if number % 3 == 0 else 1):
        completion = yield Request(id="", messages=(Message("user", f"{number}/{turn}"),))
        texts.append(completion.text)
    return " ".join(texts) or "nothing"


@pytest.mark.parametrize("seed", range(5))
def test_outcomes_come_in_order_within_the_window(seed: int) -> None:
    handed: list[tuple[int, str]] = []
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(200):
            assert number - len(handed) <= 10
            begun.append(number)
            yield number

    model = Shuffled(seed, 7)
    Weave(items(), steps, lambda item, outcome: handed.append((item, outcome)), window=10).run(model)
    assert [item for item, _ in handed] == list(range(200))
    assert handed[3][1] == "3/0 3/1 3/2" and handed[15][1] == "nothing"
    assert model.most == 7 and len(set(model.ids)) == len(model.ids)


def test_a_broken_input_is_raised_after_what_came_before() -> None:
    handed: list[int] = []

    def items() -> Iterator[int]:
        yield from range(20)
        raise UserError("line 21")

    with pytest.raises(UserError, match="line 21"):
        Weave(items(), steps, lambda item, outcome: handed.append(item), window=8).run(Shuffled(0, 4))
    assert handed == list(range(20))


def outcome(number: int) -> Outcome:
    trail = Trail(input_tokens=number)
    if number % 4 == 1:
        trail.refuse("hq", 1, Refusal("json", "Not JSON."), "half a pair: \ud800")
    if number % 3 == 0:
        trail.refuse("hq", 2, Refusal("language", "Not English."), "nein")
        return Outcome(trail, refusal=Refusal("language", "Not English."))
    if number % 7 == 0:
        return Outcome(trail, refusal=Refusal("empty_document", "The document has no text."))
    query = "the same" if number % 10 == 0 else f"query {number}"
    return Outcome(trail, {"id": f"d{number}", "query": ["", query], "provenance": {"attempt": 1}})


def items(count: int = 60) -> Iterator[Item]:
    return (Item(f"d{number}", 2 * number) for number in range(count))


def write(folder: Path, count: int = 60) -> Output:
    queries = Fingerprints()
    output = Output(folder, queries.seen)
    for item in output.recover(items()):
        if item.position < 2 * count:
            output.write(item, outcome(item.position // 2))
    output.release()
    output.close()
    return output


def test_output_goes_on_after_a_kill_at_any_byte(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    counts = write(tmp_path / "whole").counts()
    whole = [(tmp_path / "whole" / name).read_bytes() for name in ("data.jsonl", "rejections.jsonl")]
    assert counts["rejected"]["duplicate_query"] == 3 and counts["in"] == 60 == counts["accepted"] + sum(
        counts["rejected"].values()
    )
    final = [json.loads(line)["id"] for line in whole[1].splitlines() if json.loads(line)["final"]]
    accepted = [json.loads(line)["id"] for line in whole[0].splitlines()]
    assert sorted(final + accepted) == sorted(f"d{number}" for number in range(60))
    draw = random.Random(0)
    for trial in range(25):
        folder = tmp_path / str(trial)
        folder.mkdir()
        write(folder, draw.randrange(60))
        # The last piece written may be torn: refusals, if no row of their item followed them.
        for name in ("data.jsonl", "rejections.jsonl"):
            if trial % 3 and draw.random() < 0.5:
                with (folder / name).open("ab") as stream:
                    stream.write(b'{"id": "d')
                break
        again = write(folder).counts()
        assert [(folder / name).read_bytes() for name in ("data.jsonl", "rejections.jsonl")] == whole
        assert again == counts


def test_items_that_the_server_failed_wait_for_one_that_it_did_not(tmp_path: Path) -> None:
    output = Output(tmp_path, None)
    list(output.recover(iter(())))
    failed = Outcome(Trail(), refusal=Refusal("server_error", "503"))
    output.write(Item("a", 0), failed)
    assert output.items == 0
    output.write(Item("d1", 1), outcome(1))
    output.write(Item("c", 2), failed)
    assert output.items == 2 and output.rejected == {"server_error": 1}
    output.close()
    again = Output(tmp_path, None)
    rest = again.recover(Item(name, place) for place, name in enumerate(("a", "d1", "c")))
    assert [item.id for item in rest] == ["c"]
    again.close()


def test_another_input_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match="holds item 'd1', which the input no longer has"):
        Output(tmp_path, None).recover(item for item in items() if item.id != "d1")


def test_fingerprints_know_what_they_saw() -> None:
    known = Fingerprints()
    assert [known.seen(str(number % 3_000)) for number in range(6_000)] == [False] * 3_000 + [True] * 3_000


def test_shards_are_disjoint_and_whole() -> None:
    parts = [[item.id for item in take_shard(items(), (part, 4), 50)] for part in range(4)]
    assert (
        sorted(name for part in parts for name in part) == sorted(item.id for item in items(50))
        and min(map(len, parts)) > 5
    )
    assert [item.id for item in take_shard(items(), (0, 1), None)] == [item.id for item in items()]


def test_cut_words_keeps_the_layout() -> None:
    assert cut_words("a\n b  c", 2) == ("a\n b", 1)
    assert cut_words("a\n b  c ", 3) == ("a\n b  c ", 0) == cut_words("a\n b  c ", None)
