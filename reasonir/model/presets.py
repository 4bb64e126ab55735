"""Table of known presets: how an encoder's texts are written, which tokens see which, which states are pooled.

Invariant: an embedding depends on the preset, the weights, the tokenizer and the token limit, and on nothing else.
`sentence_transformers.py` finds the preset of a folder.
"""

import dataclasses
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from reasonir.core.errors import UserError
from reasonir.model.pooling import Pooling
from reasonir.model.templates import TemplateStyle
from reasonir.model.trunk.bidirectional import Attention


@dataclass(frozen=True, slots=True)
class Preset:
    """How to embed with a model.

    query_instruction: The instruction that queries were trained with, "" where there is none. A saved folder has it as
        sentence-transformers' "query" prompt unless training names another. `Encoder.encode` never adds it by itself.
    document_prompt: Stands before every text without an instruction.
    pools_prompt: A mean includes the tokens before the text. No difference where one token's state is taken.
    end_token: Texts end in the tokenizer's own end token; a tokenizer that appends none is made to append EOS.
    """

    style: TemplateStyle
    pooling: Pooling = Pooling.mean
    attention: Attention = Attention.bidirectional
    query_instruction: str = ""
    document_prompt: str = ""
    pools_prompt: bool = False
    end_token: bool = False


# Keys are the names of `TemplateChoice`.
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


@dataclass(frozen=True, slots=True)
class PresetOptions:
    """How a user asks for a preset: by its name, and by what replaces parts of it. "auto" and None replace nothing.

    template: A name of `PRESETS`; auto is what the folder, the hub id or the kind of model says.
    attention: bidirectional or causal.
    pooling: mean, last or cls.
    pool_instruction: Whether a mean includes the tokens before the text.
    """

    template: str = "auto"
    attention: str = "auto"
    pooling: str = "auto"
    pool_instruction: bool | None = None

    def applied(self, preset: Preset) -> Preset:
        """Return a preset with the parts replaced that are given.

        Raises:
            UserError: The parts make no sense together.
        """
        attention = preset.attention if self.attention == "auto" else Attention(self.attention)
        pooling = preset.pooling if self.pooling == "auto" else Pooling(self.pooling)
        if pooling is Pooling.cls and attention is Attention.causal:
            raise UserError(
                "model.pooling=cls with causal attention: the first token sees no other, so all texts would get the "
                "same embedding; give model.attention=bidirectional or model.pooling=last"
            )
        if self.pool_instruction is not None and pooling is not Pooling.mean:
            raise UserError(
                f"model.pool_instruction={str(self.pool_instruction).lower()}: model.pooling={pooling} takes the state "
                "of one token and no instruction's; leave model.pool_instruction=null, or give model.pooling=mean"
            )
        return dataclasses.replace(
            preset,
            attention=attention,
            pooling=pooling,
            pools_prompt=preset.pools_prompt if self.pool_instruction is None else self.pool_instruction,
            # As models of last-token pooling are trained: the token that has seen the text is the same in every text.
            end_token=preset.end_token or (pooling is Pooling.last and preset.pooling is not Pooling.last),
        )

    def of_new_model(self) -> Preset:
        """Return the preset of a model that has no folder yet."""
        return self.applied(PRESETS["reasonir" if self.template == "auto" else self.template])


# Patterns of hub ids; the first match decides.
HUB_IDS = {
    "reasonir/ReasonIR-*": "reasonir",
    "GritLM/GritLM-*": "gritlm",
    "intfloat/e5-mistral-7b-instruct": "e5_mistral",
    "Qwen/Qwen3-Embedding-*": "qwen3",
    "BAAI/bge-*-en-v1.5": "bge",
    "intfloat/e5-small": "e5",
    "intfloat/e5-base": "e5",
    "intfloat/e5-large": "e5",
    "intfloat/e5-*-v2": "e5",
    "intfloat/e5-*-unsupervised": "e5",
    "intfloat/multilingual-e5-small": "e5",
    "intfloat/multilingual-e5-base": "e5",
    "intfloat/multilingual-e5-large": "e5",
}


def preset_of_hub_id(path: str) -> Preset | None:
    """Return the preset of a hub id, with or without the prefix hub:; None for an unknown one."""
    known = (name for pattern, name in HUB_IDS.items() if fnmatch(path.removeprefix("hub:"), pattern))
    name = next(known, None)
    return None if name is None else PRESETS[name]


def preset_of_folder(folder: Path) -> Preset | None:
    """Return the preset of a downloaded model, by its place in the hub's cache or its name; None for an unknown one."""
    folder = folder.absolute()
    cached = folder.parents[1].name if folder.parent.name == "snapshots" else ""
    if cached.startswith("models--"):
        return preset_of_hub_id("/".join(cached.split("--")[1:]))
    known = (name for pattern, name in HUB_IDS.items() if fnmatch(folder.name, pattern.partition("/")[2]))
    name = next(known, None)
    return None if name is None else PRESETS[name]
