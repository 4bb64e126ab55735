"""A table of answers as language models give them: each bad one has its reason, each good one passes every gate."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from reasonir.llm.attempts import Rejection
from reasonir.synth.gates.checks import Gates
from tests.unit.synth.gates.limits import GATES

TABLE = yaml.safe_load(Path(__file__).with_name("answers.yaml").read_text(encoding="utf-8"))
# A prompt's own words, in the pieces between its variables.
PROMPT = (
    "Describe a garden in which the reader has never walked, with names and numbers of its own.\nYour garden: ",
    "Each of the two could have been written without knowing anything of the other. Say what is missing.",
)
DOCUMENT = "A document in other words, which the answers were not copied from."


def check(gates: Gates, kind: str, text: str) -> Rejection | None:
    if kind == "query":
        return gates.check_query(text, DOCUMENT, PROMPT)
    if kind == "document":
        return gates.check_document(text, "negative", PROMPT, (DOCUMENT,))
    if kind == "task":
        return gates.check_task(text, PROMPT)
    return gates.check_text(text, "rewrite", PROMPT, (DOCUMENT,))


@pytest.mark.parametrize(("reason", "kind", "text"), TABLE["refused"])
def test_a_bad_answer_is_refused_with_its_reason(reason: str, kind: str, text: str) -> None:
    rejection = check(GATES, kind, text)
    assert rejection is not None and rejection.reason == reason and rejection.detail.endswith(".")


@pytest.mark.parametrize(("kind", "text"), TABLE["taken"])
def test_a_good_answer_passes(kind: str, text: str) -> None:
    assert check(GATES, kind, text) is None


def test_the_table_is_large_and_covers_every_reason() -> None:
    reasons = Counter(reason for reason, _, _ in TABLE["refused"])
    assert reasons.total() >= 80 and len(TABLE["taken"]) >= 60
    assert set(reasons) == {
        "prompt_echo", "not_self_contained", "no_content", "heading", "talks_about_task", "task_line", "mixed_scripts",
        "gibberish", "repetition", "language", "refusal", "boilerplate", "empty",
    }  # fmt: skip
