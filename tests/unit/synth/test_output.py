"""The files that the items end in, after a kill too; shards; the memory of what was seen."""

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from reasonir.core.errors import UserError
from reasonir.llm.attempts import Rejection, Trail
from reasonir.synth.output import Output
from reasonir.synth.recipes.inputs import Item, cut_words, take_shard
from reasonir.synth.recipes.writing import Outcome
from reasonir.text.digests import DigestTable


def outcome(number: int) -> Outcome:
    trail = Trail(input_tokens=number)
    if number % 4 == 1:
        trail.reject(Rejection("json", "Not JSON."), "hq", 1, "half a pair: \ud800")
    if number % 3 == 0:
        trail.reject(Rejection("language", "Not English."), "hq", 2, "nein")
        return Outcome(trail, rejection=Rejection("language", "Not English."))
    if number % 7 == 0:
        return Outcome(trail, rejection=Rejection("empty_document", "The document has no text."))
    query = "the same" if number % 10 == 0 else f"query {number}"
    return Outcome(trail, {"id": f"d{number}", "query": ["", query], "provenance": {"attempt": 1}})


def items(count: int = 60) -> Iterator[Item]:
    return (Item(f"d{number}", 2 * number) for number in range(count))


def write(folder: Path, count: int = 60) -> Output:
    queries = DigestTable()
    output = Output(folder, queries.seen)
    for item in output.recover(items()):
        if item.position < 2 * count:
            output.write(item, outcome(item.position // 2))
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


class InterruptedAt:
    """Raises KeyboardInterrupt before the n-th line that a function runs, once."""

    def __init__(self, function: Callable[..., object], line: int) -> None:
        self.code, self.left = function.__code__, line

    def __call__(self, frame: FrameType, event: str, argument: object) -> "InterruptedAt | None":
        if frame.f_code is not self.code:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def test_ctrl_c_at_any_line_of_a_flush_writes_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole")
    whole = [(tmp_path / "whole" / name).read_bytes() for name in ("data.jsonl", "rejections.jsonl")]
    for line in range(1, 14):
        folder = tmp_path / str(line)
        folder.mkdir()
        output = Output(folder, DigestTable().seen)
        for item in output.recover(items(30)):
            output.write(item, outcome(item.position // 2))
        before, interrupt = sys.gettrace(), InterruptedAt(Output._flush, line)
        sys.settrace(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                output._flush()
        finally:
            sys.settrace(before)
        output.close()
        write(folder)
        assert [(folder / name).read_bytes() for name in ("data.jsonl", "rejections.jsonl")] == whole


@pytest.mark.parametrize("rows", [0, 1, 7, 15])
def test_output_goes_on_after_a_kill_between_its_two_flushes(tmp_path: Path, rows: int) -> None:
    """Rejections of many items are on disk, the rows of only the first of them."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, 60 if name == "whole" else 45)
    data = tmp_path / "killed" / "data.jsonl"
    lines = data.read_bytes().splitlines(keepends=True)
    assert len(lines) > rows + 5
    data.write_bytes(b"".join(lines[:rows]))
    counts = write(tmp_path / "whole").counts()
    assert write(tmp_path / "killed").counts() == counts
    for name in ("data.jsonl", "rejections.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def silent(item: Item) -> Outcome:
    trail = Trail()
    trail.reject(Rejection("unanswered", "status 503"), "hq", 1, "")
    return Outcome(trail, rejection=Rejection("unanswered", "status 503"))


def test_an_outage_at_the_end_leaves_no_line(tmp_path: Path) -> None:
    output = Output(tmp_path, None)
    for item in output.recover(items(5)):
        output.write(item, outcome(1) if item.position == 0 else silent(item))
    assert output.items == 1
    output.close()
    assert len((tmp_path / "data.jsonl").read_text().splitlines()) == 1
    assert "unanswered" not in (tmp_path / "rejections.jsonl").read_text()


@pytest.mark.parametrize("gap", [0, 1, 9, 10, 58])
def test_an_unanswered_item_is_never_final_and_the_next_run_ends_in_the_same_bytes(tmp_path: Path, gap: int) -> None:
    (tmp_path / "whole").mkdir()
    counts = write(tmp_path / "whole").counts()
    whole = [(tmp_path / "whole" / name).read_bytes() for name in ("data.jsonl", "rejections.jsonl")]
    output = Output(tmp_path, DigestTable().seen)
    for item in output.recover(items()):
        skipped = item.position // 2 in (gap, 40)
        output.write(item, silent(item) if skipped else outcome(item.position // 2))
    output.close()
    lines = [json.loads(line) for line in (tmp_path / "rejections.jsonl").read_text().splitlines()]
    assert {(line["id"], line["final"]) for line in lines if line["reason"] == "unanswered"} == {
        (f"d{number}", False) for number in (gap, 40)
    }
    assert (
        output.items == 58
        and "d59" in (tmp_path / "rejections.jsonl").read_text() + (tmp_path / "data.jsonl").read_text()
    ), "the run went on behind the gap"
    again = write(tmp_path)
    assert again.counts() == counts
    assert [(tmp_path / name).read_bytes() for name in ("data.jsonl", "rejections.jsonl")] == whole


def test_another_input_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match="holds item 'd1', which the input no longer has"):
        Output(tmp_path, None).recover(item for item in items() if item.id != "d1")


def test_a_table_of_digests_knows_what_it_saw() -> None:
    known = DigestTable()
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
