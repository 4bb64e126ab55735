"""`reasonir-eval`'s tasks on small folders: what they write, that it agrees with itself, what they reuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasonir.eval import cli
from reasonir.model import Encoder
from reasonir.model.tiny import build_tiny
from reasonir.retrieval import sharding
from tests.kit.collections import TEXTS, rows_of, run
from tests.kit.texts import note_encoded, write_rows

CUTS = (1, 5, 10, 25, 50, 100)
METRICS = {f"{family}_at_{k}" for family in ("ndcg", "map", "recall", "precision") for k in CUTS} | {"mrr"}


def hits_of(file: Path) -> dict[str, list[str]]:
    hits: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        query, q0, document, rank, _, _ = line.split("\t" if "\t" in line else " ")
        hits.setdefault(query, []).append(document)
        assert q0 == "Q0" and int(rank) == len(hits[query])
    return hits


def results_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of everything but what tells of one run: times, reuse."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def ranked_in(folder: Path) -> dict[str, bytes]:
    """Return the bytes of everything that does not tell of options or counts."""
    return {name: content for name, content in results_of(folder).items() if not name.endswith((".yaml", "print.json"))}


@pytest.mark.parametrize("retriever", ["dense", "bm25", "bm25_query_weighted", "hybrid"])
def test_bright_writes_what_the_contract_names(
    bright_folder: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], retriever: str
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    options = [f"retriever={retriever}", f"model.path={tiny_model}", f"cache_dir={cache}"]
    said = run(["bright", f"data.dir={bright_folder}", f"output_dir={out}", *options], capsys)
    assert said.count("1 queries without gold left out") == 2
    results = json.loads((out / "results.json").read_text())
    assert set(results["tasks"]) == {"physics", "kitchen"}
    for task in ("physics", "kitchen"):
        metrics, rows = (
            json.loads((out / task / "metrics.json").read_text()),
            rows_of(out / task / "per_query.jsonl"),
        )
        assert set(metrics) == METRICS | {"num_queries"} and metrics["num_queries"] == 3
        assert [row["id"] for row in rows] == ["q0", "q1", "q3"]
        for name in METRICS:
            assert metrics[name] == pytest.approx(np.mean([row[name] for row in rows]), abs=1e-15)
        assert results["tasks"][task] == metrics
        hits = hits_of(out / task / "run.trec")
        assert set(hits) == {"q0", "q1", "q3"}
        # Not vacuous: without the exclusion these documents hold the query's words.
        assert f"{task}/0" not in hits["q0"] and not {f"{task}/2", f"{task}/9"} & set(hits["q3"])
        if retriever in ("dense", "hybrid"):
            assert sorted(map(len, hits.values())) == [8, 9, 10]
    for name, value in results["average"].items():
        values = [results["tasks"][task][name] for task in results["tasks"]]
        assert value == pytest.approx(sum(values) if name == "num_queries" else np.mean(values), abs=1e-15)
    table = (out / "results.md").read_text()
    assert "physics" in table and f"{100 * results['average']['ndcg_at_10']:.1f}" in table and table.strip() in said
    check_manifest(out)


def check_manifest(out: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    for key in (
        "command",
        "git_commit",
        "packages",
        "seed",
        "inputs",
        "counts",
        "wall_seconds",
        "peak_memory_gib",
    ):
        assert key in manifest, key
    assert manifest["inputs"]
    for item in manifest["inputs"]:
        assert len(item["sha256"]) == 64 and Path(item["path"]).is_file()
    assert (out / "config.yaml").is_file()


@pytest.mark.parametrize("retriever", ["dense", "bm25"])
def test_run_file_scored_again_gives_the_same_metrics(
    bright_folder: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], retriever: str
) -> None:
    out = tmp_path / "out"
    options = [f"retriever={retriever}", f"model.path={tiny_model}", f"cache_dir={tmp_path / 'cache'}"]
    run(["bright", f"data.dir={bright_folder}", f"output_dir={out}", *options], capsys)
    qrels = tmp_path / "qrels.txt"
    gold = {"q0": [1], "q1": [5, 4], "q3": [3]}
    qrels.write_text("".join(f"{q} 0 physics/{i} 1\n" for q, ids in gold.items() for i in ids) + "q2 0 x 0\n")
    scored = tmp_path / "scored" / "metrics.json"
    said = run(["score", f"run={out / 'physics/run.trec'}", f"qrels={qrels}", f"output={scored}"], capsys)
    assert json.loads(scored.read_text()) == json.loads((out / "physics" / "metrics.json").read_text())
    assert rows_of(scored.with_name("per_query.jsonl")) == rows_of(out / "physics" / "per_query.jsonl")
    assert "queries without gold 1" in said
    manifest = json.loads(scored.with_name("manifest.json").read_text())
    assert [Path(item["path"]).name for item in manifest["inputs"]] == ["run.trec", "qrels.txt"]


def test_second_run_reuses_and_changed_text_is_encoded_again(
    bright_folder: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded = note_encoded(monkeypatch)
    out = tmp_path / "out"
    command = ["bright", f"data.dir={bright_folder}", f"output_dir={out}", f"model.path={tiny_model}"]
    command.append(f"cache_dir={tmp_path / 'cache'}")
    said = run(command, capsys)
    # The second task's documents have the texts of the first; its queries another instruction.
    assert said.count("reused from the cache") == 1 and "physics documents: 10 reused" in said
    assert len(encoded) == 10 + 3 + 3
    first, encoded[:] = results_of(out), []
    said = run(command, capsys)
    assert said.count("unchanged since it was computed") == 2 and encoded == []
    assert results_of(out) == first
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert counts["physics"]["unchanged"] is True and counts["physics"]["documents"] == 10
    again = [f"output_dir={tmp_path / 'again'}" if option.startswith("output_dir") else option for option in command]
    said = run(again, capsys)
    assert said.count("reused from the cache") == 4 and encoded == []
    assert ranked_in(tmp_path / "again") == ranked_in(out)

    documents = rows_of(bright_folder / "physics" / "documents.jsonl")
    documents[1]["content"] = "Water in a dish is gone by evening."
    write_rows(bright_folder / "physics" / "documents.jsonl", documents)
    said = run(command, capsys)
    assert "physics documents: 10 encoded" in said and "physics queries: 3 reused" in said
    assert "kitchen: nDCG@10" in said and said.count("unchanged since it was computed") == 1
    assert ("", documents[1]["content"]) in encoded
    assert results_of(out)["physics/run.trec"] != first["physics/run.trec"]
    assert results_of(out)["kitchen/run.trec"] == first["kitchen/run.trec"]


def test_changed_model_at_the_same_path_is_encoded_again(
    bright_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    sizes = {"vocabulary_size": 400, "hidden_size": 32, "intermediate_size": 48, "layers": 1}
    command = ["bright", f"data.dir={bright_folder}", f"output_dir={tmp_path / 'out'}", f"model.path={folder}"]
    command.append(f"cache_dir={tmp_path / 'cache'}")
    runs = []
    for seed in (0, 1):
        build_tiny(TEXTS, **sizes, heads=2, key_value_heads=1, seed=seed).save_pretrained(str(folder))
        assert "kitchen documents: 10 encoded" in run(command, capsys)
        runs.append((tmp_path / "out" / "physics" / "run.trec").read_bytes())
    assert runs[0] != runs[1]


def test_rewritten_queries_and_instructions(
    bright_folder: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = note_encoded(monkeypatch)
    common = [f"data.dir={bright_folder}", f"model.path={tiny_model}", f"cache_dir={tmp_path / 'cache'}"]

    def queries(name: str, *more: str) -> set[tuple[str, str]]:
        seen.clear()
        run(["bright", *common, f"output_dir={tmp_path / name}", *more], capsys)
        return {pair for pair in seen if "lid of the jar would" not in pair[1] and pair[1].startswith("Why would")}

    text = "Why would the lid of the jar not open?"
    kitchen = "Given a kitchen post, retrieve relevant passages that help answer the post"
    assert queries("a") == {("Find the principle", text), (kitchen, text)}
    assert queries("b", "queries=longer", "tasks=[physics]") == {("Find the principle", f"{text} Iron and salt.")}
    assert queries("c", "instruction=none", "tasks=[kitchen]") == {("", text)}
    assert queries("d", "instruction='Look in {task}'", "tasks=[kitchen]") == {("Look in kitchen", text)}
    table = (tmp_path / "b" / "results.json").read_text()
    assert set(json.loads(table)["tasks"]) == {"physics"}


def test_one_task_folder_alone(bright_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both, one = tmp_path / "both", tmp_path / "one"
    run(["bright", f"data.dir={bright_folder}", f"output_dir={both}", "retriever=bm25"], capsys)
    run(["bright", f"data.dir={bright_folder / 'physics'}", f"output_dir={one}", "retriever=bm25"], capsys)
    assert (one / "physics" / "run.trec").read_bytes() == (both / "physics" / "run.trec").read_bytes()
    assert {path.name for path in one.iterdir() if path.is_dir()} == {"physics"}


@pytest.mark.parametrize("retriever", ["dense", "bm25"])
def test_beir(
    beir_folder: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], retriever: str
) -> None:
    out = tmp_path / "out"
    options = [f"retriever={retriever}", f"model.path={tiny_model}", f"cache_dir={tmp_path / 'cache'}"]
    said = run(["beir", f"data.dir={beir_folder}", "split=dev", f"output_dir={out}", *options], capsys)
    metrics, rows = json.loads((out / "metrics.json").read_text()), rows_of(out / "per_query.jsonl")
    assert [row["id"] for row in rows] == ["a", "b"] and metrics["num_queries"] == 2
    assert "1 queries without gold left out" in said
    assert json.loads((out / "results.json").read_text())["tasks"] == {"water": metrics}
    if retriever == "bm25":
        assert rows[1]["ndcg_at_10"] == 1.0
    scored = tmp_path / "scored" / "metrics.json"
    qrels = beir_folder / "qrels" / "dev.tsv"
    run(["score", f"run={out / 'run.trec'}", f"qrels={qrels}", f"output={scored}"], capsys)
    assert json.loads(scored.read_text()) == metrics
    check_manifest(out)


def test_score_takes_excluded_documents_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.trec").write_text(
        "a Q0 x 1 3 me\na Q0 y 2 2 me\na Q0 z 3 1 me\nb Q0 x 1 3 me\nb Q0 y 2 2 me\n", encoding="utf-8"
    )
    (tmp_path / "score.json").write_text(
        json.dumps({"a": {"x": 3, "y": 2.0, "z": 1}, "b": {"x": 3, "y": 2}}), encoding="utf-8"
    )
    (tmp_path / "qrels").write_text("a 0 y 1\nb 0 y 1\nnone 0 y 1\n", encoding="utf-8")
    rows = [{"id": "a", "excluded_ids": ["x"]}, {"id": "b", "excluded_ids": ["N/A"]}]
    write_rows(tmp_path / "excluded.jsonl", rows)

    def scores(file: str, *more: str) -> dict[str, float]:
        out = tmp_path / f"{file}-{len(more)}" / "metrics.json"
        run(["score", f"run={tmp_path / file}", f"qrels={tmp_path / 'qrels'}", f"output={out}", *more], capsys)
        return {row["id"]: row["mrr"] for row in rows_of(out.with_name("per_query.jsonl"))}

    for file in ("run.trec", "score.json"):
        assert scores(file) == {"a": 0.5, "b": 0.5, "none": 0.0}
        assert scores(file, f"excluded={tmp_path / 'excluded.jsonl'}") == {"a": 1.0, "b": 0.5, "none": 0.0}


def test_manifests_keep_the_contract(beir_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row counts of the inputs; and `score` says as much about itself as the others."""
    out, scored = tmp_path / "out", tmp_path / "scored"
    run(["beir", f"data.dir={beir_folder}", "split=dev", f"output_dir={out}", "retriever=bm25"], capsys)
    inputs = json.loads((out / "manifest.json").read_text())["inputs"]
    rows = {Path(item["path"]).name: item.get("rows") for item in inputs}
    qrels = f"qrels={beir_folder / 'qrels' / 'dev.tsv'}"
    run(["score", f"run={out / 'run.trec'}", qrels, f"output={scored / 'metrics.json'}"], capsys)
    manifest = json.loads((scored / "manifest.json").read_text())
    missing = [key for key in ("command", "git_commit", "packages", "peak_memory_gib") if key not in manifest]
    assert (rows.get("corpus.jsonl"), rows.get("queries.jsonl")) == (len(TEXTS), 3)
    assert missing == [] and (scored / "config.yaml").is_file()


