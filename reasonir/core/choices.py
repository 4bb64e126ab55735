"""Options that more than one stage offers, as enumerations."""

from enum import StrEnum


class Precision(StrEnum):
    """Arithmetic of the encoder: float32, or bfloat16 products under autocast."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class TemplateChoice(StrEnum):
    """How texts become embeddings (form of the input, attention, pooling): a preset of `reasonir.model.presets`.

    auto takes what the model folder or a known hub id says, else reasonir for decoders and plain for encoders.
    """

    auto = "auto"
    reasonir = "reasonir"
    gritlm = "gritlm"
    e5_mistral = "e5_mistral"
    qwen3 = "qwen3"
    plain = "plain"
    bge = "bge"
    e5 = "e5"
