"""`reasonir-eval contamination`: what is planted is found, nothing else is, and a slow reference agrees."""

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasonir.eval import cli
from reasonir.text.ngrams import MarkedHashes, TextHasher, in_batches
from reasonir.text.words import APOSTROPHES, PROSE_WORD, words_of_prose
from tests.kit.texts import write_rows
from tests.reference.overlap import ngrams_of, shared, words_of

SIDES = {"query": "query", "positive": "pos", "negative": "neg"}


def prose(seed: int, count: int = 60, vocabulary: int = 4_000) -> str:
    """Return words no run of which repeats between seeds, with punctuation."""
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(vocabulary)}{draw.choice(['', '', ',', '.'])}" for _ in range(count))


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    """Two tasks of three queries and six documents each: two are gold, one is short, one has no word."""
    for shift, name in enumerate(("physics", "kitchen")):
        folder = tmp_path / "bright" / name
        folder.mkdir(parents=True)
        texts = [*(prose(100 * shift + i) for i in range(4)), f"A short note on {name}.", "***"]
        write_rows(folder / "documents.jsonl", [{"id": f"{name}/{i}", "content": t} for i, t in enumerate(texts)])
        examples = [
            {"id": f"q{i}", "query": prose(100 * shift + 50 + i), "gold_ids": [f"{name}/{i % 2}"],
             "excluded_ids": ["N/A"]}
            for i in range(3)
        ]  # fmt: skip
        write_rows(folder / "examples.jsonl", examples)
    return tmp_path / "bright"


def clean_rows(count: int = 7, first: int = 1_000) -> list[dict[str, Any]]:
    return [
        {"query": ["Find it", prose(first + 3 * i)], "pos": [["", prose(first + 3 * i + 1)]],
         "neg": [["", prose(first + 3 * i + 2)]]}
        for i in range(count)
    ]  # fmt: skip


def plant(rows: list[dict[str, Any]], number: int, side: str, text: str) -> None:
    """Put a text into a row, in place of what one side of it says."""
    rows[number][SIDES[side]] = ["Find it", text] if side == "query" else [["", text]]


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["contamination", *arguments])
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), captured.out, captured.err