@pytest.fixture
def encoding(tmp_path: Path, tiny_model: Path) -> tuple[list[str], Path]:
    """A command without its output folder, and its input."""
    texts = tmp_path / "texts.jsonl"
    write_rows(texts, [{"id": f"t{i}", "content": text} for i, text in enumerate(TEXTS)])
    command = ["encode", f"input={texts}", f"model.path={tiny_model}", "max_tokens=24", "precision=fp32"]
    return command, texts


def test_encode_documents_and_queries(
    encoding: tuple[list[str], Path], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, texts = encoding
    encoder = Encoder.from_pretrained(str(tiny_model))
    said = run([*command, f"output_dir={tmp_path / 'documents'}"], capsys)
    array = np.load(tmp_path / "documents" / "embeddings.npy", mmap_mode="r")
    assert array.dtype == np.float32 and (tmp_path / "documents" / "ids.txt").read_text().split("\n")[:-1] == [
        f"t{i}" for i in range(len(TEXTS))
    ]
    expected = encoder.encode(TEXTS, max_tokens=24)
    np.testing.assert_array_equal(array, expected)
    assert f"{encoder.truncated_texts} cut at 24 tokens" in said and encoder.truncated_texts > 0
    check_manifest(tmp_path / "documents")

    write_rows(texts, [{"id": f"q{i}", "query": text} for i, text in enumerate(TEXTS[::-1])])
    options = ["side=query", "instruction=Find", "dtype=float16", f"output_dir={tmp_path / 'queries'}"]
    run([*command, *options], capsys)
    array = np.load(tmp_path / "queries" / "embeddings.npy")
    assert array.dtype == np.float16
    expected = encoder.encode(TEXTS[::-1], instruction="Find", max_tokens=24)
    np.testing.assert_allclose(array, expected, atol=1e-3)
    assert not np.allclose(expected, encoder.encode(TEXTS[::-1], max_tokens=24), atol=1e-3)


def break_after(monkeypatch: pytest.MonkeyPatch, blocks: int) -> Callable[[], int]:
    """Make the encoder fail after some blocks of three texts; return a counter of the texts embedded."""
    plain, done = Encoder._embed_block, []

    def fragile(self: Encoder, block: Any, *args: Any) -> Any:
        if len(done) >= blocks:
            raise KeyboardInterrupt
        done.append(len(block))
        return plain(self, block, *args)

    monkeypatch.setattr(sharding, "BLOCK_TEXTS", 3)
    monkeypatch.setattr(Encoder, "_embed_block", fragile)
    return lambda: sum(done)


def interrupted(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 130


def test_encode_broken_off_goes_on(
    encoding: tuple[list[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, _ = encoding
    whole, broken = tmp_path / "whole", [*command, f"output_dir={tmp_path / 'broken'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "BLOCK_TEXTS", 3)
        run([*command, f"output_dir={whole}"], capsys)
    with pytest.MonkeyPatch.context() as patch:
        count = break_after(patch, 1)
        interrupted(broken)
        assert count() == 3
        assert not (tmp_path / "broken" / "embeddings.npy").exists()
        assert not (tmp_path / "broken" / "manifest.json").exists()
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        count = break_after(patch, 100)
        run(broken, capsys)
        assert count() == len(TEXTS) - 3
        assert "complete already" in run(broken, capsys)
        assert count() == len(TEXTS) - 3
    names = ("embeddings.npy", "ids.txt")
    assert [(whole / n).read_bytes() for n in names] == [(tmp_path / "broken" / n).read_bytes() for n in names]
    left = {path.name for path in (tmp_path / "broken").iterdir()}
    assert left == {*names, "config.yaml", "manifest.json"}


@pytest.mark.parametrize("when", ["finished", "broken off"])
def test_encode_notices_changed_input(
    encoding: tuple[list[str], Path],
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    when: str,
) -> None:
    """The same path with other texts, as many: old rows may not be given out as theirs."""
    command, texts = encoding
    command = [*command, f"output_dir={tmp_path / 'out'}"]
    with pytest.MonkeyPatch.context() as patch:
        break_after(patch, 1 if when == "broken off" else 100)
        with pytest.raises(SystemExit):
            cli.main(command)
    capsys.readouterr()
    changed = [text.upper() for text in TEXTS]
    write_rows(texts, [{"id": f"t{i}", "content": text} for i, text in enumerate(changed)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main(command)
    if exit_info.value.code == 2:  # a refusal is an answer too
        assert "input" in capsys.readouterr().err
        return
    expected = Encoder.from_pretrained(str(tiny_model)).encode(changed, max_tokens=24)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "embeddings.npy"), expected)


def test_encode_killed_while_joining_goes_on(
    encoding: tuple[list[str], Path], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, _ = encoding
    command = [*command, f"output_dir={tmp_path / 'out'}"]

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reasonir.retrieval.sharding.ShardedEncoding.join", killed)
        interrupted(command)
    capsys.readouterr()
    run(command, capsys)
    expected = Encoder.from_pretrained(str(tiny_model)).encode(TEXTS, max_tokens=24)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "embeddings.npy"), expected)
    assert (tmp_path / "out" / "manifest.json").is_file()


DAMAGES: dict[str, Callable[[bytearray], bytes]] = {
    "zeros": lambda content: bytes(content[:128]) + bytes(len(content) - 128),
    "truncated": lambda content: bytes(content[:-5]),
    "one bit": lambda content: bytes([*content[:-4], content[-4] ^ 1, *content[-3:]]),
    "NaN": lambda content: bytes(content[:-4]) + np.float32(np.nan).tobytes(),
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_cache_is_encoded_again(
    bright_folder: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    """One flipped bit of the last place keeps every norm at 1; the checksum tells it all the same."""
    cache = tmp_path / "cache"
    command = [
        "bright",
        f"data.dir={bright_folder}",
        "tasks=[physics]",
        f"model.path={tiny_model}",
        f"cache_dir={cache}",
    ]
    run([*command, f"output_dir={tmp_path / 'first'}"], capsys)
    files = sorted((cache / "embeddings").glob("*.npy"))
    assert len(files) == 2
    whole = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(DAMAGES[damage](bytearray(file.read_bytes())))
    said = run([*command, f"output_dir={tmp_path / 'again'}"], capsys)
    assert said.count("are damaged; encoding again") == 2
    assert [file.read_bytes() for file in files] == whole
    kept = [path.suffix for path in (cache / "embeddings").iterdir() if path.suffix != ".lock"]
    assert sorted(kept) == [".json", ".json", ".npy", ".npy"]
    assert ranked_in(tmp_path / "again") == ranked_in(tmp_path / "first")
