"""The page that `reasonir-eval report` makes of answers to questions: its figures, filters, texts, and refusals."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasonir.eval import cli
from reasonir.eval.report import question_items as page_module
from tests.kit.answer_folders import SUBJECTS, TOP, write_answers_folder
from tests.kit.browser import CHROMIUM, Visit
from tests.kit.report_folders import write_bright, write_results_folder

# Each starts several commands.
pytestmark = pytest.mark.seconds(15)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
LETTERS = "ABCD"
Rows = list[dict[str, Any]]


def report(folder: Path, *more: str) -> Path:
    output = folder.parent / f"{folder.name}.html"
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["report", f"results=[{folder}]", f"output={output}", *more])
    assert exit_info.value.code == 0
    return output


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_answers_folder(tmp_path_factory.mktemp("small") / "answers", 12)


@pytest.fixture
def small(source: Path, tmp_path: Path) -> Path:
    """A folder of twelve questions, to break."""
    return Path(shutil.copytree(source, tmp_path / "answers"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of answers, each with its page beside it."""
    root = tmp_path_factory.mktemp("answers")
    made = {
        "three": write_answers_folder(root / "three"),
        "samples": write_answers_folder(root / "samples", 60, samples=3),
        "closed": write_answers_folder(root / "closed", 30, ["closed_book"]),
        "no_gold": write_answers_folder(root / "no_gold", 30, ["closed_book", "retrieved"], gold=False),
    }
    for folder in made.values():
        report(folder)
    return made


def visit(browser: Any, folder: Path, width: int = 1280, scheme: str = "light") -> Visit:
    return Visit(browser, folder.with_suffix(".html"), width, scheme)


def rows(folder: Path, name: str) -> Rows:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def shares(folder: Path, condition: str) -> dict[str, float]:
    """Question to the share of its right answers."""
    given: dict[str, list[bool]] = {}
    for row in rows(folder, "answers"):
        if row["condition"] == condition:
            given.setdefault(row["id"], []).append(row["correct"])
    return {name: sum(right) / len(right) for name, right in given.items()}


def shown(page: Any) -> list[str]:
    """Return the ids of the questions on this page of the list."""
    texts = page.locator("#list .identity").all_text_contents()
    return [re.sub(r" (gained|lost)$", "", text).split(" · ")[-1] for text in texts]


def total(page: Any) -> int:
    status = page.inner_text("#status")
    return 0 if status == "No question fits." else int(re.search(r"of ([\d,]+) questions", status)[1].replace(",", ""))


def test_the_page_holds_the_figures_of_accuracy_json(folders: dict[str, Path]) -> None:
    accuracy = json.loads((folders["three"] / "accuracy.json").read_text())
    text = folders["three"].with_suffix(".html").read_text(encoding="utf-8")
    assert len(accuracy["conditions"]) == 3 and len(accuracy["differences"]) == 3, "not vacuous"
    for entry in accuracy["conditions"].values():
        low, high = entry["all"]["interval"]
        assert f"<strong>{100 * entry['all']['accuracy']:.1f}</strong>" in text
        assert f"{100 * low:.1f} to {100 * high:.1f}" in text and f"{entry['all']['unreadable']} unreadable" in text
        for part in (*entry["groups"].values(), *entry["subjects"].values()):
            assert f'<td class="number">{100 * part["accuracy"]:.1f}</td>' in text
    for move in accuracy["differences"]:
        for value in (move["questions"], move["gained"], move["lost"]):
            assert f'<td class="number">{value}</td>' in text
        assert f"<strong>{100 * move['difference']:+.1f}</strong>" in text
    for depth, found in accuracy["retrieval"]["at"].items():
        assert f'<th scope="row">{depth}&ensp;<span class="count">{found["hits"]}' in text
    counts = [
        row["stage"].replace("_", " ") for row in rows(folders["three"], "answers") if row["condition"] == "retrieved"
    ]
    for stage in set(counts):
        assert re.search(rf"{stage}.*</td><td class=\"number\">{counts.count(stage)}&ensp;<", text), stage


