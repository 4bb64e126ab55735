"""The card of a model folder (README.md): front matter for the hub, training, scores, code that loads the model.

`train/card.py` supplies the facts. Two sections, evaluation and contamination, stand between HTML comments, so that
`reasonir-eval card` can replace them later; until then they give the command that would measure.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import write_text
from reasonir.model.pooling import Pooling
from reasonir.model.trunk.bidirectional import Attention

CARD_FILE = "README.md"
EVALUATION, CONTAMINATION = "evaluation", "contamination"

TEMPLATE = Path(__file__).with_name("card.md.jinja")


def describe_pooling(pooling: Pooling, attention: Attention, pools_prompt: bool) -> dict[str, Any]:
    """Return the card's words for attention and pooling, and the pooling in code for transformers alone.

    Args:
        pooling: Which states are pooled.
        attention: Direction of the attention.
        pools_prompt: Whether a mean includes the tokens before the text.
    """
    masked = pooling is Pooling.mean and not pools_prompt
    words = {
        Pooling.mean: (
            "the mean over the text's own tokens" if masked else "the mean over all tokens",
            "states.mean(0)",
        ),
        Pooling.cls: ("the first token's state", "states[0]"),
        Pooling.last: ("the last token's state", "states[-1]"),
    }
    said, code = words[pooling]
    return {
        "attention": "each other in both directions" if attention is Attention.bidirectional else "earlier ones only",
        "pooling": said,
        "pooled_state": "states[pooled].mean(0)" if masked else code,
        "masked": masked,
    }


def render_card(front_matter: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return the card's text.

    Args:
        front_matter: Fields for the hub; those that are None are left out.
        facts: A value for every name in card.md.jinja.
    """
    import jinja2
    import yaml

    # Not huggingface_hub's ModelCard.from_template, which renders a forgotten fact as nothing: StrictUndefined raises.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["literal"] = _literal  # jinja's own tojson is for HTML: it escapes < and >
    head = yaml.safe_dump({k: v for k, v in front_matter.items() if v is not None}, sort_keys=False, allow_unicode=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(front_matter=head, **facts)


def _literal(value: str) -> str:
    """Return a string as a Python literal in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def section(name: str, body: str) -> str:
    """Return a section that `read_section` and `replace_section` find again."""
    first, last = _marks(name)
    return f"{first}{body}{last}"


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"


def _split(text: str, name: str) -> tuple[str, str, str] | None:
    """Return the text before, in and after a section; None where there is none."""
    first, last = _marks(name)
    before, found, rest = text.partition(first)
    body, closed, after = rest.partition(last)
    return (before, body, after) if found and closed else None


def read_section(card: Path, name: str) -> str | None:
    """Return the body of a section; None where there is no such card or section."""
    parts = _split(card.read_text(encoding="utf-8"), name) if card.is_file() else None
    return None if parts is None else parts[1]


def replace_section(card: Path, name: str, body: str) -> None:
    """Write a new body into a section of a card, atomically.

    Args:
        card: The card's file.
        name: Name of the section.
        body: Its new Markdown.

    Raises:
        UserError: The card lacks the section.
    """
    parts = _split(card.read_text(encoding="utf-8"), name)
    if parts is None:
        first, last = (mark.strip() for mark in _marks(name))
        raise UserError(f"{card} has no section between {first!r} and {last!r}; put both lines into it")
    before, _, after = parts
    write_text(card, f"{before}{section(name, body)}{after}")
