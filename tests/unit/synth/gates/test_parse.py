"""Answers as models give them."""

import json

import pytest

from reasonir.llm.attempts import Rejection
from reasonir.synth.gates.parse import read_fields, schema_problem

SCHEMA = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "minLength": 1},
        "score": {"type": "integer", "minimum": 0, "maximum": 5},
    },
    "required": ["query"],
}


@pytest.mark.parametrize(
    "text",
    [
        '{"query": "why?"}',
        '```json\n{"query": "why?"}\n```',
        'Sure:\n{"query": "why?"} I hope {that} helps.',
        '<think>{"query": "draft"}</think>{"query": "why?"}',
        'reasoning without a start</think> {"query": "why?"}',
        'in set notation {1, 2}: {"query": "why?"}',
    ],
)
def test_what_is_around_the_object_does_not_count(text: str) -> None:
    assert read_fields(text, "stop", SCHEMA) == {"query": "why?"}


def test_line_breaks_within_strings_pass() -> None:
    assert read_fields('{"query": "a\nb"}', "stop", SCHEMA) == {"query": "a\nb"}


@pytest.mark.parametrize(
    ("text", "query"),
    [
        (
            r'{"query": "Why is \frac{v}{\theta} above \beta at \nu = 3?"}',
            r"Why is \frac{v}{\theta} above \beta at \nu = 3?",
        ),
        (r'{"query": "Is \alpha \cdot \frac{1}{2} odd?"}', r"Is \alpha \cdot \frac{1}{2} odd?"),  # no escapes of JSON
        (r'{"query": "Is \\alpha \\cdot \\frac{1}{2} odd?"}', r"Is \alpha \cdot \frac{1}{2} odd?"),
        (r'{"query": "\underline{x} and \u00e9 \"q\""}', '\\underline{x} and \u00e9 "q"'),
        (r'{"query": "one\ntwo\tthree"}', "one\ntwo\tthree"),
    ],
)
def test_latex_keeps_its_backslashes(text: str, query: str) -> None:
    assert read_fields(text, "stop", SCHEMA) == {"query": query}


def test_latex_keeps_its_backslashes_in_lists_and_in_plain_answers() -> None:
    schema = {"type": "object", "properties": {"tasks": {"type": "array", "items": {"type": "string"}}}}
    assert read_fields(r'{"tasks": ["a", "\frac{a}{b}"]}', "stop", schema) == {"tasks": ["a", r"\frac{a}{b}"]}
    assert read_fields("so \x0crac{a}{b}", "stop", None) == {"text": r"so \frac{a}{b}"}


@pytest.mark.parametrize("text", [r'{"query": "a\u0000b"}', '{"query": "a\ufffdb"}', r'{"query": "a \b, b"}'])
def test_other_control_characters_are_refused(text: str) -> None:
    rejected = read_fields(text, "stop", SCHEMA)
    assert isinstance(rejected, Rejection) and rejected.reason == "control_character"


def test_a_plain_answer_may_not_hold_them_either() -> None:
    rejected = read_fields("a\0b", "stop", None)
    assert isinstance(rejected, Rejection) and rejected.reason == "control_character"


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("", "stop", "json"),
        ("why?", "stop", "json"),
        ('["query"]', "stop", "json"),
        ('{"query": "why', "stop", "json"),
        ('{"query": "why', "length", "cut_off"),
        ("{" * 100_000, "stop", "json"),
        ('{"query": 3}', "stop", "schema"),
        ('{"query": null}', "stop", "schema"),
        ('{"query": " "}', "stop", "schema"),
        ('{"quer": "why?"}', "stop", "schema"),
        ('{"query": "why?", "score": 6}', "stop", "schema"),
        ('{"query": "why?", "score": true}', "stop", "schema"),
        ('{"query": "\\ud800"}', "stop", "json"),
    ],
)
def test_anything_else_is_rejected_with_its_reason(text: str, finish: str, reason: str) -> None:
    rejected = read_fields(text, finish, SCHEMA)
    assert isinstance(rejected, Rejection) and rejected.reason == reason and rejected.detail.endswith(".")


def test_plain_text_needs_no_schema_and_may_be_cut() -> None:
    assert read_fields(" thoughts ", "length", None) == {"text": "thoughts"}
    assert isinstance(read_fields("<think>nothing else</think>", "stop", None), Rejection)


def test_schema_problem_looks_into_lists() -> None:
    schema = {"type": "object", "properties": {"tasks": {"type": "array", "minItems": 2, "items": {"type": "string"}}}}
    assert schema_problem(json.loads('{"tasks": ["a", "b"]}'), schema) == ""
    assert "fewer than 2" in schema_problem({"tasks": ["a"]}, schema)
    assert "an entry of `tasks` must be of type string" in schema_problem({"tasks": ["a", 3]}, schema)