def test_files_beside_the_page(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["report", f"results=[{folders['three']}]", f"output={tmp_path}/a/page.html", "names=[My run]"])
    printed = capsys.readouterr().out
    assert "300 questions, 840 answers" in printed and "| retrieved - closed book" in printed
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "page.html", "results.md", "config.yaml", "manifest.json"
    }  # fmt: skip
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["counts"]["answers"] == 840
    assert {Path(item["path"]).name for item in manifest["inputs"]} >= {"answers.jsonl", "passages.jsonl"}
    assert "<h1>My run</h1>" in (tmp_path / "a" / "page.html").read_text()
    assert (tmp_path / "a" / "results.md").read_text().startswith("# My run")


@needs_browser
def test_flips_come_first_both_ways(browser: Any, folders: dict[str, Path]) -> None:
    opened = visit(browser, folders["three"])
    before, after = shares(folders["three"], "closed_book"), shares(folders["three"], "retrieved")
    gained, lost = ({n for n in before if sign * (after[n] - before[n]) > 0} for sign in (1, -1))
    assert opened.page.inner_text("#status") == f"1–25 of 300 questions: {len(gained)} gained, {len(lost)} lost"
    first = shown(opened.page)
    assert set(first) <= gained | lost and set(first) & gained and set(first) & lost
    marks = opened.page.locator("#list .identity .badge").all_inner_texts()
    assert marks == ["gained" if name in gained else "lost" for name in first]
    opened.close()


@needs_browser
def test_filters_fit_the_records(browser: Any, folders: dict[str, Path]) -> None:
    """Every choice of every filter leaves as many questions as a plain count over the files."""
    folder = folders["three"]
    opened = visit(browser, folder)
    questions, answers = rows(folder, "questions"), rows(folder, "answers")
    retrieved = {row["id"]: row for row in rows(folder, "retrieved")}
    right = {c: shares(folder, c) for c in ("closed_book", "retrieved", "gold_passages")}
    read = {row["id"]: set(row["passages"]) for row in answers if row["condition"] == "retrieved"}
    unreadable = {row["id"] for row in answers if not row["letter"]}

    def moved(a: str, b: str) -> dict[str, Callable[[str], bool]]:
        one, other = right[a], right[b]
        return {
            "gained": lambda i: i in one and i in other and other[i] > one[i],
            "lost": lambda i: i in one and i in other and other[i] < one[i],
            "gained or lost": lambda i: i in one and i in other and other[i] != one[i],
            "unchanged, right": lambda i: i in one and i in other and other[i] == one[i] == 1,
            "unchanged, wrong": lambda i: i in one and i in other and other[i] == one[i] == 0,
            "with an unreadable answer": lambda i: i in unreadable,
        }

    def gold(i: str) -> str:
        wanted = set(retrieved[i]["gold"])
        if not wanted:
            return "none known"
        if wanted & read[i]:
            return "retrieved and read"
        found = wanted & {hit["id"] for hit in retrieved[i]["hits"]}
        return "retrieved, but too low to be read" if found else "not retrieved"

    def fits(test: Callable[[dict[str, Any]], bool]) -> int:
        return sum(test(row) for row in questions)

    checked = []
    for pair, (a, b) in {"closed book → retrieved": ("closed_book", "retrieved"),
                         "retrieved → gold passages": ("retrieved", "gold_passages")}.items():  # fmt: skip
        opened.page.select_option("#pair", pair)
        for choice, test in moved(a, b).items():
            opened.page.select_option("#show", choice)
            checked.append((total(opened.page), fits(lambda row: test(row["id"]))))  # noqa: B023
    opened.page.select_option("#show", "all questions")
    for state in ("retrieved and read", "retrieved, but too low to be read", "not retrieved", "none known"):
        opened.page.select_option("#gold", state)
        checked.append((total(opened.page), fits(lambda row: gold(row["id"]) == state)))  # noqa: B023
    opened.page.select_option("#gold", "any")
    opened.page.select_option("#group", "stem")
    checked.append((total(opened.page), fits(lambda row: row["group"] == "stem")))
    opened.page.select_option("#subject", SUBJECTS[-1][1])
    checked.append((total(opened.page), fits(lambda row: row["subject"] == SUBJECTS[-1][1])))
    assert all(seen == expected > 0 for seen, expected in checked), checked
    opened.close()


