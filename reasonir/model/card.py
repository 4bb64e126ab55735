"""The card of a model folder (README.md): front matter for the hub, how it was trained, what was measured, how to load.

Invariant: a card says only what it was given; what nobody measured it says was not measured, with the command that
would. Its measured sections stand between comments of their own, so that they can be replaced later. Leaves the facts
to `train/card.py` and the measurements to `eval/card.py`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.model.pooling import Pooling
from reasonir.model.trunk.bidirectional import Attention

CARD_FILE = "README.md"
EVALUATION, CONTAMINATION = "evaluation", "contamination"

CARD = """\
---
{{ front_matter }}---

# {{ title }}

A bi-encoder for retrieval, trained by reasonir {{ version }} {{ origin }}.
Its tokens see {{ attention }}; it pools {{ pooling }} and gives {{ dimension }} dimensions.
Compare embeddings by their dot product, they have length 1. Inputs of up to {{ max_tokens }} tokens.

## Use

With reasonir:

```python
from reasonir.model import Encoder

encoder = Encoder.from_pretrained({{ place | literal }})
limit = {{ max_tokens }}  # tokens of an input, its instruction included
documents = encoder.encode(["Water boils at a lower temperature on a mountain."], max_tokens=limit)
queries = encoder.encode(["why does rice take long here"], {{ instruction | literal }}, max_tokens=limit)
scores = queries @ documents.T
```

With sentence-transformers, without remote code and with the same embeddings:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({{ place | literal }})
documents = model.encode(["Water boils at a lower temperature on a mountain."], prompt_name="document")
queries = model.encode(["why does rice take long here"], prompt_name="query")
scores = queries @ documents.T
```

With transformers alone{{ "; the prompt is read, but not pooled" if masked }}:

```python
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({{ place | literal }})
model = AutoModel.from_pretrained({{ place | literal }})
prompt = {{ document_prompt | literal }}  # of a query: {{ query_prompt | literal }}
text = "Water boils at a lower temperature on a mountain."
limits = {"truncation": True, "max_length": {{ max_tokens }}}
{%- if masked %}
inputs = tokenizer(prompt + text, return_tensors="pt", return_offsets_mapping=True, **limits)
ends = inputs.pop("offset_mapping")[0, :, 1]
pooled = ends > len(prompt) if prompt else torch.ones_like(ends, dtype=torch.bool)
{%- else %}
inputs = tokenizer(prompt + text, return_tensors="pt", **limits)
{%- endif %}
with torch.no_grad():
    states = model(**inputs).last_hidden_state[0]
document = torch.nn.functional.normalize({{ pooled_state }}, dim=0)
```

## Training data

{{ sources }}
{% for line in remarks %}
- {{ line }}
{%- endfor %}

## Training

{{ facts }}

{{ settings }}

## Evaluation

{{ evaluation }}

## Overlap of training data and evaluation

{{ contamination }}
"""


def describe_pooling(pooling: Pooling, attention: Attention, pools_prompt: bool) -> dict[str, Any]:
    """Return what a card says of attention and pooling, in words and in the code that uses transformers alone."""
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
        front_matter: what the hub reads; fields that are None are left out.
        facts: a value for every name of `CARD`.
    """
    import jinja2
    import yaml

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["literal"] = _literal  # jinja's tojson is made for HTML and spells < and > as escapes
    head = yaml.safe_dump({k: v for k, v in front_matter.items() if v is not None}, sort_keys=False, allow_unicode=True)
    return environment.from_string(CARD).render(front_matter=head, **facts)


def _literal(value: str) -> str:
    """Return a string as Python spells it, in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def section(name: str, body: str) -> str:
    """Return a section that `read_section` and `replace_section` find again."""
    first, last = _marks(name)
    return f"{first}{body}{last}"


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"


def _split(text: str, name: str) -> tuple[str, str, str] | None:
    """Return what stands before, in and after a section; None where there is none."""
    first, last = _marks(name)
    before, found, rest = text.partition(first)
    body, closed, after = rest.partition(last)
    return (before, body, after) if found and closed else None


def read_section(card: Path, name: str) -> str | None:
    """Return the body of a section; None where there is no such card or section."""
    parts = _split(card.read_text(encoding="utf-8"), name) if card.is_file() else None
    return None if parts is None else parts[1]


def replace_section(card: Path, name: str, body: str) -> None:
    """Write a new body into a section of a card.

    Raises:
        UserError: the card lacks the section.
    """
    parts = _split(card.read_text(encoding="utf-8"), name)
    if parts is None:
        first, last = (mark.strip() for mark in _marks(name))
        raise UserError(f"{card} has no section between {first!r} and {last!r}; put both lines into it")
    before, _, after = parts
    scratch = card.with_name(f".{card.name}.partial")
    scratch.write_text(f"{before}{section(name, body)}{after}", encoding="utf-8")
    scratch.replace(card)
