"""Prompt files: whole, checked, editable."""

import json
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.llm import Completion
from reasonir.llm.prompts import OWN_FILES, REWRITE_VARIABLES, load_prompt, rewrite_values
from tests.kit.smollm2 import MODEL, needs_smollm2

OWN = {
    "hq": (("document",), "query"),
    "eq": (("document",), "query"),
    "negatives": (("instruction", "query", "positive", "negatives", "min_words"), "negative"),
    "vl_tasks": (("field", "count", "example"), "tasks"),
    "vl": (("task", "query_words", "positive_words"), "query positive"),
    "rewrite": (REWRITE_VARIABLES, "text"),
    "judge": (("instruction", "query", "document"), "score"),
}
FILE = "version: v1\nturns:\n  - {role: user, text: 'Read {{ document }}'}\nretry: 'No - {{ reason }}'\n"


def test_every_own_file_is_known_here() -> None:
    """But for the evaluation's, whose tests know theirs."""
    assert {path.stem for path in OWN_FILES.glob("*.yaml") if not path.stem.startswith(("rerank_", "rag_"))} == set(OWN)


@pytest.mark.parametrize("name", OWN)
def test_own_prompts_show_every_variable(name: str) -> None:
    variables, answer = OWN[name]
    prompt = load_prompt(name, None, variables, answer, ("fields",) if name == "vl_tasks" else ())
    values = {variable: f"{variable} here" for variable in variables} | {"negatives": ["negatives here"]}
    shown = "\n".join(message.content for message in prompt.messages(values))
    unused = {"length_tokens", "instruction"} if name == "rewrite" else set()
    assert all(f"{variable} here" in shown for variable in set(variables) - unused - {"instruction"})
    assert "{{" not in shown and "{%" not in shown and prompt.version.startswith(name.replace("_", "-"))
    asked, refused = prompt.messages(values), Completion(id="", text="x", finish="stop")
    for attempt in (1, 2, 9):
        again = prompt.after_rejection(asked, refused, "Because of this.", attempt=attempt, repeated=False)
        assert again[: len(asked)] == asked and "Because of this." in again[-1].content


