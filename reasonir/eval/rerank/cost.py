"""The floating-point operations of reranking, by formula.

Owns the formula and the model's sizes in it; leaves counting tokens to the answers.
"""

from dataclasses import dataclass, replace
from typing import Any

FORMULA = (
    "FLOPs = 2 * parameters * n + 2 * layers * width * n * (n + 1), summed over the answers; n: tokens of a prompt and "
    "its answer, width: attention heads * their dimension"
)


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The sizes of a model in the formula; None where one is not known."""

    parameters: float | None = None
    layers: int | None = None
    width: int | None = None


def count_flops(size: ModelSize, tokens: int, pairs: int) -> float | None:
    """Return the floating-point operations of all answers.

    Each token is multiplied with every weight and added: 2 * parameters * n. In each layer token i is compared with the
    keys of i tokens and sums their values: 2 * 2 * width * i, which is 2 * width * n * (n + 1) over i = 1 to n. Left
    out: softmax, norms, and the attention where layers are not known. Counted too high: embedding tables count as
    weights, all experts of a mixture as active, sliding windows as full attention, and a prefix that the engine reuses
    as read again. After arXiv 2001.08361, section 2.1, with causal attention halved.

    Args:
        size: Of the model.
        tokens: sum of n over the answers.
        pairs: sum of n * (n + 1) / 2 over the answers.
    Returns:
        FLOPs; None where the parameters are not known.
    """
    if size.parameters is None:
        return None
    attention = 4.0 * size.layers * size.width * pairs if size.layers and size.width else 0.0
    return 2.0 * size.parameters * tokens + attention


def size_of(local_model: str | None, parameters: float | None) -> ModelSize:
    """Return the sizes that are known: read off a model that runs here, and the parameters that the options name."""
    size = ModelSize() if local_model is None else read_size(local_model)
    return size if parameters is None else replace(size, parameters=parameters)


def read_size(path: str) -> ModelSize:
    """Return the sizes of a causal language model by its config.json; no weights are read.

    The sizes of a model that transformers does not know (remote code) stay None.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config: Any = AutoConfig.from_pretrained(path, trust_remote_code=False)
        # Shapes without memory: the weights of a large model are counted, not made.
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError):
        return ModelSize()
    config = config.get_text_config()
    width = None
    if heads := getattr(config, "num_attention_heads", None):
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return ModelSize(
        parameters=sum(weight.numel() for weight in model.parameters()),
        layers=getattr(config, "num_hidden_layers", None),
        width=width,
    )
