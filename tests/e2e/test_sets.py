"""`reasonir-eval` on sets beyond BRIGHT's folder: BEIR's from the hub, aspects, and the traps of the real examples."""

import json
from pathlib import Path

import pytest

from reasonir.core.files import read_jsonl
from reasonir.data.bright import read_bright
from reasonir.data.trec import read_qrels, read_run
from reasonir.eval.scores.results import read_results
from reasonir.retrieval.aspect_metrics import aspect_metrics
from reasonir.retrieval.fusion import in_order
from reasonir.retrieval.metrics import CUTS
from tests.kit.collections import run
from tests.kit.hub_sets import bright_pro, hub_set
from tests.kit.shared import SHARED_DATA, requires_shared_data
from tests.kit.texts import write_rows

pytestmark = pytest.mark.usefixtures("own_hub_cache")


def test_a_hub_set_gives_what_its_folder_gives(
    beir_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read = {name: [row for _, row in read_jsonl(beir_folder / f"{name}.jsonl")] for name in ("corpus", "queries")}
    judged = [
        {"query-id": query, "corpus-id": document, "score": grade}
        for query, grades in read_qrels(str(beir_folder / "qrels/dev.tsv")).items()
        for document, grade in grades.items()
    ]
    tables = {"corpus": {"corpus": read["corpus"]}, "queries": {"queries": read["queries"]}}
    copy = hub_set(tmp_path / "hub" / "water", tables)
    hub_set(tmp_path / "hub" / "water-qrels", {"default": {"dev": judged}})
    out = [tmp_path / "a", tmp_path / "b"]
    for place, folder in zip((f"data.dir={beir_folder}", f"data.hub={copy}"), out, strict=True):
        run(["beir", place, "split=dev", f"output_dir={folder}", "retriever=bm25"], capsys)
    for name in ("run.trec", "metrics.json", "per_query.jsonl", "results.json", "results.md"):
        assert (out[0] / name).read_bytes() == (out[1] / name).read_bytes(), name
    assert (out[1] / "manifest.json").is_file()


def test_aspects_reach_metrics_queries_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = bright_pro(tmp_path / "pro"), tmp_path / "out"
    data = root.removeprefix("hub:")
    said = run(["bright", f"data.hub={data}", f"output_dir={out}", "retriever=bm25"], capsys)
    (result,) = read_results(out).values()
    per_query, found = result.per_query(), result.run()
    (collection,) = read_bright(root, ["earth_science"])
    for query in collection.queries:
        expected = aspect_metrics(in_order(found.get(query.id, {})), query.aspects, CUTS)
        assert {name: per_query[query.id][name] for name in expected} == expected
    for name in ("alpha_ndcg_at_10", "aspect_recall_at_25"):
        assert result.mean[name] == pytest.approx(sum(row[name] for row in per_query.values()) / 2, abs=1e-15)
        assert 0 <= result.mean[name] <= 1
    results = json.loads((out / "results.json").read_text())
    assert results["average"]["alpha_ndcg_at_25"] == results["tasks"]["earth_science"]["alpha_ndcg_at_25"]
    table = (out / "results.md").read_text()
    assert f"| alpha-nDCG@25 | {100 * result.mean['alpha_ndcg_at_25']:.1f} |" in table and table.strip() in said
    run(["fuse", f"runs=[{out},{out}]", f"output={tmp_path / 'fused'}"], capsys)
    (fused,) = read_results(tmp_path / "fused").values()
    assert fused.mean["alpha_ndcg_at_25"] == result.mean["alpha_ndcg_at_25"] > 0
    # The published rows are of BRIGHT's own corpora.
    assert "ReasonIR-8B" not in table


def test_a_task_without_aspects_beside_one_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, more in (("plain", {}), ("rich", {"aspects": [{"id": "x", "gold_ids": ["a"]}]})):
        task = tmp_path / "root" / name
        task.mkdir(parents=True)
        write_rows(task / "documents.jsonl", [{"id": "a", "content": "water"}, {"id": "b", "content": "rod"}])
        write_rows(task / "examples.jsonl", [{"id": "0", "query": "water", "gold_ids": ["a"], **more}])
    out = tmp_path / "out"
    run(["bright", f"data.dir={tmp_path / 'root'}", f"output_dir={out}", "retriever=bm25"], capsys)
    results = json.loads((out / "results.json").read_text())
    assert results["tasks"]["rich"]["alpha_ndcg_at_10"] == 1.0
    assert "alpha_ndcg_at_10" not in {**results["tasks"]["plain"], **results["average"]}
    assert "| over aspects | rich | average |" in (out / "results.md").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["beir", "retriever=bm25"], "give one of data.dir=FOLDER and data.hub=BeIR/NAME"),
        (["beir", "retriever=bm25", "data.dir=a", "data.hub=b"], "give one of data.dir=FOLDER and data.hub=BeIR/NAME"),
        (["beir", "retriever=bm25", "data.hub=nobody/nothing"], "hub:nobody/nothing:corpus cannot be loaded"),
        (["bright", "retriever=bm25", "data.hub=nobody/nothing"], "hub:nobody/nothing:examples cannot be loaded"),
    ],
)
def test_mistakes_are_one_line(command: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from reasonir.eval import cli

    with pytest.raises(SystemExit) as exit_info:
        cli.main(command)
    error = capsys.readouterr().err
    assert exit_info.value.code == 2 and said in error and error.count("\n") == 1


@requires_shared_data
@pytest.mark.shared_data
def test_the_traps_of_all_real_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All 12 tasks through the command, over documents made of the ids: a query that names them all finds them all.

    "N/A" and [] exclude nothing; a gold id that stands twice counts once; ids with slashes, %27, apostrophes and
    non-ASCII letters come back from the run file; empty documents are kept; thousands of exclusions are obeyed.
    """
    root, out = tmp_path / "root", tmp_path / "out"
    golds, excluded = {}, {}
    for file in sorted((SHARED_DATA / "bright/examples").glob("*.jsonl.gz")):
        task = file.name.removesuffix(".jsonl.gz")
        rows = [row for _, row in read_jsonl(file)]
        few = [*rows[:6], *[row for row in rows if not "".join(row["gold_ids"]).isascii()][:2]]
        rows = list({row["id"]: row for row in few}.values())
        golds[task] = {row["id"]: set(row["gold_ids"]) for row in rows}
        excluded[task] = {row["id"]: set(row["excluded_ids"]) - {"N/A"} for row in rows}
        ids = dict.fromkeys([i for row in rows for i in [*row["gold_ids"], *row["excluded_ids"]] if i != "N/A"])
        numbers = {identifier: f"word{number}" for number, identifier in enumerate(ids)}
        (root / task).mkdir(parents=True)
        documents = [{"id": identifier, "content": f"{word} common"} for identifier, word in numbers.items()]
        write_rows(root / task / "documents.jsonl", [*documents, {"id": "empty", "content": ""}])
        for row in rows:
            named = [numbers[i] for i in row["gold_ids"]] + [
                numbers[i] for i in list(row["excluded_ids"])[:50] if i in numbers
            ]
            row["query"] = " ".join([*named, "common"])
        write_rows(root / task / "examples.jsonl", rows)
    run(["bright", f"data.dir={root}", f"output_dir={out}", "retriever=bm25", "top=100"], capsys)
    results = read_results(out)
    assert len(results) == 12 and max(len(ids) for task in excluded.values() for ids in task.values()) > 5_000
    assert sum(len(ids) for ids in excluded["biology"].values()) == 0
    for task, result in results.items():
        found = read_run(str(out / task / "run.trec"))
        for query, gold in golds[task].items():
            assert not set(found[query]) & excluded[task][query]
            assert set(in_order(found[query])[: len(gold)]) == gold, (task, query)
        assert result.mean["recall_at_100"] == result.mean["ndcg_at_100"] == pytest.approx(1.0, abs=1e-6)
    odd = [document for hits in read_run(str(out / "theoremqa_questions/run.trec")).values() for document in hits]
    assert any(not identifier.isascii() for identifier in odd) and any("/" in identifier for identifier in odd)


@requires_shared_data
@pytest.mark.shared_data
@pytest.mark.parametrize("task", ["aops", "leetcode", "theoremqa_questions", "theoremqa_theorems"])
def test_tasks_without_pages_have_no_gold_page(task: str, tmp_path: Path) -> None:
    rows = [row for _, row in read_jsonl(SHARED_DATA / f"bright/examples/{task}.jsonl.gz")]
    (tmp_path / task).mkdir()
    write_rows(tmp_path / task / "examples.jsonl", rows)
    write_rows(tmp_path / task / "documents.jsonl", [{"id": "page", "content": ""}])
    (collection,) = read_bright(str(tmp_path), [task], long=True)
    assert len(collection.queries) == len(rows) and not any(query.gold for query in collection.queries)
