"""Multiple-choice questions read from MMLU, GPQA (invented rows) and JSONL, and what is refused."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.core.files import write_jsonl
from reasonir.eval.rag.questions import GROUP_OF, MMLU_GROUPS, read_choices, read_gpqa, read_mmlu
from reasonir.eval.rag.records import LETTERS, Question
from tests.kit.hub_sets import hub_set
from tests.kit.mistakes import refused
from tests.kit.shared import SHARED_DATA, requires_shared_data
from tests.kit.texts import write_rows

pytestmark = pytest.mark.usefixtures("own_hub_cache")

ROWS = [["What flows, always?", "water", " stone ", "wood", "glass", "A"], ["Two\nlines", "1", "2", "None", "NA", "D"]]
HEADER = ["Unused", "Record ID", "Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3)),
          "Subdomain", "High-level domain"]  # fmt: skip


def mmlu(path: Path, rows: list[list[str]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


def gpqa_rows(count: int = 30) -> list[list[str]]:
    return [
        ["x", f"rec{n}", f' Why, "{n}"?\nSecond line. ', f"right {n}\n"]
        + [f"wrong {n}{o}" for o in "abc"]
        + ["Optics", "Physics"]
        for n in range(count)
    ]


def gpqa(path: Path, rows: list[list[str]], header: list[str] = HEADER) -> str:
    return str(mmlu(path, [header, *rows]))


def test_groups_are_the_published_ones() -> None:
    sizes = {group: len(subjects.split()) for group, subjects in MMLU_GROUPS.items()}
    assert sizes == {"STEM": 18, "humanities": 13, "social sciences": 12, "other": 14} and len(GROUP_OF) == 57


@requires_shared_data
@pytest.mark.shared_data
def test_real_mmlu_is_read_whole() -> None:
    questions = read_mmlu(str(SHARED_DATA / "mmlu"), "val", None)
    assert len(questions) == 1531 == len({question.id for question in questions})
    assert {question.subject for question in questions} == set(GROUP_OF)
    assert Counter(question.answer for question in questions) == {"A": 381, "B": 379, "C": 387, "D": 384}
    flat = read_mmlu(str(SHARED_DATA / "mmlu" / "val"), "validation", None)
    assert flat == questions
    some = read_mmlu(str(SHARED_DATA / "mmlu"), "val", ["virology", "anatomy"])
    assert some == [question for question in questions if question.subject in ("virology", "anatomy")]
    assert some[0].id == "anatomy/1" and some[0].options[3] == "Homeostasis" and some[0].answer == "D"


@pytest.mark.parametrize("folder", [".", "test"])
def test_mmlu_csv_and_hub_hold_the_same_questions(folder: str, tmp_path: Path) -> None:
    mmlu(tmp_path / "csv" / folder / "anatomy_test.csv")
    mmlu(tmp_path / "csv" / folder / "own_field_test.csv", ROWS[:1])
    mmlu(tmp_path / "csv" / folder / "anatomy_dev.csv", ROWS[:1])
    questions = read_mmlu(str(tmp_path / "csv"), "test", None)
    first = Question("anatomy/1", "What flows, always?", ("water", "stone", "wood", "glass"), "A", "anatomy", "other",
                     order=(0, 1, 2, 3))  # fmt: skip
    assert questions[0] == first and questions[1].text == "Two\nlines" and questions[1].options[2:] == ("None", "NA")
    assert [(question.id, question.group) for question in questions[1:]] == [
        ("anatomy/2", "other"),
        ("own_field/1", ""),
    ]
    rows = [
        {"question": row[0], "subject": subject, "choices": row[1:5], "answer": LETTERS.index(row[5])}
        for subject, rows in (("anatomy", ROWS), ("own_field", ROWS[:1]))
        for row in rows
    ]
    source = f"hub:{hub_set(tmp_path / 'hub', {'all': {'test': rows, 'validation': rows[:1]}})}"
    assert read_mmlu(source, "test", None) == questions
    assert read_mmlu(source, "val", []) == questions[:1]
    assert read_mmlu(source, "test", ["own_field"]) == questions[2:]
    assert "did you mean anatomy?" in refused(read_mmlu, source, "test", ["anatomie"])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([ROWS[1], ["short", "1", "2", "A"]], "anatomy_val.csv:3: 4 columns, but MMLU has 6"),
        ([["q", "1", "2", "3", "4", "E"]], "anatomy_val.csv:1: the key is 'E'"),
        ([["q", "1", "2", "3", "4", "a"]], "anatomy_val.csv:1: the key is 'a'"),
        ([[" ", "1", "2", "3", "4", "A"]], "anatomy_val.csv:1: the question is empty"),
        ([["q", "1", "2", "", "4", "A"]], "anatomy_val.csv:1: option C is empty"),
        ([], "anatomy_val.csv: the file is empty"),
    ],
)
def test_broken_mmlu_rows_are_refused_by_place(rows: list[list[str]], expected: str, tmp_path: Path) -> None:
    mmlu(tmp_path / "anatomy_val.csv", rows)
    assert expected in refused(read_mmlu, str(tmp_path), "val", None)


def test_mmlu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refused(read_mmlu, str(tmp_path / "absent"), "val", None)
    assert "holds no <subject>_val.csv" in refused(read_mmlu, str(tmp_path), "val", None)
    mmlu(tmp_path / "anatomy_val.csv").write_bytes(b"q,1,2,3,4,A\n\xff,1,2,3,4,A\n")
    assert "anatomy_val.csv:2: byte 0xff" in refused(read_mmlu, str(tmp_path), "val", None)
    (tmp_path / "anatomy_val.csv").write_text("q,1,2,3,4,A\n\n", encoding="utf-8-sig")
    assert read_mmlu(str(tmp_path), "val", None)[0].text == "q", "no mark of byte order, no blank row"
    assert "'virology'; it holds anatomy" in refused(read_mmlu, str(tmp_path), "val", ["virology"])
    (tmp_path / "anatomy_val.csv").write_text('q,1,2,3,4,A\n"open,1,2,3,4,A\nq,1,2,3,4,B\n')
    assert "anatomy_val.csv:2: 1 columns" in refused(read_mmlu, str(tmp_path), "val", None)


def test_gpqa_order_depends_on_seed_and_record_alone(tmp_path: Path) -> None:
    rows = gpqa_rows()
    questions = read_gpqa(gpqa(tmp_path / "all.csv", rows), 7)
    assert questions[0].text == 'Why, "0"?\nSecond line.'
    assert (questions[0].subject, questions[0].group) == ("Optics", "Physics")
    for number, question in enumerate(questions):
        original = (f"right {number}", *(f"wrong {number}{o}" for o in "abc"))
        assert question.options == tuple(original[place] for place in question.order)
        assert question.options[LETTERS.index(question.answer)] == f"right {number}"
    assert {question.answer for question in questions} == set("ABCD")
    assert read_gpqa(gpqa(tmp_path / "few.csv", rows[::-3]), 7) == questions[::-3]
    assert [q.order for q in read_gpqa(gpqa(tmp_path / "all.csv", rows), 8)] != [q.order for q in questions]
    assert questions[0].order == (3, 1, 2, 0), "the same on any machine and for ever"
    table = [dict(zip(HEADER, row, strict=True)) for row in rows]
    source = f"hub:{hub_set(tmp_path / 'gpqa', {'gpqa_diamond': {'train': table}})}"
    assert read_gpqa(f"{source}:gpqa_diamond", 7) == questions
    assert "names no configuration" in refused(read_gpqa, source, 7)


def test_gpqa_mistakes_are_refused_by_place(tmp_path: Path) -> None:
    rows, path = gpqa_rows(2), tmp_path / "g.csv"
    assert (
        "g.csv:5: record 'rec0' stands at" in (text := refused(read_gpqa, gpqa(path, [rows[0], rows[0]]), 0))
        and "g.csv:2 too" in text
    ), "each row takes several lines"
    lacking = [column for column in HEADER if column not in ("Subdomain", "High-level domain")]
    bare = read_gpqa(gpqa(path, [rows[0][:7]], lacking), 0)
    assert (bare[0].subject, bare[0].group) == ("", "")
    assert "no column 'Record ID'" in refused(read_gpqa, gpqa(path, [rows[0][:1]], ["Question", *HEADER[3:7]]), 0)
    assert "g.csv:2: 3 columns" in refused(read_gpqa, gpqa(path, [rows[0][:3]]), 0)
    assert "`Question` is empty" in refused(read_gpqa, gpqa(path, [[*rows[0][:2], " ", *rows[0][3:]]]), 0)
    assert "no such file" in refused(read_gpqa, str(tmp_path / "absent.csv"), 0)


@requires_shared_data
@pytest.mark.shared_data
def test_real_biology_questions_are_read() -> None:
    path = SHARED_DATA / "openstax_biology" / "multiple_choice.jsonl"
    questions = read_choices(str(path), None, "module")
    assert len(questions) == 346 and all(len(question.gold) == 1 for question in questions)
    assert Counter(question.answer for question in questions) == {"A": 79, "B": 91, "C": 89, "D": 87}
    shuffled = read_choices(str(path), 0, "module")
    assert [q.id for q in shuffled] == [q.id for q in questions] and shuffled != questions
    for one, other in zip(questions, shuffled, strict=True):
        assert one.options[LETTERS.index(one.answer)] == other.options[LETTERS.index(other.answer)]


ROW = {"question": " Why? ", "options": ["b", "a", "c "], "answer": "B"}


@pytest.mark.parametrize("answer", ["B", 1, "a", " B "])
@pytest.mark.parametrize("options", [["b", "a", "c "], {"B": "a", "A": "b", "C": "c"}])
@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz"])
def test_every_spelling_of_a_row_is_the_same_question(
    answer: object, options: object, name: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / name, [ROW | {"answer": answer, "options": options}])
    assert read_choices(str(tmp_path / name), None, "gold") == [
        Question("1", "Why?", ("b", "a", "c"), "B", order=(0, 1, 2))
    ]


def test_optional_fields_are_kept(tmp_path: Path) -> None:
    rows = [
        ROW | {"id": 7, "category": "law", "group": "g", "gold": "p1"},
        ROW | {"subject": "s", "gold": ["p1", "p2", "p1"]},
    ]
    first, second = read_choices(str(write_rows(tmp_path / "q.jsonl", rows)), None, "gold")
    assert (first.id, first.subject, first.group, first.gold) == ("7", "law", "g", ("p1",))
    assert (second.id, second.subject, second.group, second.gold) == ("2", "s", "", ("p1", "p2"))
    assert read_choices(str(tmp_path / "q.jsonl"), None, "")[0].gold == ()


REFUSED = [
    ({"question": " "}, "`question` is empty"),
    ({"question": 5}, "`question` is a int"),
    ({"options": ["a"]}, "1 entries; a question needs 2 to 10"),
    ({"options": [str(n) for n in range(11)]}, "11 entries; a question needs 2 to 10"),
    ({"options": "abc"}, "`options` must be a list of texts"),
    ({"options": [1, 2, 3]}, "`options` must be a list of texts"),
    ({"options": {"A": "x", "C": "y"}}, "keys A, C; they must be A, B, C"),
    ({"options": ["a", "b", " a"]}, "two options are 'a'"),
    ({"options": ["a", "b", " "]}, "option C is empty"),
    ({"answer": "D"}, "`answer` is 'D'; it must be a letter from A to C, an index from 0 to 2"),
    ({"answer": "b "}, None),
    ({"answer": 3}, "`answer` is '3'"),
    ({"answer": -1}, "`answer` is '-1'"),
    ({"answer": True}, "`answer` is 'True'"),
    ({"answer": None}, "`answer` is 'None'"),
    ({"answer": ["B"]}, "`answer` is"),
    ({"answer": "A", "options": ["B", "A"]}, "the letter of one option and the text of another"),
    ({"gold": [1]}, "`gold` must be an id or a list of ids"),
    ({"gold": ""}, "`gold` must be an id or a list of ids"),
    ({"id": 1.5}, "`id` must be a text"),
    ({"subject": ["x"]}, "`subject` must be a text"),
    ({"id": "1"}, "id '1' stands in line 1 too"),
]


@pytest.mark.parametrize(("change", "expected"), REFUSED)
def test_mistakes_in_rows_are_refused_by_line(change: dict, expected: str | None, tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "q.jsonl", [ROW, ROW | change]))
    if expected is None:
        assert len(read_choices(path, 0, "gold")) == 2
    else:
        said = refused(read_choices, path, 0, "gold")
        assert said.startswith(f"{path}:2: ") and expected in said


def test_a_line_that_is_no_question_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps(ROW) + "\n{broken\n")
    with pytest.raises(UserError, match=r"q\.jsonl:2: broken JSON"):
        read_choices(str(tmp_path / "q.jsonl"), None, "gold")