@needs_browser
def test_keyboard_search_and_pages(browser: Any, folders: dict[str, Path]) -> None:
    from playwright.sync_api import expect

    opened = visit(browser, folders["three"])
    page = opened.page
    page.select_option("#sort", "order of the data")
    page.focus("#next")
    page.keyboard.press("Enter")
    assert page.inner_text("#status").startswith("26–50 of 300 questions:") and "gained" in page.inner_text("#status")
    assert page.evaluate("document.activeElement.id") == "queries"
    assert shown(page) == [row["id"] for row in rows(folders["three"], "questions")[25:50]]
    questions = rows(folders["three"], "questions")
    words = [questions[7]["options"][2].split()[0], questions[7]["text"].split()[-1]]
    texts = ["\n".join([row["id"], row["text"], *row["options"]]) for row in questions]
    fitting = sum(all(word in text for word in words) for text in texts)
    page.fill("#search", " ".join(words).upper())
    expect(page.locator("#status")).to_contain_text(f"of {fitting} questions")
    assert 0 < fitting < 300
    page.focus("#list summary")
    page.keyboard.press("Enter")
    expect(page.locator("#list .columns")).to_be_visible()
    page.fill("#search", "nothing has this word")
    expect(page.locator("#status")).to_contain_text("No question fits.")
    opened.close()


@needs_browser
def test_a_question_opens_to_what_was_recorded(browser: Any, folders: dict[str, Path]) -> None:
    folder = folders["three"]
    opened = visit(browser, folder)
    page = opened.page
    page.select_option("#sort", "order of the data")
    answers = rows(folder, "answers")
    passages = {row["id"]: row["content"] for row in rows(folder, "passages")}
    seen = set()
    for number, (question, row) in enumerate(
        zip(rows(folder, "questions")[:16], rows(folder, "retrieved"), strict=False)
    ):
        item = page.locator("#list > li").nth(number)
        item.locator("summary").first.click()
        item.locator(".columns").wait_for()
        own = [answer for answer in answers if answer["id"] == question["id"]]
        for letter, option in zip(LETTERS, item.locator(".choices li").all_inner_texts(), strict=True):
            place = LETTERS.index(letter)
            assert option.startswith(f"{letter}. {question['options'][place]}")
            assert ("right answer" in option) == (letter == question["answer"])
            for answer in own:
                name = answer["condition"].replace("_", " ")
                assert (f"chosen: {name}" in option) == (answer["letter"] == letter)
        read = next(answer for answer in own if answer["condition"] == "retrieved")
        for rank, (hit, text) in enumerate(
            zip(row["hits"], item.locator(".hits tbody tr").all_inner_texts(), strict=True)
        ):
            assert hit["id"] in text and ("gold" in text.split()) == (hit["id"] in row["gold"])
            state = "read" if hit["id"] in read["passages"] else "left out to fit" if rank < TOP else "not read"
            assert re.search(rf"(?<!not ){state}", text)
            assert (passages.get(hit["id"], "no text")[:300] in text) == (hit["id"] in passages)
            seen.add(state)
        for given, text in zip(own, item.locator(".columns > div").all_inner_texts(), strict=True):
            assert given["condition"].replace("_", " ") in text and given["text"] in text
            word = (
                "unreadable" if not given["letter"] else f"{given['letter']} {'right' if given['correct'] else 'wrong'}"
            )
            assert word in text and given["stage"].replace("_", " ") in text
            seen.add(word.split()[-1])
        searched = item.locator(".body > div", has_text="Searched with")
        kind = ("The question with its options.", None, row["query"])[number % 3]
        assert searched.count() == (kind is not None) and (kind is None or kind in searched.inner_text())
        missing = [name for name in row["gold"] if name not in {hit["id"] for hit in row["hits"]}]
        assert item.locator(".gold-list .name").all_inner_texts() == missing
        seen |= {"missing"} if missing else set()
    assert {"read", "left out to fit", "not read", "right", "wrong", "unreadable", "missing"} <= seen, "not vacuous"
    opened.close()


