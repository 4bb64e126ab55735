"""`reasonir-eval fuse` and `retriever=hybrid` as commands: the same arithmetic, files, counts, refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasonir.data.trec import read_run
from reasonir.eval import cli
from reasonir.model.tiny import build_tiny
from tests.kit.texts import SENTENCES, write_rows

METHODS = ("linear", "minmax", "zscore", "rrf")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    assert exit_info.value.code == code, captured.err
    if code:
        assert captured.err.count("\n") == 1 and captured.err.startswith("reasonir-eval fuse: error: ")
    return captured.err if code else captured.out


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BRIGHT folder of two tasks, and its results by an encoder (dense) and by BM25 (bm25)."""
    root = tmp_path_factory.mktemp("fuse")
    sizes = {"vocabulary_size": 400, "hidden_size": 32, "intermediate_size": 48, "layers": 1}
    build_tiny(SENTENCES, **sizes, heads=2, key_value_heads=1).save_pretrained(str(root / "model"))
    for task in ("biology", "kitchen"):
        (root / "bright" / task).mkdir(parents=True)
        rows = [{"id": f"{task} {i}", "content": text} for i, text in enumerate(SENTENCES)]
        write_rows(root / "bright" / task / "documents.jsonl", rows)
        examples = [
            {"id": "q0", "query": "Why did the water in the dish vanish?", "gold_ids": [f"{task} 1"],
             "excluded_ids": [f"{task} 0"]},
            {"id": "q1", "query": "zzz", "gold_ids": [f"{task} 3"], "excluded_ids": ["N/A"]},
        ]  # fmt: skip
        write_rows(root / "bright" / task / "examples.jsonl", examples)
    for retriever in ("dense", "bm25"):
        with pytest.raises(SystemExit) as exit_info:
            cli.main(bright(root, retriever, f"output_dir={root / retriever}"))
        assert exit_info.value.code == 0
    return root


def bright(root: Path, retriever: str, *more: str) -> list[str]:
    options = [f"retriever={retriever}", f"model.path={root / 'model'}", f"cache_dir={root / 'cache'}"]
    return ["bright", f"data.dir={root / 'bright'}", *options, *more]


