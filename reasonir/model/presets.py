"""Known recipes of encoders, in one table: how texts are written, which tokens see which, which states are pooled.

Invariant: a preset says everything about an embedding except the weights, the tokenizer and the token limit. Leaves
finding the preset of a folder to `layouts.py`.
"""

from dataclasses import dataclass
from fnmatch import fnmatch

from reasonir.model.pooling import Pooling
from reasonir.model.templates import TemplateStyle
from reasonir.model.trunk.bidirectional import Attention


@dataclass(frozen=True, slots=True)
class Preset:
    """A recipe.

    query_instruction: the instruction that queries were trained with, where there is one; sentence-transformers'
        "query" prompt of a saved folder unless training says another. Never added by itself.
    document_prompt: stands before every text without an instruction.
    pools_prompt: a mean takes in what stands before the text too (one token's state knows no difference).
    end_token: texts end in the tokenizer's own end token; a tokenizer that appends none is made to append EOS.
    """

    style: TemplateStyle
    pooling: Pooling = Pooling.mean
    attention: Attention = Attention.bidirectional
    query_instruction: str = ""
    document_prompt: str = ""
    pools_prompt: bool = False
    end_token: bool = False


PRESETS = {
    "reasonir": Preset(TemplateStyle.reasonir),  # arXiv 2504.20595
    "gritlm": Preset(TemplateStyle.reasonir),  # arXiv 2402.09906: ReasonIR's form is GritLM's
    "e5_mistral": Preset(  # arXiv 2401.00368
        TemplateStyle.e5_mistral, Pooling.last, Attention.causal, pools_prompt=True, end_token=True
    ),
    "qwen3": Preset(  # arXiv 2506.05176
        TemplateStyle.qwen3, Pooling.last, Attention.causal, pools_prompt=True, end_token=True
    ),
    "plain": Preset(TemplateStyle.plain),
    "bge": Preset(  # arXiv 2309.07597
        TemplateStyle.plain,
        pooling=Pooling.cls,
        query_instruction="Represent this sentence for searching relevant passages:",
        pools_prompt=True,
    ),
    "e5": Preset(  # arXiv 2212.03533
        TemplateStyle.plain, query_instruction="query:", document_prompt="passage: ", pools_prompt=True
    ),
}
"""By the names of `TemplateChoice`."""

HUB_IDS = {
    "reasonir/ReasonIR-*": "reasonir",
    "GritLM/GritLM-*": "gritlm",
    "intfloat/e5-mistral-7b-instruct": "e5_mistral",
    "Qwen/Qwen3-Embedding-*": "qwen3",
    "BAAI/bge-*-en-v1.5": "bge",
    "intfloat/e5-*": "e5",
    "intfloat/multilingual-e5-small": "e5",
    "intfloat/multilingual-e5-base": "e5",
    "intfloat/multilingual-e5-large": "e5",
}
"""Patterns of hub ids; the first that fits decides."""


def preset_of_hub_id(path: str) -> Preset | None:
    """Return the preset that goes with a hub id, with or without the prefix hub:; None for one not known."""
    known = (name for pattern, name in HUB_IDS.items() if fnmatch(path.removeprefix("hub:"), pattern))
    name = next(known, None)
    return None if name is None else PRESETS[name]
