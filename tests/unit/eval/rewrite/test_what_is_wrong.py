"""What a rewritten query must not be, with its reason; beside it what real models write and may."""

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from reasonir.eval.rewrite.rewrite import GATES, what_is_wrong
from reasonir.llm.prompts import REWRITE_VARIABLES, load_prompt

ROOT = Path(__file__).resolve().parents[4]
PROMPT = load_prompt("rewrite", None, REWRITE_VARIABLES, "text").own_texts()
QUERY = "Why does the kettle sing before the water boils?"
# The longest piece of the prompt is what a model would repeat.
ECHO = " ".join(max(PROMPT, key=len).split()[:14])
GOOD = (
    "The problem is sound from heated water. Bubbles of vapour form at the hot bottom and collapse in the cooler layer "
    "above it; each collapse is a click. Knowledge of cavitation and of latent heat would help."
)


@pytest.mark.parametrize(
    ("text", "query", "reason"),
    [
        ("Bubbles collapse, so bubbles collapse, " * 12, QUERY, "repetition"),
        ("The kettle siiiiiiiiiiiiiiiiiiiiiiiiiiiiiings", QUERY, "repetition"),
        (ECHO, QUERY, "prompt_echo"),
        ("the rewritten query", QUERY, "prompt_echo"),
        ("...", QUERY, "prompt_echo"),
        (f"{QUERY} {QUERY}\n{QUERY}", QUERY, "unchanged"),
        (QUERY.upper().replace("?", " !"), QUERY, "unchanged"),
        (f"Here is the query: {QUERY}", QUERY, "unchanged"),
        ("水が沸く前に、底で蒸気の泡ができて、上の冷たい層でつぶれるからです。", QUERY, "language"),
        ("Вода шумит, потому что пузырьки пара лопаются.", QUERY, "language"),
        ("Bubbles of vapour 蒸気 collapse in the cooler water above.", QUERY, "mixed_scripts"),
        ("Xqzv bwtrk the fzzkq jwqt of hgtrw wqzx plmkq in water", QUERY, "gibberish"),
        ("Steam collapses\x00 above the bottom.", QUERY, "control_character"),
        ("Steam \ufffd collapses above the bottom.", QUERY, "control_character"),
        (f"Sure! Here is a rewritten query: {GOOD}", QUERY, "boilerplate"),
        ("I'm sorry, but I can't assist with that request.", QUERY, "refusal"),
        ("", QUERY, "empty"),
    ],
)
def test_it_is_refused(text: str, query: str, reason: str) -> None:
    rejection = what_is_wrong(text, "stop", query, None, PROMPT)
    assert rejection is not None and rejection.reason == reason and rejection.detail.endswith(".")


@pytest.mark.parametrize(
    ("text", "query"),
    [
        (GOOD, QUERY),
        (f"{QUERY} {GOOD}", QUERY),
        ("vapour bubbles, cavitation", QUERY),
        (
            "Почему вода шумит? Пузырьки пара лопаются в холодном слое.",
            "Почему шумит чайник перед тем, как вода закипит?",
        ),
        ("Bubbles of vapour collapse in the cooler layer.", "Почему шумит чайник перед тем, как вода закипит?"),
        ("水は底で沸きます。", "なぜやかんは沸く前に鳴るのですか。"),
        ("Der Dampf bildet Blasen, die in der kühleren Schicht zerfallen.", "Warum singt der Kessel?"),
        ("Use $\\frac{dp}{dT}$ and `np.gradient(xqzv)`:\n\n1. latent heat\n2. vapour pressure", QUERY),
        (ECHO, f"What does this mean: {ECHO}?\nIt stood on a note beside my kettle, without a name."),
    ],
)
def test_it_is_taken(text: str, query: str) -> None:
    assert what_is_wrong(text, "stop", query, None, PROMPT) is None


def test_limits_are_those_of_synthesis() -> None:
    own = yaml.safe_load((ROOT / "configs" / "synth" / "writing.yaml").read_text(encoding="utf-8"))["gates"]
    assert {name: own[name] for name in asdict(GATES)} == asdict(GATES) | {"language": True, "refusals": True}
