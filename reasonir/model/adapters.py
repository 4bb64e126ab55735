"""Low-rank adapters through PEFT: put into a trunk, folded back into its weights, written as PEFT's own folder.

Invariant: `encoder.trunk` is the same transformers model before, with and after adapters, so packing, probing and
saving never learn of them; after `merge_adapters` its state has the keys it had before `add_adapters`.
Leaves to others: which weights an optimizer takes (those that require a gradient), when to save.

LoRA, arXiv 2106.09685: y = W x + (alpha / rank) B A x. DoRA, arXiv 2402.09353: the same direction, each row of the
sum scaled to a learned length.
"""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.model.encoder import Encoder
from reasonir.model.folders import replace_folder

ALL_LINEAR = "all-linear"
ADAPTER = "default"
"""PEFT's name for the only adapter of a model."""
POOLER = "pooler"
"""BERT's head over its first token. No pooling here runs it; an adapter there would never get a gradient."""


def add_adapters(
    encoder: Encoder,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    dora: bool,
    seed: int,
) -> list[str]:
    """Put adapters on linear layers of the trunk, in place, and freeze everything else.

    B starts at zero, so that no embedding changes yet. A is drawn on the CPU from (seed), layer by layer in the order
    of the trunk: the same in every process and on every device.

    Args:
        rank: > 0. alpha: the adapters' output is scaled by alpha / rank.
        dropout: probability, on the adapters' input only. Set the model's own dropouts before this call.
        targets: names of layers, or their last dotted parts (q_proj, mlp.down_proj); ["all-linear"] takes all.
        dora: learn a length for each output too (`out` more numbers a layer).
    Returns:
        Full names of the adapted layers, in the order of the trunk.
    Raises:
        UserError: a target that names no linear layer.
    Precision: adapters of half-precision layers are float32; of others, as the layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    assert not has_adapters(encoder), "the encoder has adapters already"
    trunk = encoder.trunk
    chosen = choose_layers(linear_layers(trunk), targets)
    config = LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # declared int, used as a number
        lora_dropout=dropout,
        target_modules=sorted({".".join(name.split(".")[-2:]) for name in chosen} if _all(targets) else set(targets)),
        exclude_modules=[POOLER, f"{POOLER}.dense"] if getattr(trunk, POOLER, None) is not None else None,
        use_dora=dora,
    )
    with torch.random.fork_rng(devices=[]):  # PEFT draws too; what it drew is replaced
        inject_adapter_in_model(config, trunk, ADAPTER)
    adapted = dict(_adapted_layers(trunk))
    assert list(adapted) == chosen, "PEFT adapted other layers than those chosen"
    draw = torch.Generator().manual_seed(seed)
    for layer in adapted.values():
        _widen(layer)
        weight = layer.lora_A[ADAPTER].weight
        start = torch.empty(weight.shape)
        torch.nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=draw)  # as nn.Linear and PEFT start
        weight.data.copy_(start)
        if not dora:
            layer.forward = MethodType(_adapted_forward, layer)
    trunk.train(encoder.training)
    return chosen


def linear_layers(trunk: Any) -> list[str]:
    """Return the full names of the linear layers that embeddings depend on, in the trunk's order."""
    named = trunk.named_modules()
    return [n for n, module in named if isinstance(module, torch.nn.Linear) and POOLER not in n.split(".")]


