"""`reasonir-eval report`: what the page holds, what it says where something is missing, what it refuses."""

import base64
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from reasonir.data.bright import read_bright
from reasonir.data.trec import read_run
from reasonir.eval import cli
from reasonir.eval.report.page import cut
from tests.kit.report_folders import write_bright, write_results_folder

TASKS = {"pony": 7, "biology": 5}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and two results folders, `a` and `b`."""
    root = tmp_path_factory.mktemp("report")
    write_bright(root / "data", TASKS)
    write_results_folder(root / "a", root / "data", list(TASKS), 0.4)
    write_results_folder(root / "b", root / "data", list(TASKS), 0.8, retriever="dense", model={"path": "out/model"})
    return root


@pytest.fixture
def folders(source: Path, tmp_path: Path) -> Path:
    """A copy to break; its config.yaml files still name the first data."""
    shutil.copytree(source, tmp_path / "copy")
    return tmp_path / "copy"


def report(root: Path, names: str, *more: str) -> list[str]:
    folders = ",".join(str(root / name) for name in names)
    return ["report", f"results=[{folders}]", f"output={root / 'page' / 'report.html'}", *more]


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must succeed; return what it printed."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert (exit_info.value.code, captured.err) == (0, "")
    return captured.out


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert exit_info.value.code == 2 and error.count("\n") == 1, error
    return error


def embedded(root: Path) -> dict[str, Any]:
    """Return the documents of the page, and its queries with what they show when they are opened."""
    page = (root / "page" / "report.html").read_text(encoding="utf-8")
    packed = dict(re.findall(r'id="([a-z0-9-]+)">([A-Za-z0-9+/=]+)</script>', page))
    data, opened = (json.loads(zlib.decompress(base64.b64decode(packed.pop(name)))) for name in ("data", "texts-0"))
    assert not packed
    queries = [row | more for row, more in zip(data["items"], opened.pop("items"), strict=True)]
    return {"tasks": [name for kind in data["filters"] for name in kind["names"]], "queries": queries, **opened}


def test_page_holds_what_was_ranked(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(report(folders, "ab", "snippet_characters=60"), capsys)
    assert "12 queries of 2 tasks" in said and "note:" not in said
    data = embedded(folders)
    assert data["tasks"] == ["biology", "pony"], "BRIGHT's order"
    assert len(set(zip(data["ids"], data["texts"], strict=True))) == len(data["ids"]), "every text once"
    collections = {c.name: c for c in read_bright(str(folders / "data"), TASKS)}
    texts = {d.id: d.text for c in collections.values() for d in c.documents}
    gold = {(c.name, q.id): q for c in collections.values() for q in c.queries}
    marked = moved = 0
    for query in data["queries"]:
        task = data["tasks"][query["parts"][0]]
        known = gold.pop((task, query["id"]))
        assert query["texts"] == [known.text]
        orders = []
        for name in "ab":
            hits = read_run(str(folders / name / task / "run.trec"))[query["id"]]
            orders.append([d for _, d in sorted(((s, d) for d, s in hits.items()), reverse=True)])
        assert {data["ids"][place] for place, _ in query["gold"]} == set(known.gold)
        for place, ranks in query["gold"]:
            document = data["ids"][place]
            assert ranks == [order.index(document) + 1 if document in order else 0 for order in orders]
        for side, hits in enumerate(query["hits"]):
            assert [data["ids"][place] for place, *_ in hits] == orders[side][:10]
            for place, _, is_gold, other in hits:
                document = data["ids"][place]
                assert data["texts"][place] == cut(texts[document], 60) and len(data["texts"][place]) <= 62
                assert is_gold == (document in known.gold)
                assert other == (orders[1 - side].index(document) + 1 if document in orders[1 - side] else 0)
                marked, moved = marked + is_gold, moved + (other > 0)
    assert not gold and marked > 10 and moved > 50, "not vacuous"


def test_page_says_what_was_measured(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(report(folders, "a"), capsys)
    page = (folders / "page" / "report.html").read_text(encoding="utf-8")
    average = json.loads((folders / "a" / "results.json").read_text())["average"]["ndcg_at_10"]
    assert f"<strong>{100 * average:.1f}</strong>" in page
    for part in ("average of 2 tasks", "reasonir-eval bright data.dir=", "75.3 s"):
        assert part in page, part
    assert 'id="scaling"' not in page
    manifest = json.loads((folders / "page" / "manifest.json").read_text())
    assert manifest["counts"]["queries"] == 12 and manifest["page_bytes"] == len(page.encode())
    assert {Path(item["path"]).name for item in manifest["inputs"]} >= {"run.trec", "per_query.jsonl", "results.json"}
    assert {path.name for path in (folders / "page").iterdir()} == {
        "report.html", "results.md", "results.tex", "config.yaml", "manifest.json"
    }  # fmt: skip


def test_nothing_outside_is_named(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(report(folders, "ab"), capsys)
    page = (folders / "page" / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"https?:|//[a-z]|url\(|@import", re.sub(r"//.*", "", page))
    assert set(re.findall(r'(?:src|href)="([^"#]*)', page)) <= {"data:,", ""}


def test_page_in_a_folder_of_results_leaves_its_files(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in (folders / "a").iterdir() if path.is_file()}
    run(["report", f"results=[{folders / 'a'}]", f"output={folders / 'a' / 'report.html'}"], capsys)
    after = {path.name: path.read_bytes() for path in (folders / "a").iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {
        f"report.{end}" for end in ("html", "config.yaml", "manifest.json", "results.md", "results.tex")
    }


def test_texts_that_cannot_be_read(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (folders / "a" / "config.yaml").read_text()
    (folders / "a" / "config.yaml").write_text(re.sub(r"dir: .*", "dir: /no/such/folder", options))
    said = run(report(folders, "a"), capsys)
    assert said.count("note: ") == 1 and "/no/such/folder: no such folder; give data.dir=FOLDER" in said
    assert "for biology, pony, ids stand alone" in said
    page, data = (folders / "page" / "report.html").read_text(), embedded(folders)
    assert "/no/such/folder: no such folder" in page and "lengths are not known" in page
    assert set(data["texts"]) == {None} and len(data["queries"]) == 12
    assert all(query["texts"] == [None] and not query["gold"] for query in data["queries"])
    # Named by hand, the data is read; a folder that is not there is then a mistake.
    assert "note:" not in run(report(folders, "a", f"data.dir={folders / 'data'}"), capsys)
    assert None not in embedded(folders)["texts"]
    assert "data.dir=/gone: no such folder" in refusal(report(folders, "a", "data.dir=/gone"), capsys)


def test_one_of_two_runs_without_texts(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "a" / "config.yaml").unlink()
    (folders / "a" / "manifest.json").unlink()
    said = run(report(folders, "ab"), capsys)
    assert "of run A could not be read (no config.yaml names the data" in said and "a has no manifest.json" in said
    query = embedded(folders)["queries"][0]
    assert query["texts"][0] is None and query["texts"][1] and query["gold"]


def test_data_that_changed_since(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = folders / "data" / "pony" / "examples.jsonl"
    rows = [json.loads(line) for line in examples.read_text().splitlines()]
    first = next(row for row in rows if embedded_score(folders, row["id"]) > 0)
    rows.remove(first)
    rows[0]["id"], other = first["id"], rows[0]["id"]
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = run(report(folders, "a", f"data.dir={folders / 'data'}"), capsys)
    assert "pony: 1 queries are not in the data any more" in said and other
    assert re.search(r"pony: \d queries have another nDCG@10 than the hits and gold documents shown", said)


def embedded_score(folders: Path, query: str) -> float:
    rows = map(json.loads, (folders / "a" / "pony" / "per_query.jsonl").read_text().splitlines())
    return next(row["ndcg_at_10"] for row in rows if row["id"] == query)


def test_common_queries_are_compared_and_the_rest_counted(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folders / "b")
    shutil.rmtree(folders / "a")
    write_bright(folders / "more", {"pony": 9, "aops": 3})
    write_results_folder(folders / "a", folders / "data", list(TASKS), 0.4)
    write_results_folder(folders / "b", folders / "more", ["pony", "aops"], 0.8)
    said = run(report(folders, "ab"), capsys)
    assert "A alone has 1 task (biology): left out." in said and "B alone has 1 task (aops): left out." in said
    assert "B alone has queries in shared tasks (pony 2): left out." in said and "7 queries of 1 task" in said
    data = embedded(folders)
    assert [query["id"] for query in data["queries"]] == [str(number) for number in range(7)]
    rows = [json.loads(line) for line in (folders / "b" / "pony" / "per_query.jsonl").read_text().splitlines()]
    mean = 100 * sum(row["ndcg_at_10"] for row in rows[:7]) / 7
    assert f"<strong>{mean:.1f}</strong>" in (folders / "page" / "report.html").read_text()
    assert "A alone has queries in shared tasks (pony 2): left out." in run(report(folders, "ba"), capsys)
    assert len(embedded(folders)["queries"]) == 7

    shutil.rmtree(folders / "b")
    write_results_folder(folders / "b", folders / "more", ["aops"], 0.8)
    assert "share no query" in refusal(report(folders, "ab"), capsys)


def test_published_values_stand_beside_full_tasks_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bright(tmp_path / "data", {"theoremqa_theorems": 76, "pony": 7}, documents_per_query=1)
    write_results_folder(tmp_path / "a", tmp_path / "data", ["theoremqa_theorems", "pony"], 0.4)
    file = tmp_path / "a" / "manifest.json"
    manifest = json.loads(file.read_text())
    # What makes a task the full one are its counts: 23,839 passages are not written for that.
    manifest["counts"]["theoremqa_theorems"]["documents"] = 23_839
    file.write_text(json.dumps(manifest))
    said = run(report(tmp_path, "a"), capsys)
    page = (tmp_path / "page" / "report.html").read_text()
    for place in (said, page):
        assert "pony: not the full task: 7 of 112 queries, 60 of 7,894 documents" in place
        assert "theoremqa_theorems: not" not in place and "arXiv 2504.20595" in place
    assert re.search(r"\| ReasonIR-8B, original \(arXiv 2504.20595\) \| +\| 27.2 \| +\|", said), said
    assert "as published" in page and "note:" not in said
    # Without a count nothing is compared.
    file.unlink()
    said = run(report(tmp_path, "a"), capsys)
    assert "theoremqa_theorems: how many queries and documents were ranked is not known" in said
    assert "arXiv" not in said + (tmp_path / "page" / "report.html").read_text()


def test_no_command_compares_a_part_of_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bright(tmp_path / "data", {"pony": 7})
    bm25, fused = tmp_path / "bm25", tmp_path / "fused"
    commands = [
        ["bright", f"data.dir={tmp_path / 'data'}", "retriever=bm25", f"output_dir={bm25}"],
        ["fuse", f"runs=[{bm25},{bm25}]", f"output={fused}"],
        *(["report", f"results=[{folder}]", f"output={folder}/page.html"] for folder in (bm25, fused)),
    ]
    for command in commands:
        said = run(command, capsys)
        assert "pony: not the full task: 7 of 112 queries, 70 of 7,894 documents" in said and "arXiv" not in said
    for file in (bm25 / "results.md", fused / "results.md", fused / "page.html"):
        assert "not the full task" in file.read_text() and "arXiv" not in file.read_text()


def test_scaling_curve_of_the_folder(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = [{"retriever": "bm25", "mean_tokens": 2**n, "ndcg_at_10": n / 40} for n in (6, 7, 9)]
    points += [{"name": "dense", "mean_tokens": 100.5, "ndcg_at_10": 0.3}, {"retriever": "broken", "mean_tokens": 0}]
    for content in ({"points": points}, points):
        (folders / "b" / "scaling.json").write_text(json.dumps(content))
        run(report(folders, "ab"), capsys)
        page = (folders / "page" / "report.html").read_text()
        assert "B: bm25" in page and "B: dense" in page and "broken" not in page
        assert page.count("<circle") == 4 and '<td class="number">22.5</td>' in page


def test_scaling_curve_of_the_run_that_a_folder_is_a_point_of(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `reasonir-eval scaling` writes it: above its points, by retriever, the original queries apart."""
    curve = [{"queries": "original", "tokens_mean": 90, "ndcg_at_10": 0.1}]
    curve += [{"queries": f"gpt4_{n}", "tokens_mean": n, "ndcg_at_10": n / 1_000} for n in (64, 128, 256)]
    (folders / "scaling.json").write_text(json.dumps({"retrievers": {"bm25": curve, "tiny": curve}}))
    for name in "ab":
        shutil.move(folders / name, folders / "points" / name)
    results = f"results=[{folders / 'points' / 'a'},{folders / 'points' / 'b'}]"
    run(["report", results, f"output={folders / 'page.html'}"], capsys)
    page = (folders / "page.html").read_text()
    assert page.count("<circle") == 8 and page.count(" ring") == 2 and page.count("tiny, original queries") == 1
    lines = {n: len(re.findall(rf'<line class="curve-{n}" x1="[\d.]+%"', page)) for n in range(5)}
    assert lines == {0: 0, 1: 0, 2: 2, 3: 2, 4: 0}, "three lengths make two lines; colours 0 and 1 stand for the runs"


