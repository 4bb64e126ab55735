"""From sources to an index through the commands; killed in the middle and started again, the same bytes."""

import json
import signal
from pathlib import Path

import faiss
import numpy as np
import pytest

from reasonir.eval import cli
from reasonir.model.tiny import build_tiny
from reasonir.retrieval.ann.search import search_index
from reasonir.retrieval.ann.shards import find_index
from reasonir.retrieval.top_k import exact_top_k
from tests.kit import fork
from tests.kit.texts import SENTENCES, write_rows

COUNT = 400
# Kills the process when it would name the file of the first argument: half of it is there by then.
PROGRAM = """
import os, signal, sys
from pathlib import Path

plain_replace, doomed = os.replace, sys.argv[1]

def replace(scratch, target):
    if Path(target).name == doomed:
        with open(scratch, "r+b") as stream:
            stream.truncate(Path(scratch).stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    plain_replace(scratch, target)

os.replace = replace
from reasonir.eval.cli import main
main(sys.argv[2:])
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must succeed; return what it printed."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    assert exit_info.value.code == 0, captured.err
    assert captured.err == ""
    return captured.out


def killed_at(name: str, *arguments: str) -> None:
    done = fork.run(["-c", PROGRAM, name, *arguments])
    assert done.returncode == -signal.SIGKILL, done.stderr


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.faiss"))}


@pytest.fixture
def sources(tmp_path: Path) -> str:
    """A corpus of many documents, a third of them twice, and a pool of search results that repeats some of it."""
    numbers = [i - i % 3 // 2 for i in range(COUNT)]  # 0 1 1 3 4 4 6 ...
    texts = [f"{SENTENCES[number % 7]} Observation {number}." for number in numbers]
    corpus = write_rows(tmp_path / "corpus.jsonl", [{"id": f"d{i}", "content": text} for i, text in enumerate(texts)])
    contexts = [{"retrieval text": text, "id": 0, "source": "x"} for text in [*texts[:5], "A text of its own.", ""]]
    pool = write_rows(tmp_path / "pool.jsonl", [{"query": "q", "raw_query": "q", "ctxs": contexts}] * 2)
    return f"source=[{corpus},{pool}]"


@pytest.mark.slow
def test_from_sources_to_hits(tmp_path: Path, sources: str, capsys: pytest.CaptureFixture[str]) -> None:
    store, encoded = tmp_path / "store", tmp_path / "encoded"
    make = ["datastore", sources, f"output_dir={store}", "dimension=32", "tokens_per_second=1000"]
    killed_at("passages.jsonl", *make)
    assert [path.name for path in store.iterdir() if path.name[0] != "."] == ["config.yaml"]
    said = run(capsys, *make)
    counts = json.loads((store / "manifest.json").read_text())["counts"]
    different = COUNT - COUNT // 3
    assert counts["documents"] == COUNT and counts["contexts"] == 14
    assert counts["passages"] == different + 1 and counts["empty"] == 2
    assert sum(counts[name] for name in ("passages", "empty", "duplicate")) == COUNT + 14
    assert list(counts["passages_of_source"].values()) == [different, 1]
    assert f"plan for {different + 1} passages" in said and "1,000 tokens/s" in said
    assert not list(store.glob(".*")), "what the killed run left is gone"

    model = tmp_path / "model"
    sizes = {"vocabulary_size": 400, "hidden_size": 32, "intermediate_size": 48, "layers": 1}
    build_tiny(SENTENCES, **sizes, heads=2, key_value_heads=1).save_pretrained(str(model))
    options = [f"model.path={model}", f"cache_dir={tmp_path}/cache", "precision=fp32"]
    run(capsys, "encode", f"input={store}/passages.jsonl", f"output_dir={encoded}", *options)
    write_rows(tmp_path / "queries.jsonl", [{"id": f"q{i}", "query": text} for i, text in enumerate(SENTENCES)])
    asked = tmp_path / "asked"
    run(capsys, "encode", f"input={tmp_path}/queries.jsonl", "side=query", f"output_dir={asked}", *options)

    build = ["index", f"embeddings={encoded}", "pq_bytes=8", "lists=4", "shards=3", f"queries={asked}"]
    faiss.omp_set_num_threads(1)  # as the process that is killed has
    killed_at("shard-00001.faiss", *build)
    index = encoded / "index"
    assert list(shards_of(index)) == ["shard-00000.faiss"] and (index / ".shard-00001.faiss.partial").exists()
    assert find_index(encoded) is None
    first = (index / "shard-00000.faiss").stat().st_mtime_ns
    said = run(capsys, *build)
    assert "shard-00000.faiss is there already" in said and "training" not in said
    assert (index / "shard-00000.faiss").stat().st_mtime_ns == first and not list(index.glob(".*"))
    broken = shards_of(index)
    assert "recall@10 against exact search over 8 queries" in said
    assert "is complete already" in run(capsys, *build)
    run(capsys, *build, "replace=true")
    assert shards_of(index) == broken, "an unbroken build gives the bytes of the broken one"

    rows, embeddings = np.load(asked / "embeddings.npy"), np.load(encoded / "embeddings.npy", mmap_mode="r")
    found = find_index(encoded)
    assert found is not None
    hits, _ = search_index(found, rows, 10)
    exact, _ = exact_top_k(rows, embeddings, 10)
    recall = json.loads((index / "recall.json").read_text())
    measured = np.mean([len({*a} & {*b}) / 10 for a, b in zip(hits, exact, strict=True)])
    assert recall["recall"] == pytest.approx(measured) and measured >= 0.95


def test_a_plan_needs_no_source_and_counting_writes_nothing(
    tmp_path: Path, sources: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    said = run(capsys, "datastore", "passages=10000000", "plan_only=true")
    assert "plan for 10,000,000 passages" in said and "read" not in said.split("hours")[0].replace("already", "")
    said = run(capsys, "datastore", sources, "plan_only=true", "chunk=words", "chunk_size=4", "overlap=1")
    assert "400 documents and 14 search results read" in said and "plan for" in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["datastore"], "source is missing: give source=[FILE,...], or plan_only=true passages=NUMBER"),
        (["datastore", "source=[a]", "chunk=tokens"], "chunk=tokens needs tokenizer=FOLDER"),
        (["datastore", "source=[a]", "overlap=256"], "overlap=256 must be 0 or more, and less than chunk_size=256"),
        (["datastore", "source=[nowhere]"], "source=nowhere: no such file or folder"),
        (["datastore", "chunk_sise=3"], "unknown option 'chunk_sise'; did you mean chunk_size"),
        (["index", "embeddings=nowhere"], "nowhere: no embeddings.npy here"),
        (["index", "embeddings=x", "recall_target=2"], "recall_target=2.0 must lie in (0, 1]"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    errors = capsys.readouterr().err
    assert exit_info.value.code == 2 and line in errors and errors.count("\n") == 1


def test_without_faiss_it_says_how_to_get_it(tmp_path: Path) -> None:
    program = "import sys; sys.modules['faiss'] = None; from reasonir.eval.cli import main; main(sys.argv[1:])"
    done = fork.run(["-c", program, "index", "embeddings=x"], cwd=tmp_path)
    assert done.returncode == 2 and "needs the faiss package: pip install 'reasonir[faiss]'" in done.stderr
    assert "Traceback" not in done.stderr