def choose_layers(layers: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Return the layers that are meant by `targets`: full names, last dotted parts, or ["all-linear"].

    Raises:
        UserError: naming `lora.targets`, the target without a layer, and the names there are.
    """
    if _all(targets):
        return list(layers)
    for target in targets:
        if not any(_means(target, layer) for layer in layers):
            there = ", ".join(sorted({layer.split(".")[-1] for layer in layers}))
            raise UserError(f"lora.targets: the model has no linear layer {target!r}; there are {there}, {ALL_LINEAR}")
    return [layer for layer in layers if any(_means(target, layer) for target in targets)]


def _all(targets: Sequence[str]) -> bool:
    return list(targets) == [ALL_LINEAR]


def _means(target: str, layer: str) -> bool:
    return layer == target or layer.endswith(f".{target}")


def _adapted_layers(trunk: Any) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in trunk.named_modules() if isinstance(module, LoraLayer)]


def _widen(layer: Any) -> None:
    """Hold half-precision adapters in float32: small updates would vanish in bfloat16's 8 bits."""
    for name, parameter in layer.named_parameters():
        if "lora_" in name and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def _adapted_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """W x + scaling B A x as PEFT computes it, in fewer passes over memory: one product adds B's output to W's.

    PEFT widens the input to the adapters' float32, which autocast narrows again at once, then scales and adds.
    """
    if layer.disable_adapters or layer.merged:
        return type(layer).forward(layer, x)
    # Rows, so that no view of W's output is written to: nothing needs that output as it was.
    rows = x.flatten(0, -2)
    output = layer.base_layer(rows)
    if not torch.is_autocast_enabled(x.device.type):
        rows = rows.to(layer.lora_A[ADAPTER].weight.dtype)
    low_TR = layer.lora_A[ADAPTER](layer.lora_dropout[ADAPTER](rows))
    up_RO = layer.lora_B[ADAPTER].weight.t().to(low_TR.dtype)
    scaling = layer.scaling[ADAPTER]
    if output.dtype == low_TR.dtype:
        output = output.addmm_(low_TR, up_RO, alpha=scaling)
    else:
        output = torch.addmm(output.to(low_TR.dtype), low_TR, up_RO, alpha=scaling).to(output.dtype)
    return output.view(*x.shape[:-1], -1)


def has_adapters(encoder: Encoder) -> bool:
    """Return whether the trunk carries adapters (false without PEFT, without importing it)."""
    return hasattr(encoder.trunk, "peft_config")


def merge_adapters(encoder: Encoder) -> Encoder:
    """Fold the adapters into the weights, in place; afterwards the encoder is as if it had never had any.

    Precision: sums in the weights' own dtype: half-precision weights round the merged model, float32 ones do not.
    Raises:
        ValueError: a merged weight would not be finite.
    """
    assert has_adapters(encoder), "the encoder has no adapters"
    trunk = encoder.trunk
    for name, layer in _adapted_layers(trunk):
        layer.merge(safe_merge=True)
        parent, _, leaf = name.rpartition(".")
        setattr(trunk.get_submodule(parent), leaf, layer.get_base_layer())
    del trunk.peft_config
    trunk.requires_grad_(True)
    if getattr(trunk, POOLER, None) is not None:
        trunk.pooler.requires_grad_(False)
    return encoder


def save_adapters(encoder: Encoder, path: str, base_path: str) -> None:
    """Write the adapters as a folder of PEFT's, atomically: adapter_config.json and adapter_model.safetensors.

    `PeftModel.from_pretrained(AutoModel.from_pretrained(base_path), path)` embeds as this encoder does, as long as the
    base model attends in both directions there too (`is_causal: false` in its config.json, for decoders).

    Args:
        base_path: folder or hub id of the model that was adapted; written down, not read.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    assert has_adapters(encoder), "the encoder has no adapters"
    target = Path(path)
    scratch = target.with_name(f".{target.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    weights = get_peft_model_state_dict(encoder.trunk, adapter_name=ADAPTER, save_embedding_layers=False)
    prefixed = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(prefixed, scratch / "adapter_model.safetensors", metadata={"format": "pt"})
    config = encoder.trunk.peft_config[ADAPTER]
    before = config.base_model_name_or_path, config.inference_mode
    config.base_model_name_or_path, config.inference_mode = base_path, True
    try:
        config.save_pretrained(scratch)
    finally:
        config.base_model_name_or_path, config.inference_mode = before
    replace_folder(scratch, target)


def checkpoint_layers(encoder: Encoder) -> None:
    """Keep only the layers' inputs for the backward pass, and compute each layer again there.

    Gradients stay the same, dropout included; memory a token falls from all of a layer's activations to one hidden
    state a layer, for one more forward pass. Active in training mode only. The non-reentrant form: gradients reach
    adapters behind frozen embeddings without the embeddings' output asking for one, and graphs may be kept.

    Raises:
        UserError: the architecture's layers cannot be recomputed.
    """
    trunk, options = encoder.trunk, {"use_reentrant": False}
    if not trunk.supports_gradient_checkpointing:
        raise UserError(f"gradient_checkpointing=true: {type(trunk).__name__} does not support it")
    trunk.config.use_cache = False
    if hasattr(trunk, "activation_checkpointing_enable"):  # its name since transformers 5.22; the old one then warns
        trunk.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        trunk.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    if hasattr(trunk, "_require_grads_hooks") or hasattr(trunk, "_require_grads_hook"):
        trunk.disable_input_require_grads()  # transformers asks for the reentrant form's sake
