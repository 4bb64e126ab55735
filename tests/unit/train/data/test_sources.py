"""Sources from configuration to batches: files, a copy of the hub's data set, ids, counts that differ."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasonir.core.errors import UserError
from reasonir.core.files import write_jsonl
from reasonir.train import cli
from reasonir.train.config import DataConfig, SourceConfig
from reasonir.train.data import sources
from reasonir.train.data.sources import (
    Source,
    compare_rows,
    describe_sources,
    input_paths,
    list_sources,
    mixing_weights,
    open_sources,
    published_average,
    read_all_documents,
    report_rows,
    training_texts,
)
from tests.kit.texts import SENTENCES

HUB_CARD = """---
configs:
- config_name: vl
  data_files: [{split: train, path: vl/train.parquet}]
- config_name: hq
  data_files: [{split: train, path: hq/train.parquet}]
---
"""
BRIGHT_CARD = """---
configs:
- config_name: documents
  data_files: [{split: biology, path: documents/biology.parquet}, {split: pony, path: documents/pony.parquet}]
---
"""
BIOLOGY = [{"id": "cells/1.txt", "content": "text about cells"}, {"id": "shared", "content": "as biology has it"}]
PONY = [{"id": "loops/1.txt", "content": "text about loops"}, {"id": "shared", "content": "as pony has it"}]
VL = [{"query": ["Match it", f"long query {i}"], "pos": [["", p]], "neg": [["", "other text"]]}
      for i, p in enumerate(["label", "a longer positive", "tag", "another long positive"])]  # fmt: skip
HQ = [{"query": ["Solve it", f"hard query {i}"], "pos": [["", p]], "neg": [["", "a written negative"]]}
      for i, p in enumerate(["cells/1.txt", "loops/1.txt", "cells/1.txt"])]  # fmt: skip


def parquet(path: Path, rows: list[dict]) -> None:
    pyarrow, tables = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    tables.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders as the hub's data sets are laid out, and a cache of the datasets library beside them."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    for name, card, tables in (
        ("release", HUB_CARD, {"vl/train": VL, "hq/train": HQ}),
        ("bright", BRIGHT_CARD, {"documents/biology": BIOLOGY, "documents/pony": PONY}),
    ):
        for table, rows in tables.items():
            parquet(tmp_path / name / f"{table}.parquet", rows)
        (tmp_path / name / "README.md").write_text(card, encoding="utf-8")
    return tmp_path


def data(tmp_path: Path, files: tuple[str, ...] = (), **changes: Any) -> DataConfig:
    defaults: dict = {"sources": {}, "published_rows": None, "documents": None, "weights": None}
    return DataConfig(**{"files": list(files), **defaults, "cache_dir": str(tmp_path / "cache"), **changes})


def opened(config: DataConfig, tiny: Any) -> list:
    found = list_sources(config)
    documents = read_all_documents(found)
    limits = {"query_max_tokens": 64, "document_max_tokens": 64}
    return open_sources(found, documents, tiny.template, cache_dir=config.cache_dir, **limits)


def test_the_release_is_read_from_a_copy_of_the_hub(hub: Path, tiny) -> None:
    release = {
        "vl": SourceConfig(path=f"hub:{hub}/release:vl:train", rows=5, min_positive_words=2),
        "hq": SourceConfig(path=f"hub:{hub}/release:hq:train", rows=3, documents=[f"hub:{hub}/bright"]),
    }
    config = data(hub, sources=release)
    documents = read_all_documents(list_sources(config))
    texts = list(training_texts(list_sources(config), documents))
    assert any(text.endswith("text about cells") for text in texts)
    assert not any("cells/1.txt" in text or text.endswith("label") for text in texts)
    vl, hq = opened(config, tiny)
    assert (vl.rows, vl.left_out, hq.rows, hq.left_out) == (2, 2, 3, 0)
    assert report_rows(list_sources(config), [vl, hq], None) == [
        "vl: 4 rows, 5 published (-1); 2 of 4 rows left out (every positive has fewer than 2 words)"
    ]
    assert input_paths(list_sources(config)) == [f"{hub}/release", f"{hub}/bright"]


def test_an_id_with_a_text_in_each_task_is_refused_by_row(hub: Path, tiny) -> None:
    write_jsonl(hub / "rows.jsonl", [*HQ, {"query": "q", "pos": ["shared"]}])
    for task, rows in (("biology", BIOLOGY), ("pony", PONY)):
        write_jsonl(hub / "folder" / task / "documents.jsonl", rows)
    for corpus in (f"hub:{hub}/bright", f"{hub}/folder"):
        config = data(hub, sources={"own": SourceConfig(path=f"{hub}/rows.jsonl", documents=[corpus])})
        with pytest.raises(UserError, match=r"rows\.jsonl:4: .*'shared', which is ambiguous.*biology.* and .*pony"):
            opened(config, tiny)
    config.sources["own"].documents = [f"{hub}/folder/biology", f"{hub}/folder/pony/documents.jsonl"]
    with pytest.raises(UserError, match="ambiguous"):
        opened(config, tiny)
    # One task alone is not ambiguous.
    write_jsonl(hub / "rows.jsonl", [{"query": "q", "pos": ["shared"]}])
    config.sources["own"].documents = [f"{hub}/folder/biology"]
    assert opened(config, tiny)[0].rows == 1


def test_a_corpus_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = sources.read_lookup
    monkeypatch.setattr(sources, "read_lookup", lambda path: (read.append(path), real(path))[1])
    for name in ("one", "two"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"id": f"{name} id", "content": name}])
        write_jsonl(tmp_path / f"rows_{name}.jsonl", [{"query": "q", "pos": ["p"]}])
    one, two = f"{tmp_path}/one.jsonl", f"{tmp_path}/two.jsonl"
    rows = f"{tmp_path}/rows_one.jsonl"
    named = {
        "both": SourceConfig(path=rows, documents=[one, two]),
        "same": SourceConfig(path=rows, documents=[two]),
        "none": SourceConfig(path=rows, documents=[]),
        "shared": SourceConfig(path=rows),
    }
    config = data(tmp_path, (f"{tmp_path}/rows_two.jsonl",), sources=named, documents=[one])
    documents = read_all_documents(list_sources(config))
    assert read == [one, two]
    assert documents == {
        (): None, (one,): {"one id": "one"}, (two,): {"two id": "two"}, (one, two): {"one id": "one", "two id": "two"},
    }  # fmt: skip


def test_files_come_first_and_share_the_settings_of_the_data(tmp_path: Path) -> None:
    named = {"a": SourceConfig(path="a.jsonl", instruction="find", rows=7, min_positive_words=2, weight=3.0)}
    first, second = list_sources(data(tmp_path, ("f.jsonl",), sources=named, documents=["corpus"]))
    assert first == Source("f.jsonl", "f.jsonl", ("",), ("corpus",), None, 0, None)
    assert second == Source("a", "a.jsonl", ("find",), ("corpus",), 7, 2, 3.0)
    assert mixing_weights(list_sources(data(tmp_path, sources=named))) == [3.0]
    named["a"].weight = None
    assert mixing_weights(list_sources(data(tmp_path, ("f.jsonl",), sources=named))) is None
    assert mixing_weights(list_sources(data(tmp_path, ("f.jsonl",), sources=named, weights=[0.0, 2.0]))) == [0.0, 2.0]


def test_numbers_and_instructions_of_a_source_reach_its_line_and_the_average(tmp_path: Path) -> None:
    own = SourceConfig(path="a.jsonl", rows=60, instruction=["find", ""], global_batch_queries=2, negatives_per_query=7)
    named = {"a": own, "b": SourceConfig(path="b.jsonl", rows=40)}
    found = list_sources(data(tmp_path, sources=named))
    assert found[0].instructions == ("find", "")
    line, plain = describe_sources(found, None)
    assert "one of 2 instructions in each epoch; 2 queries a batch; 7 negatives a query" in line
    assert "instructions of its own or none" in plain and "a batch" not in plain
    # 30 batches of 2 and 10 of 4
    assert published_average(found, [2, 4], 4) == pytest.approx(2.5)
    assert published_average(found[1:], [4], 4) == 4
    assert published_average([replace(source, published_rows=None) for source in found], [2, 4], 4) is None
    weighted = [replace(source, published_rows=None, weight=1.0) for source in found]
    assert published_average(weighted, [2, 4], 4) == pytest.approx(3)


def test_a_tokenizer_learns_from_every_instruction_of_a_list(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"query": f"q{i}", "pos": [f"p{i}"]} for i in range(4)])
    for instruction, seen in (("find", ["find"] * 4), (["find", ""], ["find", "", "find", ""])):
        named = {"a": SourceConfig(path=f"{tmp_path}/rows.jsonl", instruction=instruction)}
        found = list_sources(data(tmp_path, sources=named))
        texts = list(training_texts(found, read_all_documents(found)))
        assert [text.split("\n")[0] for text in texts if text.split("\n")[-1].startswith("q")] == seen


@pytest.mark.parametrize(
    ("published", "words", "counts", "expected"),
    [
        (None, 0, (9, 0), None),
        (9, 0, (9, 0), None),
        (491_007, 0, (485_823, 0), "x: 485,823 rows, 491,007 published (-5,184)"),
        (8, 0, (9, 0), "x: 9 rows, 8 published (+1)"),
        (9, 3, (7, 2), "x: 2 of 9 rows left out (every positive has fewer than 3 words)"),
    ],
)
def test_counts_are_compared_with_what_was_published(
    published: int | None, words: int, counts: tuple[int, int], expected: str | None
) -> None:
    assert compare_rows(Source("x", "x.jsonl", ("",), (), published, words, None), *counts) == expected


def test_a_sum_is_compared_over_the_named_sources(tmp_path: Path, tiny) -> None:
    for name, count in (("file", 5), ("a", 2), ("b", 3)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"query": f"q{i}", "positive": "p"} for i in range(count)])
    named = {name: SourceConfig(path=f"{tmp_path}/{name}.jsonl", instruction=f"Find {name}") for name in "ab"}
    config = data(tmp_path, (f"{tmp_path}/file.jsonl",), sources=named, published_rows=5)
    stores = opened(config, tiny)
    assert [store.meta["query_instruction"] for store in stores] == ["", "Find a", "Find b"]
    assert report_rows(list_sources(config), stores, 5) == []
    assert report_rows(list_sources(config), stores, 1_005) == ["all named sources: 5 rows, 1,005 published (-1,000)"]


def test_the_description_reads_nothing(tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").write_bytes(b"not JSON" * 250_000)
    (tmp_path / "bright").mkdir()
    named = {
        "there": SourceConfig(path=f"{tmp_path}/there.jsonl", instruction="Find it", rows=1_234, weight=2.0),
        "gone": SourceConfig(path=f"{tmp_path}/gone.jsonl", min_positive_words=2, documents=[f"{tmp_path}/bright"]),
        "hub": SourceConfig(path="hub:nobody/nothing:hq:train", documents=["hub:nobody/corpus", f"{tmp_path}/no"]),
        "copy": SourceConfig(path=f"hub:{tmp_path}/bright:vl:train"),
    }
    there, gone, hub, copy, together = describe_sources(list_sources(data(tmp_path, sources=named)), 5_000)
    assert there == (
        f"source there: {tmp_path}/there.jsonl (2.0 MB); 1,234 rows published; instruction 'Find it'; weight 2"
    )
    assert "gone.jsonl (MISSING)" in gone and "fewer than 2 words" in gone and "bright (folder)" in gone
    assert "hub:nobody/nothing:hq:train (from the hub)" in hub
    assert f"ids looked up in hub:nobody/corpus (from the hub) and {tmp_path}/no (MISSING)" in hub
    assert "(local folder)" in copy
    assert together == "named sources together: 5,000 rows published"


def test_missing_files_are_named_before_any_corpus_is_read(tmp_path: Path) -> None:
    named = {name: SourceConfig(path=f"{tmp_path}/{name}.jsonl", documents=["no corpus"]) for name in ("a", "b", "c")}
    write_jsonl(tmp_path / "b.jsonl", [{"query": "q", "pos": ["p"]}])
    with pytest.raises(UserError) as caught:
        read_all_documents(list_sources(data(tmp_path, sources=named)))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/a.jsonl: no such file (nor are those of c)")
    assert "data.sources.a.path=FILE" in said


def test_training_on_two_named_sources(tmp_path: Path, tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """The command itself: one source of texts with an instruction, one of ids; counts that differ are said."""
    from reasonir.model.folders import save_encoder

    save_encoder(tiny, str(tmp_path / "model"), max_tokens=64)
    echo = [{"query": SENTENCES[i], "positive": SENTENCES[i + 1], "negative": SENTENCES[i + 2]} for i in range(5)]
    write_jsonl(tmp_path / "echo.jsonl", echo)
    write_jsonl(tmp_path / "ids.jsonl", [{**row, "query": row["query"][1]} for row in HQ])
    for task, rows in (("biology", BIOLOGY), ("pony", PONY)):
        write_jsonl(tmp_path / "bright" / task / "documents.jsonl", rows)
    options = [
        f"output_dir={tmp_path}/run", f"model.path={tmp_path}/model", f"data.cache_dir={tmp_path}/cache",
        f"+data.sources={{echo: {{path: {tmp_path}/echo.jsonl, instruction: Find it, rows: 7}}}}",
        f"+data.sources={{ids: {{path: {tmp_path}/ids.jsonl, documents: [{tmp_path}/bright]}}}}",
        "query_max_tokens=64", "document_max_tokens=64", "global_batch_queries=3", "max_steps=4",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as exit_info:
        cli.main(options)
    captured = capsys.readouterr()
    assert exit_info.value.code == 0, captured.err
    rows = len(echo)
    assert f"echo: {rows} rows, 7 published ({rows - 7:+})" in captured.out
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [s["rows"] for s in manifest["counts"]["sources"]] == [rows, 3]
    assert all(s["batches"] > 0 for s in manifest["counts"]["sources"])
    assert manifest["differences_from_published"] == [f"echo: {rows} rows, 7 published ({rows - 7:+})"]
    read = {Path(entry["path"]).name for entry in manifest["inputs"]}
    assert read == {"echo.jsonl", "ids.jsonl", "documents.jsonl"}

    with (tmp_path / "ids.jsonl").open("a") as stream:
        stream.write('{"query": "q", "pos": ["cells/1.txt"]\n')
    with pytest.raises(SystemExit) as exit_info:
        cli.main([*options, f"output_dir={tmp_path}/other"])
    line = capsys.readouterr().err
    assert exit_info.value.code == 2 and f"{tmp_path}/ids.jsonl:4: broken JSON" in line.splitlines()[-1]
