"""`reasonir-eval compare` on folders of results: what it counts, what it refuses, what may not change it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasonir.eval import cli
from reasonir.eval.scores.results import write_results, write_task
from tests.kit.texts import write_rows
from tests.reference import randomisation as reference

Ranks = Mapping[str, Mapping[str, int]]
"""Task to {query: rank of its one relevant document}."""


def write_folder(folder: Path, ranks: Ranks) -> Path:
    """Write results as a retrieval does: 10 hits a query, the gold document at a rank (0: not found)."""
    means = {}
    for task, queries in ranks.items():
        run = {
            query: {("gold" if place == rank else f"d{place}"): 11.0 - place for place in range(1, 11)}
            for query, rank in queries.items()
        }
        means[task] = write_task(folder / task, run, {query: {"gold": 1} for query in queries}, "test").mean
    write_results(folder, means)
    return folder


def draw_ranks(seed: int, sizes: Mapping[str, int]) -> dict[str, dict[str, int]]:
    numbers = np.random.default_rng(seed)
    return {task: {f"q{i}": int(numbers.integers(0, 5)) for i in range(n)} for task, n in sizes.items()}


SIZES = {"physics": 6, "kitchen": 4}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [write_folder(tmp_path / name, draw_ranks(seed, SIZES)) for seed, name in enumerate("abc")]


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["compare", *arguments])
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), captured.out, captured.err


def compare(places: list[Any], out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[dict[str, Any], str]:
    """Run a comparison that must succeed; return compare.json and what was printed."""
    listed = ",".join(f"'{place}'" for place in places)
    code, said, err = run([f"results=[{listed}]", f"output_dir={out}", "bootstrap=500", *more], capsys)
    assert code == 0 and err == "", err
    return json.loads((out / "compare.json").read_text()), said


def refuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    code, _, err = run(arguments, capsys)
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def scores(folder: Path, task: str, metric: str = "ndcg_at_10") -> dict[str, float]:
    lines = (folder / task / "per_query.jsonl").read_text().splitlines()
    return {row["id"]: row[metric] for row in map(json.loads, lines)}


@pytest.mark.parametrize("metric", ["ndcg_at_10", "mrr", "recall_at_1"])
def test_numbers_are_the_references(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str
) -> None:
    report, said = compare(folders[:2], tmp_path / "out", capsys, f"metric={metric}")
    [pair] = report["comparisons"]
    assert (pair["a"], pair["b"]) == ("a", "b")
    differences = {}
    for task in SIZES:
        a, b = (scores(folder, task, metric) for folder in folders[:2])
        differences[task] = [b[query] - a[query] for query in a]
        test = pair["tasks"][task]
        assert test["exact"] and test["queries"] == SIZES[task]
        assert test["difference"] == pytest.approx(np.mean(differences[task]), abs=1e-15)
        assert test["p_value"] == pytest.approx(reference.exact_p_value([differences[task]]), abs=1e-12)
        counted = [sum(d > 0 for d in differences[task]), sum(d == 0 for d in differences[task])]
        assert [test["wins"], test["ties"], test["losses"]] == [*counted, SIZES[task] - sum(counted)]
        assert test["mean_b"] - test["mean_a"] == pytest.approx(test["difference"], abs=1e-15)
    average = pair["average"]
    assert average["difference"] == pytest.approx(reference.macro_mean(list(differences.values())), abs=1e-15)
    assert average["p_value"] == pytest.approx(reference.exact_p_value(list(differences.values())), abs=1e-12)
    assert average["interval"][0] < average["difference"] < average["interval"][1]
    corrected = reference.holm([pair["tasks"][task]["p_value"] for task in SIZES])
    assert [pair["tasks"][task]["p_value_holm"] for task in SIZES] == pytest.approx(corrected)
    assert average["p_value_holm"] == average["p_value"]
    everything = [d for task in differences.values() for d in task]
    rows = [json.loads(line) for line in (tmp_path / "out/differences.jsonl").read_text().splitlines()]
    assert sorted(row["difference"] for row in rows) == pytest.approx(sorted(everything))
    moves = [abs(move["difference"]) for move in pair["largest_moves"]]
    assert moves == sorted((abs(d) for d in everything if d), reverse=True)[:10] and moves
    assert f"{100 * average['difference']:+.2f}" in said
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["seed"] == 0 and len(manifest["inputs"]) == 6


def test_swapped_systems_and_other_order_of_queries_change_signs_only(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = {"physics": 40, "kitchen": 25}
    a, b = (write_folder(tmp_path / f"big{seed}", draw_ranks(seed, big)) for seed in (3, 4))
    turned = {task: dict(reversed(queries.items())) for task, queries in reversed(draw_ranks(4, big).items())}
    other = write_folder(tmp_path / "turned", turned)
    names = "names=[a,b]"
    there, _ = compare([a, b], tmp_path / "1", capsys, names, "permutations=3000")
    again, _ = compare([a, other], tmp_path / "2", capsys, names, "permutations=3000")
    back, _ = compare([b, a], tmp_path / "3", capsys, names, "permutations=3000")
    assert not there["comparisons"][0]["average"]["exact"]
    assert again["comparisons"] == there["comparisons"]
    one, two = there["comparisons"][0], back["comparisons"][0]
    for x, y in [(one["tasks"][task], two["tasks"][task]) for task in big] + [(one["average"], two["average"])]:
        assert x["p_value"] == y["p_value"] and x["difference"] == -y["difference"] != 0
        assert (x["wins"], x["losses"]) == (y["losses"], y["wins"])
    seeded, _ = compare([a, b], tmp_path / "4", capsys, names, "permutations=3000", "seed=1")
    assert seeded["comparisons"][0]["average"]["p_value"] != one["average"]["p_value"]


def test_a_tasks_numbers_do_not_depend_on_other_tasks_or_systems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = {"physics": 40, "kitchen": 25}
    wide = [write_folder(tmp_path / f"wide{seed}", draw_ranks(seed, big)) for seed in (3, 4, 5)]
    narrow = [write_folder(tmp_path / f"n{s}", {"physics": draw_ranks(s, big)["physics"]}) for s in (3, 4)]
    many, _ = compare(wide, tmp_path / "many", capsys, "pairs=all", "permutations=2000")
    few, _ = compare(narrow, tmp_path / "few", capsys, "permutations=2000")
    assert [(c["a"], c["b"]) for c in many["comparisons"]] == [
        ("wide3", "wide4"), ("wide3", "wide5"), ("wide4", "wide5")]  # fmt: skip
    one, other = many["comparisons"][0]["tasks"]["physics"], few["comparisons"][0]["tasks"]["physics"]
    assert one.pop("p_value_holm") > other.pop("p_value_holm") == other["p_value"]
    assert one == other == {k: v for k, v in few["comparisons"][0]["average"].items() if k != "p_value_holm"}
    averages = [c["average"] for c in many["comparisons"]]
    assert [a["p_value_holm"] for a in averages] == pytest.approx(reference.holm([a["p_value"] for a in averages]))
    baseline, _ = compare(wide, tmp_path / "base", capsys, "permutations=2000")
    assert [(c["a"], c["b"]) for c in baseline["comparisons"]] == [("wide3", "wide4"), ("wide3", "wide5")]


def test_repeats_are_averaged_by_query_and_their_spread_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        write_folder(tmp_path / "runs" / f"seed_{seed}", draw_ranks(seed, SIZES))
    base = write_folder(tmp_path / "base", draw_ranks(9, SIZES))
    pattern = tmp_path / "runs" / "seed_*"
    report, said = compare([base, pattern], tmp_path / "out", capsys)
    repeats = [tmp_path / "runs" / f"seed_{seed}" for seed in range(3)]
    [pair] = report["comparisons"]
    for task in SIZES:
        by_query = [np.mean([scores(place, task)[query] for place in repeats]) for query in scores(base, task)]
        expected = np.array(by_query) - list(scores(base, task).values())
        assert pair["tasks"][task]["difference"] == pytest.approx(expected.mean(), abs=1e-12)
        assert pair["tasks"][task]["p_value"] == pytest.approx(reference.exact_p_value([expected.tolist()]), abs=1e-9)
    system = report["systems"][1]
    assert system["name"] == "seed_*" and len(system["folders"]) == 3
    averages = [json.loads((place / "results.json").read_text())["average"]["ndcg_at_10"] for place in repeats]
    assert system["average"]["by_repeat"] == pytest.approx(averages)
    assert system["average"]["standard_deviation"] == pytest.approx(np.std(averages, ddof=1))
    low, high = system["average"]["interval"]
    half = 4.302653 * np.std(averages, ddof=1) / np.sqrt(3)  # t at 97.5 %, 2 degrees of freedom
    assert (low, high) == pytest.approx((np.mean(averages) - half, np.mean(averages) + half), abs=1e-6)
    assert f"{100 * np.mean(averages):.2f}" in said and "not of other repeats" in said
    alone, said = compare([pattern], tmp_path / "alone", capsys)
    assert alone["comparisons"] == [] and alone["systems"][0]["average"] == system["average"]
    assert "p:" not in said and f"{100 * low:.2f} to {100 * high:.2f}" in said


def test_identical_runs_and_a_single_query(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, said = compare([folders[0], folders[0]], tmp_path / "same", capsys)
    for test in (*report["comparisons"][0]["tasks"].values(), report["comparisons"][0]["average"]):
        assert test["p_value"] == test["p_value_holm"] == 1 and test["difference"] == 0
        assert test["interval"] == [0, 0] and test["ties"] == test["queries"]
    assert report["comparisons"][0]["largest_moves"] == [] and "The queries that move" not in said
    one, other = (write_folder(tmp_path / n, {"t": {"q": rank}}) for n, rank in (("x", 1), ("y", 3)))
    report, said = compare([one, other], tmp_path / "one", capsys)
    assert report["comparisons"][0]["average"]["p_value"] == 1
    assert report["comparisons"][0]["average"]["interval"] is None
    assert "Too few queries for p below 0.05" in said and "has no interval" in said


def test_what_only_some_hold_is_refused_or_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = draw_ranks(0, {"physics": 5, "kitchen": 4})
    a = write_folder(tmp_path / "a", ranks)
    fewer = {"physics": {q: 1 for q in ("q1", "q2", "q3", "q7")}}
    b = write_folder(tmp_path / "b", fewer)
    out = f"output_dir={tmp_path / 'out'}"
    assert f"task 'kitchen' is in {a} but not in {b}" in refuse([f"results=[{a},{b}]", out], capsys)
    same_tasks = write_folder(tmp_path / "c", fewer | {"kitchen": ranks["kitchen"]})
    line = refuse([f"results=[{a},{same_tasks}]", out], capsys)
    assert f"task physics: query 'q0' and 1 more is in {a} but not in {same_tasks}" in line and "common_only" in line
    assert not (tmp_path / "out").exists()
    report, said = compare([a, b], tmp_path / "out", capsys, "common_only=true")
    assert report["tasks"] == {"physics": 3}
    assert report["left_out"] == {
        str(a): {"tasks": 1, "queries_of_common_tasks": 2}, str(b): {"tasks": 0, "queries_of_common_tasks": 1}
    }  # fmt: skip
    assert f"Left out of {a}" in said
    # The same as where the others never were.
    small = [write_folder(tmp_path / n, {"physics": {q: r[q] for q in ("q1", "q2", "q3")}})
             for n, r in (("d", ranks["physics"]), ("e", fewer["physics"]))]  # fmt: skip
    alone, _ = compare(small, tmp_path / "alone", capsys, "names=[a,b]")
    assert alone["comparisons"] == report["comparisons"]
    strange = write_folder(tmp_path / "f", {"other": {"q": 1}})
    assert "share no task" in refuse([f"results=[{a},{strange}]", out + "2", "common_only=true"], capsys)


def break_score(folder: Path, value: str) -> None:
    file = folder / "physics" / "per_query.jsonl"
    first, rest = file.read_text().split("\n", 1)
    row = json.loads(first)
    file.write_text(first.replace(f'"ndcg_at_10": {row["ndcg_at_10"]}', f'"ndcg_at_10": {value}') + "\n" + rest)


def test_bad_input_is_one_line(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, _ = folders
    out = f"output_dir={tmp_path / 'out'}"
    both = f"results=[{a},{b}]"
    (tmp_path / "empty").mkdir()
    assert "no such folder" in refuse([f"results=[{a},{tmp_path / 'nothing'}]", out], capsys)
    assert "holds no results.json" in refuse([f"results=[{a},{tmp_path / 'empty'}]", out], capsys)
    assert "no folder matches" in refuse([f"results=[{a},{tmp_path / 'x*'}]", out], capsys)
    assert "holds one run" in refuse([f"results=[{a}]", out], capsys)
    assert "did you mean ndcg_at_1 or ndcg_at_10 or ndcg_at_100" in refuse([both, out, "metric=ndcg_at_1o"], capsys)
    assert "unknown option 'metrics'" in refuse([both, out, "metrics=mrr"], capsys)
    assert "confidence=95" in refuse([both, out, "confidence=95"], capsys)
    assert "permutations=10 " in refuse([both, out, "permutations=10"], capsys)
    assert "names=['x']" in refuse([both, out, "names=[x]"], capsys)
    assert "results is missing" in refuse([out], capsys)
    assert "interval" in refuse([both, out, "interval=normal"], capsys)
    for value in ("NaN", "Infinity", "null", '"high"'):
        shutil.copytree(b, tmp_path / "broken")
        break_score(tmp_path / "broken", value)
        line = refuse([f"results=[{a},{tmp_path / 'broken'}]", out], capsys)
        assert "ndcg_at_10 is" in line or "physics/per_query.jsonl:1: a row needs a string `id`, and numbers" in line
        shutil.rmtree(tmp_path / "broken")
    file = b / "physics" / "per_query.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert "has 5 queries, its metrics.json says" in refuse([both, out], capsys)
    assert not (tmp_path / "out").exists()


def test_a_beir_folder_and_a_second_run(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results without a task level; the same command again gives the same bytes; another one is refused."""
    flat = []
    for name, rank in (("flat1", 1), ("flat2", 2)):
        folder = tmp_path / name
        run_ = {f"q{i}": {"gold": 1.0 / rank, "x": 0.7} for i in range(7)}
        means = write_task(folder, run_, {query: {"gold": 1} for query in run_}, "test").mean
        write_results(folder, {"dogs": means})
        flat.append(folder)
    report, said = compare(flat, tmp_path / "out", capsys)
    assert report["comparisons"][0]["tasks"]["dogs"] == report["comparisons"][0]["average"]
    assert report["comparisons"][0]["average"]["p_value"] == 2 / 2**7
    assert "average" not in said
    before = {file: (tmp_path / "out" / file).read_bytes() for file in ("compare.json", "differences.jsonl")}
    compare(flat, tmp_path / "out", capsys)
    assert before == {file: (tmp_path / "out" / file).read_bytes() for file in before}
    listed = f"results=[{flat[0]},{flat[1]}]"
    line = refuse([listed, f"output_dir={tmp_path / 'out'}", "bootstrap=500", "seed=4"], capsys)
    assert "another configuration" in line


def test_rows_file_is_no_results_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"id": "x"}])
    assert "rows.jsonl" in refuse([f"results=[{rows},{rows}]", f"output_dir={tmp_path / 'out'}"], capsys)