def test_runs_made_of_runs_find_their_texts(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reranked run of a fused run says null for its data: as the runs that it was made of."""
    unsaid = "data: {dir: null, hub: null}\nqueries: null\nlong: null\n"
    (folders / "b" / "config.yaml").write_text(
        f"{unsaid}run: {folders / 'fused'}\nmethod: pointwise\ngenerator: {{model: org/judge}}\n"
    )
    (folders / "fused").mkdir()
    (folders / "fused" / "config.yaml").write_text(
        f"{unsaid}runs: [{folders / 'gone'}, {folders / 'a'}]\nmethod: rrf\n"
    )
    said = run(report(folders, "ab"), capsys)
    assert "note:" not in said and "**pointwise by judge of fused**" in said
    assert None not in embedded(folders)["texts"]
    (folders / "a" / "config.yaml").write_text(f"run: {folders / 'a'}\n")
    assert "no config.yaml names the data" in run(report(folders, "a"), capsys), "a circle of runs ends"


BROKEN = [
    ("a/results.json", None, "holds no results.json"),
    ("a/results.json", "[]", "not a results.json of ours"),
    ("a/pony/run.trec", None, "task pony lacks run.trec"),
    ("a/pony/run.trec", "0 Q0 x 1\n", "run.trec:1: 4 columns"),
    ("a/pony/per_query.jsonl", "{\n", "per_query.jsonl:1: broken JSON"),
    ("a/pony/per_query.jsonl", '{"id": "0"}\n', "per_query.jsonl:1: a row needs a string `id` and `ndcg_at_10`"),
    ("a/pony/per_query.jsonl", '{"id": "0", "ndcg_at_10": NaN}\n', "per_query.jsonl:1: a row needs"),
    ("a/pony/per_query.jsonl", 2 * '{"id": "0", "ndcg_at_10": 0.5}\n', "per_query.jsonl:2: query '0' stands twice"),
    ("a/pony/per_query.jsonl", '{"id": "0", "ndcg_at_10": 0.987}\n', "its mean ndcg_at_10 is 0.987000, but"),
    ("a/config.yaml", "data: [", "config.yaml: broken"),
    ("a/manifest.json", "[]", "is damaged; run the command of"),
    ("a/scaling.json", '{"points": [{"name": "x"}]}', "no point with mean_tokens and ndcg_at_10"),
    ("page/report.html/x", "", "is a folder; name a file in it"),
    ("page", "", "is a file; name a folder"),
]


@pytest.mark.parametrize(("file", "content", "expected"), BROKEN, ids=lambda value: str(value)[:40])
def test_refuses(
    folders: Path, capsys: pytest.CaptureFixture[str], file: str, content: str | None, expected: str
) -> None:
    broken = folders / file
    if content is None:
        broken.unlink()
    else:
        broken.parent.mkdir(parents=True, exist_ok=True)
        broken.write_text(content, encoding="utf-8")
    assert expected in refusal(report(folders, "a"), capsys)
    assert not (folders / "page" / "report.html").is_file()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["results=[a,b,c]"], "results names 3 folders"),
        (["results=[a]", "names=[x,y]"], "names has 2 entries"),
        (["results=[a]", "output=page.pdf"], "output=page.pdf must end in .html"),
        (["results=[a]", "snippet_characters=0"], "snippet_characters=0 must be positive"),
        (["results=[a]", "ouput=b.html"], "did you mean output?"),
        (["results=[/no/such]"], "/no/such: no such folder"),
        ([], "results is missing"),
    ],
    ids=str,
)
def test_refuses_options(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refusal(["report", *options], capsys)
    assert list(tmp_path.iterdir()) == []