@pytest.mark.parametrize(
    "method", [*(pytest.param(name, marks=pytest.mark.slow) for name in METHODS[:-1]), METHODS[-1]]
)
def test_hybrid_is_the_fusion_of_its_parts(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    hybrid, fused = tmp_path / "hybrid", tmp_path / "fused"
    options = [f"hybrid.method={method}", "hybrid.weights=[0.3,0.7]", f"output_dir={hybrid}"]
    said = run(capsys, *bright(results, "hybrid", *options))
    both = f"runs=[{results / 'dense'},{results / 'bm25'}]"
    run(capsys, "fuse", both, f"method={method}", "weights=[0.3,0.7]", f"output={fused}")
    differ = 0
    for task in ("biology", "kitchen"):
        for part in ("dense", "bm25"):
            assert (hybrid / task / f"{part}.trec").read_bytes() == (results / part / task / "run.trec").read_bytes()
        assert read_run(str(hybrid / task / "run.trec")) == read_run(str(fused / task / "run.trec"))
        for name in ("metrics.json", "per_query.jsonl"):
            assert (hybrid / task / name).read_bytes() == (fused / task / name).read_bytes()
        differ += read_run(str(fused / task / "run.trec")) != read_run(str(results / "dense" / task / "run.trec"))
        dense, bm25, whole = (
            json.loads((folder / task / "metrics.json").read_text())["ndcg_at_10"]
            for folder in (results / "dense", results / "bm25", hybrid)
        )
        assert f"{task}: nDCG@10 {whole:.4f}, dense {dense:.4f}, bm25 {bm25:.4f} (2 queries)" in said
    assert differ == 2
    for name in ("results.json",):
        assert (hybrid / name).read_bytes() == (fused / name).read_bytes()
    counts = json.loads((fused / "manifest.json").read_text())["counts"]
    assert counts["biology"]["queries_missing"] == {str(results / "dense"): 0, str(results / "bm25"): 1}, "zzz"
    assert "biology" in (fused / "results.md").read_text()
    assert run(capsys, *bright(results, "hybrid", *options)).count("unchanged since it was computed") == 2


def test_run_files_and_score_json(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rerank, bm25 = tmp_path / "score.json", tmp_path / "bm25.trec"
    rerank.write_text(json.dumps({"a": {"x": 0.8, "y": 0.8, "z": 0}, "b": {"x": 1}}))
    bm25.write_text("a Q0 x 1 7 me\na Q0 y 2 9 me\na Q0 w 3 3 me\n")
    command = ["fuse", f"runs=[{rerank},{bm25}]", "weights=[100,1]"]
    said = run(capsys, *command, f"output={tmp_path / 'out' / 'fused.trec'}")
    assert f"{bm25} has no hits for 1 of 2 queries" in said
    expected = ["a Q0 y 1 89.0 linear", "a Q0 x 2 87.0 linear", "a Q0 w 3 3.0 linear", "a Q0 z 4 0.0 linear"]
    assert (tmp_path / "out" / "fused.trec").read_text().splitlines() == [*expected, "b Q0 x 1 100.0 linear"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"]["queries_missing"] == {str(rerank): 0, str(bm25): 1}
    assert [item["path"] for item in manifest["inputs"]] == [str(rerank), str(bm25)]
    assert (tmp_path / "out" / "config.yaml").is_file()
    run(capsys, *command, "top=2", f"output={tmp_path / 'out' / 'fused.json'}")
    assert json.loads((tmp_path / "out" / "fused.json").read_text()) == {"a": {"y": 89.0, "x": 87.0}, "b": {"x": 100.0}}


def test_without_its_data_a_folder_is_fused_and_not_scored(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dense", "bm25", "bright"):
        shutil.copytree(results / name, tmp_path / name)
        if name != "bright":
            file = tmp_path / name / "config.yaml"
            file.write_text(file.read_text().replace(str(results / "bright"), str(tmp_path / "gone")))
    command = ["fuse", f"runs=[{tmp_path / 'dense'},{tmp_path / 'bm25'}]", "method=rrf"]
    said = run(capsys, *command, f"output={tmp_path / 'runs'}")
    assert "the fused runs are not scored: " in said and str(tmp_path / "gone") in said
    assert (tmp_path / "runs" / "kitchen" / "run.trec").is_file() and not (tmp_path / "runs" / "results.json").exists()
    scored = [*command, f"data.dir={tmp_path / 'bright'}", "tasks=[kitchen]", f"output={tmp_path / 'scored'}"]
    run(capsys, *scored)
    assert list(json.loads((tmp_path / "scored" / "results.json").read_text())["tasks"]) == ["kitchen"]


def rename_query(run_file: Path) -> None:
    run_file.write_text(run_file.read_text().replace("q0", "q9").replace("q1", "q8"))


MISTAKES: list[tuple[str, Callable[[Path], Any], list[str], str]] = [
    ("weights", lambda root: None, ["weights=[1,2,3]"], "weights=[1.0, 2.0, 3.0] must be 2 numbers"),
    ("negative weight", lambda root: None, ["weights=[1,-1]"], "weights=[1.0, -1.0] must be numbers of 0 or more"),
    ("no weight", lambda root: None, ["weights=[0,0]"], "not all 0"),
    ("method", lambda root: None, ["method=sum"], "method=sum"),
    ("task", lambda root: None, ["tasks=[chemistry]"], "has no task 'chemistry', only biology, kitchen"),
    ("one run", lambda root: None, ["runs=[{dense}]"], "must be two or more"),
    ("no such run", lambda root: None, ["runs=[{dense},{root}/x]"], "x: no such file or folder"),
    ("mixed", lambda root: None, ["runs=[{dense},{dense}/biology/run.trec]"], "mixes files and folders"),
    ("document", lambda root: (root / "bm25/biology/run.trec").write_text("q0 Q0 d9 1 2 me\n"), [], "document 'd9'"),
    ("query ids", lambda root: rename_query(root / "bm25/kitchen/run.trec"), [], "names query 'q9' (1 in all)"),
    ("disjoint", lambda root: rename_query(root / "bm25/kitchen/run.trec"),
     ["runs=[{dense}/kitchen/run.trec,{root}/bm25/kitchen/run.trec]"], "has no query in common"),
    ("unfinished", lambda root: (root / "bm25/results.json").unlink(), [], "holds no results.json"),
    ("broken run", lambda root: (root / "bm25/biology/run.trec").write_text("q0 Q0 d9 1 nan me\n"), [], "run.trec:1"),
    ("top", lambda root: None, ["top=0"], "top=0"),
    ("typo", lambda root: None, ["weight=[1,1]"], "did you mean weights?"),
    ("other command", lambda root: None, ["output={dense}"], "holds a run of another configuration"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "options", "expected"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_mistakes(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any],
    options: list[str], expected: str,
) -> None:  # fmt: skip
    for name in ("dense", "bm25"):
        shutil.copytree(results / name, tmp_path / name)
    # Its checksums would be the first to tell; a folder without one is taken as it is.
    (tmp_path / "bm25" / "manifest.json").unlink()
    spoil(tmp_path)
    given = [f"runs=[{tmp_path / 'dense'},{tmp_path / 'bm25'}]", f"output={tmp_path / 'out'}"]
    given += [option.format(dense=tmp_path / "dense", root=tmp_path) for option in options]
    assert expected in run(capsys, "fuse", *{option.split("=")[0]: option for option in given}.values(), code=2)
    assert not (tmp_path / "out").exists()