@needs_browser
def test_several_samples_move_by_their_share(browser: Any, folders: dict[str, Path]) -> None:
    opened = visit(browser, folders["samples"])
    before, after = shares(folders["samples"], "closed_book"), shares(folders["samples"], "retrieved")
    opened.page.select_option("#show", "gained")
    gained = {name for name in before if after[name] > before[name]}
    assert total(opened.page) == len(gained) and any(0 < before[name] < after[name] for name in gained)
    name = shown(opened.page)[0]
    assert after[name] - before[name] == max(after[i] - before[i] for i in before), "the largest change first"
    item = opened.page.locator("#list > li").first
    item.locator("summary").first.click()
    given = [
        row for row in rows(folders["samples"], "answers") if row["id"] == name and row["condition"] == "retrieved"
    ]
    right = sum(row["correct"] for row in given)
    assert f"{right} of 3 right" in item.locator(".marks span").nth(1).inner_text()
    item.locator(".columns").wait_for()
    samples = item.locator(".columns > div").nth(1).locator("details")
    assert samples.count() == 3
    for row, text in zip(given, samples.locator("summary").all_inner_texts(), strict=True):
        said = f"{row['letter']} {'right' if row['correct'] else 'wrong'}" if row["letter"] else "unreadable"
        assert text == f"Sample {row['sample']}: {said}"
    opened.close()


@needs_browser
def test_pages_of_less(browser: Any, folders: dict[str, Path]) -> None:
    """Closed book only; and without gold passages: what there is nothing to say of is not offered."""
    opened = visit(browser, folders["closed"])
    offered = [name for name in ("pair", "gold", "group", "show") if opened.page.locator(f"#{name}").is_visible()]
    assert offered == ["group", "show"] and opened.page.locator("#hits").count() == 0
    opened.page.select_option("#show", "wrong")
    assert total(opened.page) == sum(share == 0 for share in shares(folders["closed"], "closed_book").values()) > 0
    opened.page.locator("#list summary").first.click()
    opened.page.locator(".columns").wait_for()
    assert opened.page.locator(".hits").count() == 0
    opened.close()
    opened = visit(browser, folders["no_gold"])
    offered = [name for name in ("pair", "gold", "group", "show") if opened.page.locator(f"#{name}").is_visible()]
    assert offered == ["group", "show"] and "gained" in opened.page.inner_text("#status")
    opened.page.locator("#list summary").first.click()
    opened.page.locator(".columns").wait_for()
    assert opened.page.locator(".hits tbody tr").count() == 10
    opened.close()


@needs_browser
@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("three", 390, "light"), pytest.param("samples", 1280, "dark", marks=pytest.mark.slow)],
)
def test_axe_finds_nothing(browser: Any, folders: dict[str, Path], name: str, width: int, scheme: str) -> None:
    opened = visit(browser, folders[name], width, scheme)
    for place in (".options summary", "#list > li:first-child summary"):
        opened.page.locator(place).first.click()
    opened.page.locator(".columns").wait_for()
    opened.page.evaluate("document.querySelectorAll('#list > li:nth-child(n + 3)').forEach((item) => item.remove())")
    assert opened.violations() == []  # of all 25 alike it takes twice as long
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()


HOSTILE = (
    "</script><script>window.owned = 1</script>",
    "<img src=x onerror='window.owned = 1'>",
    "{{ 7 * 7 }} {% raw %} <!-- ]]> & \" ' \u2028 \u202e",
    "<style>body { display: none }</style></p></details>",
)


@needs_browser
def test_no_text_becomes_markup(browser: Any, tmp_path: Path) -> None:
    opened = Visit(browser, report(write_answers_folder(tmp_path / "hostile", len(HOSTILE), texts=HOSTILE)))
    page = opened.page
    assert page.inner_text("h1") == HOSTILE[0]
    page.select_option("#sort", "order of the data")
    for number, text in enumerate(HOSTILE):
        item = page.locator("#list > li").nth(number)
        item.locator("summary").first.click()
        item.locator(".columns").wait_for()
        assert item.locator(".text").first.text_content() == text
        for place in (".choices li", ".hits .name", ".hits .snippet", ".completion", ".identity"):
            assert text in item.locator(place).first.text_content(), place
    assert page.evaluate("window.owned") is None
    assert page.locator("img").count() == 0 and page.locator("style").count() == 1
    opened.close()