def measure(
    rows: Sequence[Path], out: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    listed = ",".join(f"'{file}'" for file in rows)
    code, said, err = run([f"rows=[{listed}]", f"output_dir={out}", *more], capsys)
    assert code == 0 and err == "", err
    matches = [json.loads(line) for line in (out / "matches.jsonl").read_text().splitlines()]
    return json.loads((out / "contamination.json").read_text()), matches, said


def flagged(report: dict[str, Any]) -> dict[tuple[str, str, str], int]:
    """Return what is flagged at all, by task, side of the evaluation, side of the rows."""
    found = {
        (task, side, own): counts[own]["flagged"]
        for task, sides in report["tasks"].items()
        for side, counts in sides.items()
        for own in SIDES
    }
    return {place: count for place, count in found.items() if count}


def text_of(bright: Path, task: str, side: str, number: int) -> str:
    file = bright / task / ("examples.jsonl" if side == "query" else "documents.jsonl")
    row = json.loads(file.read_text().splitlines()[number])
    return str(row["query"] if side == "query" else row["content"])


def test_nothing_planted_nothing_found(bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", clean_rows())
    report, matches, said = measure([rows], tmp_path / "out", capsys, f"data.dir={bright}")
    assert flagged(report) == {} and matches == [] and report["distinct_ngrams"] == 2 * (4 + 3) * 48
    for task in report["tasks"].values():
        assert [task[side]["texts"] for side in task] == [3, 2, 4]
        assert task["other"]["shorter_than_ngram"] == task["other"]["without_words"] == 1
        assert all(counts["any"]["sharing_an_ngram"] == counts["seeds_by_id"] == 0 for counts in task.values())
    assert "0 of 6 queries, 0 of 4 gold documents and 0 of 8 other documents occur in the 7 training rows" in said
    assert report["statement"] in (tmp_path / "out/contamination.md").read_text()
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["inputs"][0]["rows"] == 7 and manifest["counts"]["rows"]["rows"] == 7


def as_it_is(text: str) -> str:
    return text


def respelt(text: str) -> str:
    return "  " + text.upper().replace(",", " --").replace(".", "!\n").replace(" ", "\t ")


PLANTED = [("query", 1), ("gold", 0), ("other", 3), ("other", 4)]


@pytest.mark.parametrize("own", list(SIDES))
@pytest.mark.parametrize("spelling", [as_it_is, respelt])
def test_planted_copy_is_found_on_its_sides(
    bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], own: str, spelling: Any
) -> None:
    rows = clean_rows()
    texts = [text_of(bright, "kitchen", side, number) for side, number in PLANTED]
    for row, text in enumerate(texts, start=2):
        plant(rows, row, own, spelling(text))
    file = write_rows(tmp_path / "rows.jsonl", rows)
    report, matches, _ = measure([file], tmp_path / "out", capsys, f"data.dir={bright}")
    expected = {"query": 1, "gold": 1, "other": 2}
    assert flagged(report) == {("kitchen", side, own): count for side, count in expected.items()}
    for side, count in expected.items():
        counts = report["tasks"]["kitchen"][side]
        assert counts[own]["exact"] == counts["any"]["exact"] == count
    assert len(matches) == len(PLANTED)
    for match, (side, number), text, line in zip(matches, PLANTED, texts, range(3, 7), strict=True):
        assert (match["where"], match["row_side"], match["kind"]) == (f"{file}:{line}", own, "exact")
        assert (match["task"], match["evaluation_side"]) == ("kitchen", side)
        assert match["evaluation_id"] == (f"q{number}" if side == "query" else f"kitchen/{number}")
        assert match["overlap"] == match["overlap_with_all_rows"] == 1 and match["snippet"] == text[:160]


@pytest.mark.parametrize(("kept", "found"), [(35, False), (36, True), (37, True)])
def test_partial_copy_is_flagged_from_the_threshold_on(
    bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: int, found: bool
) -> None:
    rows = clean_rows()
    pieces = text_of(bright, "physics", "query", 2).split()
    assert len(pieces) == 60  # 48 n-grams; 36 words hold 24 of them
    plant(rows, 2, "positive", f"{prose(7_000)} {' '.join(pieces[5 : 5 + kept])} {prose(7_001)}")
    file = write_rows(tmp_path / "rows.jsonl", rows)
    report, matches, _ = measure([file], tmp_path / "out", capsys, f"data.dir={bright}")
    counts = report["tasks"]["physics"]["query"]["positive"]
    assert counts["largest_share"] == (kept - 12) / 48 and counts["sharing_an_ngram"] == 1
    assert counts["flagged"] == len(matches) == found and counts["exact"] == 0
    if found:
        assert matches[0]["kind"] == "ngram" and matches[0]["overlap"] == (kept - 12) / 48
        assert matches[0]["shared"] == " ".join(words_of(" ".join(pieces[5:18])))
    higher, _, _ = measure([file], tmp_path / "higher", capsys, f"data.dir={bright}", "threshold=0.9")
    assert flagged(higher) == {}


def test_rows_that_share_only_together_are_flagged_with_the_closest(
    bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = clean_rows()
    pieces = text_of(bright, "physics", "gold", 1).split()
    plant(rows, 1, "positive", " ".join(pieces[:30]))
    plant(rows, 3, "negative", " ".join(pieces[28:]))  # 18 and 20 of 48 n-grams
    report, matches, _ = measure(
        [write_rows(tmp_path / "rows.jsonl", rows)], tmp_path / "out", capsys, f"data.dir={bright}"
    )
    gold = report["tasks"]["physics"]["gold"]
    assert [gold[own]["flagged"] for own in ("positive", "negative", "any")] == [0, 0, 1]
    assert [(m["row"], m["overlap"], m["overlap_with_all_rows"]) for m in matches] == [("4", 20 / 48, 38 / 48)]


def test_seeds_by_id(bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = clean_rows()
    rows[0]["pos"] = [["", "physics/1"]]  # as ReasonIR's HQ rows
    rows[1]["pos"] = ["kitchen/3"]
    named = {**clean_rows(1, 2_000)[0], "id": "x1", "provenance": {"document": "physics/0"}}
    named["pos"] = [["", text_of(bright, "physics", "gold", 0)]]  # as this project's rows
    stranger = {**clean_rows(1, 3_000)[0], "id": "physics/2"}  # an id that only looks like one
    ids, texts = write_rows(tmp_path / "ids.jsonl", rows[:2]), write_rows(tmp_path / "t.jsonl", [named, stranger])
    report, matches, said = measure([ids, texts], tmp_path / "out", capsys, f"data.dir={bright}")
    seeds = {task: [sides[side]["seeds_by_id"] for side in sides] for task, sides in report["tasks"].items()}
    assert seeds == {"physics": [0, 2, 0], "kitchen": [0, 0, 1]}
    assert report["same_id_other_text"] == 1 and report["rows"]["naming_documents"] == 3
    assert flagged(report) == {("physics", "gold", "positive"): 1}  # ids alone are no texts
    kinds = {(m["kind"], m["evaluation_id"], m["where"].rsplit(":", 1)[1]) for m in matches}
    assert kinds == {("id", "physics/1", "1"), ("id", "kitchen/3", "2"), ("id", "physics/0", "1"),
                     ("exact", "physics/0", "1")}  # fmt: skip
    assert "3 documents are seeds of training rows by id, 2 of them gold" in said
    assert "1 pairs of a row and a document share an id but no text" in said
    # Looked up, as training does, they are texts too.
    report, matches, _ = measure([ids], tmp_path / "up", capsys, f"data.dir={bright}", f"documents=[{bright}]")
    assert flagged(report) == {("physics", "gold", "positive"): 1, ("kitchen", "other", "positive"): 1}
    assert sorted(m["kind"] for m in matches) == ["exact", "exact", "id", "id"]
    # The same ids in another corpus, with other texts, are no seeds.
    other = tmp_path / "other.jsonl"
    write_rows(other, [{"id": name, "content": prose(9_000 + i)} for i, name in enumerate(["physics/1", "kitchen/3"])])
    report, matches, _ = measure([ids], tmp_path / "no", capsys, f"data.dir={bright}", f"documents=[{other}]")
    assert matches == [] and report["same_id_other_text"] == 2 and report["rows"]["naming_documents"] == 0


def contaminated(bright: Path) -> list[dict[str, Any]]:
    """Rows that copy whole texts and parts of texts at random."""
    draw = random.Random(5)
    rows = clean_rows(24)
    for number in range(24):
        task, side = draw.choice(["physics", "kitchen"]), draw.choice(["query", "other"])
        pieces = text_of(bright, task, side, draw.randrange(3)).split()
        start = draw.randrange(40)
        part = pieces if number % 4 == 0 else pieces[start : start + draw.randrange(12, 50)]
        plant(rows, number, draw.choice(list(SIDES)), f"{prose(8_000 + number, 20)} {' '.join(part)}")
    rows[3]["pos"] = [["", text_of(bright, "physics", "other", 3)]]
    return rows


@pytest.mark.parametrize(("ngram", "threshold"), [(1, 0.5), (3, 0.2), (13, 0.2), (13, 0.5)])
def test_counts_are_the_references(
    bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ngram: int, threshold: float
) -> None:
    rows = contaminated(bright)
    file = write_rows(tmp_path / "rows.jsonl", rows)
    options = (f"data.dir={bright}", f"ngram={ngram}", f"threshold={threshold}")
    report, matches, _ = measure([file], tmp_path / "out", capsys, *options)
    sides = {own: [r[field][1] if own == "query" else r[field][0][1] for r in rows] for own, field in SIDES.items()}
    sides["any"] = [text for own in SIDES for text in sides[own]]
    seen = 0
    for task in ("physics", "kitchen"):
        gold = {f"{task}/{i}" for i in (0, 1)}
        texts = [("query", text_of(bright, task, "query", i)) for i in range(3)]
        texts += [("gold" if f"{task}/{i}" in gold else "other", text_of(bright, task, "other", i)) for i in range(6)]
        for side in ("query", "gold", "other"):
            for own, others in sides.items():
                results = [shared(text, others, ngram) for where, text in texts if where == side]
                counts = report["tasks"][task][side][own]
                assert counts["exact"] == sum(equal for _, equal in results)
                assert counts["flagged"] == sum(equal or share >= threshold for share, equal in results)
                assert counts["sharing_an_ngram"] == sum(share > 0 for share, _ in results)
                assert counts["largest_share"] == pytest.approx(max(share for share, _ in results))
                seen += counts["flagged"]
    assert seen > 8  # not vacuous
    for match in matches:
        place = int(match["evaluation_id"].lstrip("q").split("/")[-1])
        kind = "query" if match["evaluation_side"] == "query" else "other"
        row = rows[int(match["row"]) - 1][SIDES[match["row_side"]]]
        text = row[1] if match["row_side"] == "query" else row[0][1]
        share, equal = shared(text_of(bright, match["task"], kind, place), [text], ngram)
        assert match["overlap"] == pytest.approx(1.0 if equal else share)
        assert (match["kind"] == "exact") == equal
        if not equal:
            assert tuple(match["shared"].split()) in ngrams_of(text, ngram)


def test_order_and_number_of_files_change_no_count(
    bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = contaminated(bright)
    whole = write_rows(tmp_path / "rows.jsonl", [{"id": f"r{i}", **row} for i, row in enumerate(rows)])
    lines = whole.read_text().splitlines(keepends=True)
    (tmp_path / "back.jsonl").write_text("".join(reversed(lines[10:])))
    with gzip.open(tmp_path / "front.jsonl.gz", "wt") as stream:
        stream.write("".join(lines[:10]))
    one, a, _ = measure([whole], tmp_path / "1", capsys, f"data.dir={bright}")
    parts = [tmp_path / "back.jsonl", tmp_path / "front.jsonl.gz"]
    two, b, _ = measure(parts, tmp_path / "2", capsys, f"data.dir={bright}")
    assert two["tasks"] == one["tasks"] and flagged(one) and a
    key = json.dumps
    assert sorted(key({**m, "where": ""}) for m in a) == sorted(key({**m, "where": ""}) for m in b)
    assert list(two["rows"]["by_source"].values()) == [14, 10]


@pytest.mark.parametrize("more", ["", " and more"])
def test_pairs_beyond_the_limit_are_counted(
    bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str
) -> None:
    rows = clean_rows(9)
    for number in range(9):
        plant(rows, number, "negative", text_of(bright, "physics", "gold", 0) + more)
    plant(rows, 0, "positive", text_of(bright, "physics", "gold", 0) + " and more")
    file = write_rows(tmp_path / "rows.jsonl", rows)
    report, matches, said = measure([file], tmp_path / "out", capsys, f"data.dir={bright}", "matches_per_text=2")
    assert report["matches"] == {"written": 3, "not_written": 7} and len(matches) == 3
    found = sorted((m["row_side"], m["kind"]) for m in matches)
    kind = "ngram" if more else "exact"
    assert found == [("negative", kind), ("negative", kind), ("positive", "ngram")]
    assert "3 pairs; 7 more beyond matches_per_text" in said


def test_beir_folder(bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "dogs"
    (folder / "qrels").mkdir(parents=True)
    write_rows(folder / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": prose(i)} for i in range(5)])
    write_rows(folder / "queries.jsonl", [{"_id": f"q{i}", "text": prose(40 + i)} for i in range(3)])
    (folder / "qrels/dev.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td1\t1\nq2\td4\t1\n")
    rows = clean_rows()
    plant(rows, 0, "negative", prose(4))
    plant(rows, 1, "query", prose(42))
    plant(rows, 2, "query", prose(41))  # a query that dev does not ask
    file = write_rows(tmp_path / "rows.jsonl", rows)
    report, _, _ = measure([file], tmp_path / "out", capsys, f"data.beir={folder}", "data.split=dev")
    assert flagged(report) == {("dogs", "gold", "negative"): 1, ("dogs", "query", "query"): 1}
    assert report["tasks"]["dogs"]["query"]["texts"] == 2


def test_bad_input_is_one_line(bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_rows(tmp_path / "rows.jsonl", clean_rows())
    data, out = f"data.dir={bright}", f"output_dir={tmp_path / 'out'}"

    def refuse(*arguments: str) -> str:
        code, _, err = run([*arguments, out], capsys)
        assert code == 2 and err.count("\n") == 1 and "Traceback" not in err, err
        assert not (tmp_path / "out").exists()
        return err

    assert "no such file (a hub data set is hub:owner/name)" in refuse(f"rows=[{tmp_path / 'x.jsonl'}]", data)
    assert "give one of data.dir" in refuse(f"rows=[{file}]")
    assert "give one of data.dir" in refuse(f"rows=[{file}]", data, "data.beir=x")
    assert "tasks and long belong to" in refuse(f"rows=[{file}]", "data.beir=x", "tasks=[physics]")
    assert "no task 'physic'" in refuse(f"rows=[{file}]", data, "tasks=[physic]")
    assert "threshold=50" in refuse(f"rows=[{file}]", data, "threshold=50")
    assert "ngram=0" in refuse(f"rows=[{file}]", data, "ngram=0")
    assert "did you mean ngram" in refuse(f"rows=[{file}]", data, "n_gram=8")
    assert "rows=[]" in refuse("rows=[]", data)
    broken = tmp_path / "broken.jsonl"
    broken.write_text(file.read_text() + '{"query": "x", "pos": []}\n')
    assert f"{broken}:8" in refuse(f"rows=[{file},{broken}]", data)


def test_words_of_both_ways_are_one() -> None:
    draw = random.Random(1)
    for _ in range(300):
        text = "".join(draw.choices([chr(c) for c in range(128)], k=60))
        assert words_of_prose(text) == PROSE_WORD.findall(text.casefold().translate(APOSTROPHES)) == words_of(text)
    for text in ("Schrödinger’s ＣＡＴ isn't here", "量子力学とは、何か? 3D", "co-op\u00aderative _x_ ﬁne", ""):
        assert words_of_prose(text) == words_of(text)
    assert words_of_prose("量子 is") == ["量", "子", "is"]


def test_hashes_are_of_runs_within_one_text() -> None:
    texts = [prose(i, count) for i, count in enumerate((30, 0, 12, 13, 14, 1, 40))] + [prose(0, 30)]
    hashed = TextHasher(13).hash(texts)
    grams = [ngrams_of(text, 13) for text in texts]
    assert hashed.counts.tolist() == [len(each) for each in grams] == [18, 0, 0, 1, 2, 0, 28, 18]
    flat = [gram for each in grams for gram in each]
    assert len(set(hashed.ngrams.tolist())) == len(set(flat)) == 49 < len(flat)
    assert hashed.ngrams[:18].tolist() == hashed.ngrams[-18:].tolist()
    alone = [TextHasher(13).hash([text]) for text in texts]
    assert np.concatenate([each.ngrams for each in alone]).tolist() == hashed.ngrams.tolist()
    assert np.concatenate([each.exact for each in alone]).tolist() == hashed.exact.tolist()
    assert hashed.exact[1] == 0 and hashed.exact[0] == hashed.exact[7] != hashed.exact[6]


def test_batches_hold_every_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasonir.text.ngrams.BATCH_CHARACTERS", 100)
    texts = ["x" * n for n in (10, 250, 0, 40, 70, 5)]
    batches = list(in_batches(texts))
    assert [text for _, part in batches for text in part] == texts and len(batches) == 3
    assert [start for start, _ in batches] == [0, 2, 5] and list(in_batches([])) == []


def test_marks() -> None:
    parts = [np.array([5, 1, 5], np.uint64), np.array([9, 1], np.uint64)]
    marked = MarkedHashes(parts)
    assert marked.keys.tolist() == [1, 5, 9] and parts == []
    marked.mark(np.array([9, 9, 2, 11, 0], np.uint64), 1)
    marked.mark(np.array([9, 1], np.uint64), 4)
    assert marked.marks_of(np.array([0, 1, 5, 9, 10], np.uint64)).tolist() == [0, 4, 0, 5, 0]
    empty = MarkedHashes([])
    empty.mark(np.array([3], np.uint64), 1)
    assert empty.marks_of(np.array([3], np.uint64)).tolist() == [0]