def test_an_edited_file_comes_first_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "rewrite.yaml").write_text(FILE.replace("document", "query"))
    edited = load_prompt("rewrite", str(tmp_path), ("query",), "text")
    assert edited.version == "v1" and edited.messages({"query": "{{ a }}"})[0].content == "Read {{ a }}"
    assert load_prompt("eq", str(tmp_path), ("document",), "query").version == "eq-2"
    assert edited.sha256 != load_prompt("rewrite", None, OWN["rewrite"][0], "text").sha256


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("version: [", "broken YAML"),
        ("- a", "holds version, turns and retry"),
        (FILE + "extra: 1\n", "unknown entry 'extra'"),
        (FILE.replace("version: v1\n", ""), "`version` is missing"),
        (FILE.replace("document", "documnt"), "uses 'documnt'; there are document"),
        (FILE.replace("{{ document", "{{ document |"), "`turns[0]`"),
        (FILE.replace("role: user", "role: human"), "role 'human'"),
        (FILE.replace("role: user", "role: assistant"), "the last turn must be the user's"),
        (FILE.replace("{{ reason }}", "{{ why }}"), "`retry` uses 'why'"),
        (FILE + "schema: {type: array}\n", "must be a JSON schema of type object"),
        (FILE + "schema: {type: object, required: [q]}\n", "must require the field `text`"),
        (FILE.replace("'No - {{ reason }}'", "[no, {{ reason }}]"), "broken YAML"),
        (FILE.replace("'No - {{ reason }}'", "['no', '{{ why }}']"), "`retry` uses 'why'"),
        (FILE + "example: {values: {}}\n", "`example` must hold values"),
        (FILE + "example: {values: {}, answer: a}\n", "`example` gives no value for 'document'"),
        (FILE + "schema: {type: object, required: [text], minProperties: '{{ words }}'}\n", "`schema` uses 'words'"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(UserError) as raised:
        load_prompt("p", str(tmp_path), ("document",), "text", example=True)
    assert expected in str(raised.value) and str(tmp_path / "p.yaml") in str(raised.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; copy"):
        load_prompt("hq", str(tmp_path / "no"), ("document",), "query")


def test_a_rewriting_asks_without_line_breaks_and_with_its_length() -> None:
    prompt = load_prompt("rewrite", None, REWRITE_VARIABLES, "text")
    (asked,) = prompt.messages(rewrite_values("Why does\n it\r\nrise?\n", 64))
    assert asked.content.startswith("Why does it rise?\n") and "64 tokens (some 48 words)" in asked.content
    (free,) = prompt.messages(rewrite_values("Why?", None))
    assert "tokens" not in free.content and "cut off" not in free.content


def test_a_refused_answer_is_shown_again_and_one_that_ran_on_only_in_part() -> None:
    prompt = load_prompt("rewrite", None, REWRITE_VARIABLES, "text")
    asked = prompt.messages(rewrite_values("Why?", None))
    for finish, shown in (("stop", 8_000), ("length", 400)):
        long = Completion(id="", text="x" * 9_000, finish=finish)
        *before, answer, reason = prompt.after_rejection(asked, long, "Too dull.", attempt=1, repeated=False)
        assert tuple(before) == asked
        assert (answer.role, answer.content, reason.role) == ("assistant", "x" * shown, "user")
        assert "Too dull." in reason.content
    nothing = Completion(id="", text=" ", finish="stop")
    assert prompt.after_rejection(asked, nothing, "", attempt=1, repeated=False)[-2].content == "(nothing)"


def test_an_answer_given_twice_is_not_shown_again_and_each_attempt_has_its_wording() -> None:
    prompt = load_prompt("eq", None, ("document",), "query")
    asked = prompt.messages({"document": "Bread rises."})
    same = Completion(id="", text="the same words", finish="stop")
    again = prompt.after_rejection(asked, same, "Too dull.", attempt=2, repeated=True)
    assert len(again) == len(asked) and "the same words" not in "".join(m.content for m in again)
    assert again[-1].content.startswith(asked[-1].content) and "Too dull." in again[-1].content
    wordings = [prompt.after_rejection(asked, same, "", attempt=n, repeated=False)[-1].content for n in (1, 2, 3)]
    assert wordings[0] != wordings[1] == wordings[2]


@pytest.mark.parametrize("name", [name for name in OWN if name != "rewrite"])
def test_no_prompt_holds_a_value_that_could_be_copied_as_an_answer(name: str) -> None:
    """Small models answered with the placeholder of the form that they were shown."""
    variables, answer = OWN[name]
    prompt = load_prompt(name, None, variables, answer, ("fields",) if name == "vl_tasks" else ())
    assert '{"' not in "".join(prompt.own_texts())


def test_the_worked_example_comes_first_and_counts_as_the_prompts_own_words() -> None:
    variables, answer = OWN["hq"]
    plain = load_prompt("hq", None, variables, answer)
    shown = load_prompt("hq", None, variables, answer, example=True)
    system, question = plain.messages({"document": "Bread rises."})
    first, asked, answered, last = shown.messages({"document": "Bread rises."})
    assert (first, last) == (system, question) and asked.content != question.content
    assert [message.role for message in (asked, answered)] == ["user", "assistant"]
    assert set(json.loads(answered.content)) == {"idea", "query"}
    assert answered.content in shown.own_texts() and plain.sha256 == shown.sha256


def test_lengths_of_a_schema_follow_the_item() -> None:
    variables, answer = OWN["vl"]
    schema = load_prompt("vl", None, variables, answer).schema_of({"query_words": 100, "positive_words": 7, "task": ""})
    assert schema is not None
    assert [schema["properties"][name]["minLength"] for name in ("query", "positive")] == [400, 28]


@needs_smollm2
@pytest.mark.parametrize("name", OWN)
def test_a_real_chat_template_takes_every_prompt_and_every_way_of_asking_again(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    variables, answer = OWN[name]
    prompt = load_prompt(name, None, variables, answer, ("fields",) if name == "vl_tasks" else (), example=True)
    values = {variable: f"<{variable} here>" for variable in variables}
    values |= {"negatives": [], "min_words": 300, "query_words": 300, "positive_words": 300}
    asked, refused = prompt.messages(values), Completion(id="", text="An answer.", finish="stop")
    for messages in (
        asked,
        *(prompt.after_rejection(asked, refused, "Because.", attempt=2, repeated=again) for again in (False, True)),
    ):
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert text.endswith("<|im_start|>assistant\n")
        assert all(turn["content"] in text for turn in turns)
        assert len(tokenizer(text)["input_ids"]) < 1_500, "leaves a server of 4,096 tokens room for passage and answer"