def test_a_large_page_is_cut_and_says_so(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["report", f"results=[{folders['three']}]", f"output={tmp_path}/page.html", "answer_characters=700"]
    whole = folders["three"].with_suffix(".html").stat().st_size
    monkeypatch.setattr(page_module, "LARGEST_PAGE_BYTES", int(0.8 * whole))
    monkeypatch.setattr(page_module, "SHELL_BYTES", 80_000)
    with pytest.raises(SystemExit):
        cli.main(arguments)
    printed = capsys.readouterr().out
    size = (tmp_path / "page.html").stat().st_size
    assert size <= 0.8 * whole
    limit = int(re.search(r"answers are cut to (\d+) characters", printed)[1])
    assert limit < 700 and "asked for: 700, 400, 2,000" in printed
    longer = sum(len(row["text"]) > limit for row in rows(folders["three"], "answers"))
    assert f"({longer} cut to {limit} characters)" in printed and longer > 0
    assert (
        "Read this first" in (tmp_path / "page.html").read_text()
        and f"{longer} lose their middle" in (tmp_path / "page.html").read_text()
    )


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["report", *arguments])
    error = capsys.readouterr().err
    assert exit_info.value.code == 2 and error.count("\n") == 1, error
    return error


def test_refuses_to_mix_and_to_compare(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers, other = small, Path(shutil.copytree(small, tmp_path / "other"))
    write_bright(tmp_path / "data", {"pony": 3})
    ranked = write_results_folder(tmp_path / "ranked", tmp_path / "data", ["pony"], 0.5)
    output = f"output={tmp_path}/page.html"
    for pair in ([answers, ranked], [ranked, answers], [answers, other]):
        error = refusal([f"results=[{','.join(map(str, pair))}]", output], capsys)
        assert f"a page of answers shows one folder: results=[{answers}]" in error
    error = refusal([f"results=[{answers}]", output, f"data.dir={tmp_path}"], capsys)
    assert "holds its own texts; leave data.dir away" in error
    assert "answer_characters=0 must be positive" in refusal([f"results=[{answers}]", "answer_characters=0"], capsys)
    assert not (tmp_path / "page.html").exists()


BROKEN = [
    ("accuracy.json", "[]", "accuracy.json: not an accuracy.json of ours"),
    ("accuracy.json", '{"conditions": {"x": {}}}', "accuracy.json: not an accuracy.json of ours"),
    ("questions.jsonl", None, "lacks questions.jsonl; run the command"),
    ("answers.jsonl", "{\n", "answers.jsonl:1: broken JSON"),
    ("answers.jsonl", "", "answers.jsonl has an accuracy of nan closed book, but accuracy.json says"),
    ("answers.jsonl", '{"id": "x"}\n', "answers.jsonl:1: a row needs `condition` of type str"),
    ("passages.jsonl", '{"id": "x", "content": 3}\n', "passages.jsonl:1: a row needs `content` of type str"),
    ("passages.jsonl", 2 * '{"id": "x", "content": ""}\n', "passages.jsonl:2: 'x' stands twice"),
]


@pytest.mark.parametrize(("file", "content", "expected"), BROKEN, ids=lambda value: str(value)[:30])
def test_refuses_broken_folders(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: str | None, expected: str
) -> None:
    (small / file).unlink()
    if content is not None:
        (small / file).write_text(content)
    assert expected in refusal([f"results=[{small}]", f"output={tmp_path}/page.html"], capsys)
    assert not (tmp_path / "page.html").exists()


def test_answers_that_do_not_fit_the_figures(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (small / "answers.jsonl").read_text().splitlines()
    changed = [json.dumps({**row, "correct": not row["correct"]}) for row in map(json.loads, lines[:1])]
    (small / "answers.jsonl").write_text("\n".join([*changed, *lines[1:]]))
    arguments = [f"results=[{small}]", f"output={tmp_path}/page.html"]
    assert "accuracy.json says" in refusal(arguments, capsys)
    stranger = json.dumps({**json.loads(lines[0]), "id": "stranger"})
    (small / "answers.jsonl").write_text("\n".join([stranger, *lines[1:]]))
    assert "answers.jsonl:1: no question 'stranger' in questions.jsonl" in refusal(arguments, capsys)


def test_unfinished_folders_say_so(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "manifest.json").unlink()
    (small / "config.yaml").unlink()
    report(small)
    assert "has no manifest.json: its command is not finished" in capsys.readouterr().out
