"""Low-rank adapters of PEFT: added to a trunk, merged into its weights, saved as a folder that PEFT loads.

Invariant: `encoder.trunk` stays the same transformers model with and without adapters, so that packing, probing and
saving need no case for them. After `merge_adapters` its state has the keys that it had before `add_adapters`.

LoRA, arXiv 2106.09685: y = W x + (alpha / rank) B A x. DoRA, arXiv 2402.09353: the same direction, each row of
W + (alpha / rank) B A scaled to a learned length.
Letters: T rows of input, R rank, O outputs.
"""

import dataclasses
import math
from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.core.files import whole_folder
from reasonir.model.encoder import Encoder

ALL_LINEAR = "all-linear"
# PEFT's name for a model's first adapter; we never add a second.
ADAPTER = "default"
# BERT's head over its first token. No pooling of ours runs it, so an adapter in it would never get a gradient.
POOLER = "pooler"


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

    B starts at zero, so that no embedding changes yet. Adapters of half-precision layers are float32; others have their
    layer's dtype.

    Args:
        encoder: Changed in place. Set the model's own dropouts before this call.
        rank: Rank of the adapters, > 0.
        alpha: The adapters' output is scaled by alpha / rank.
        dropout: Probability of dropping an element of the adapters' input.
        targets: Names of layers, or their last dotted parts (q_proj, mlp.down_proj); ["all-linear"] takes all.
        dora: Learn the length of each row of the weight too.
        seed: A is drawn from it on the CPU, layer by layer in the trunk's order, so that every process and device gets
            the same numbers.

    Returns:
        Full names of the adapted layers, in the trunk's order.

    Raises:
        UserError: A target names no linear layer.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    assert not has_adapters(encoder), "the encoder has adapters already"
    trunk = encoder.trunk
    chosen = _choose_layers(linear_layers(trunk), targets, type(trunk).__name__)
    config = LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # declared int, used as a number
        lora_dropout=dropout,
        target_modules=sorted({".".join(name.split(".")[-2:]) for name in chosen} if _all(targets) else set(targets)),
        exclude_modules=[POOLER, f"{POOLER}.dense"] if getattr(trunk, POOLER, None) is not None else None,
        use_dora=dora,
        fan_in_fan_out=all(isinstance(trunk.get_submodule(name), Conv1D) for name in chosen),
    )
    # PEFT draws initial weights from the global generator. They are replaced below, and the generator's state is kept.
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, trunk, ADAPTER)
    adapted = dict(_adapted_layers(trunk))
    # PEFT matches names by rules of its own: nobody must train other layers than the options name.
    assert list(adapted) == chosen, "PEFT adapted other layers than those chosen"
    draw = torch.Generator().manual_seed(seed)
    for layer in adapted.values():
        _widen(layer)
        _take_off_meta(layer)
        weight = layer.lora_A[ADAPTER].weight
        start = torch.empty(weight.shape)
        torch.nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=draw)  # as nn.Linear and PEFT start
        weight.data.copy_(start)
        # Only PEFT's own forward pass scales the rows of W + B A together (DoRA), or multiplies four-bit weights.
        if not dora and layer.get_base_layer().weight.is_floating_point():
            layer.forward = MethodType(_adapted_forward, layer)
    # New modules begin in training mode, with their dropout on.
    trunk.train(encoder.training)
    return chosen


def linear_layers(trunk: Any) -> list[str]:
    """Return the full names of the linear layers that an embedding depends on, in the trunk's order."""
    from transformers.pytorch_utils import Conv1D  # a linear layer of GPT-2 whose weight is transposed

    linear = (torch.nn.Linear, Conv1D)
    return [n for n, module in trunk.named_modules() if isinstance(module, linear) and POOLER not in n.split(".")]


def _choose_layers(layers: Sequence[str], targets: Sequence[str], model: str) -> list[str]:
    """Return the layers that `targets` names.

    Args:
        layers: Full names of the linear layers.
        targets: Full names, last dotted parts, or ["all-linear"].
        model: The model's class, for messages.

    Raises:
        UserError: A target names no layer; the message lists the names there are.
    """
    if not layers:
        raise UserError(f"lora.targets: {model} has no linear layers; train all weights (lora=none), or another model")
    if _all(targets):
        return list(layers)
    for target in targets:
        if not any(_matches(target, layer) for layer in layers):
            there = ", ".join(sorted({layer.split(".")[-1] for layer in layers}))
            raise UserError(f"lora.targets: the model has no linear layer {target!r}; there are {there}, {ALL_LINEAR}")
    return [layer for layer in layers if any(_matches(target, layer) for target in targets)]


def _all(targets: Sequence[str]) -> bool:
    return list(targets) == [ALL_LINEAR]


def _matches(target: str, layer: str) -> bool:
    return layer == target or layer.endswith(f".{target}")


def _adapted_layers(trunk: Any) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in trunk.named_modules() if isinstance(module, LoraLayer)]


def _widen(layer: Any) -> None:
    """Turn half-precision adapters into float32: bfloat16's 8 bits would round small updates to nothing."""
    for name, parameter in layer.named_parameters():
        if "lora_" in name and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def _take_off_meta(layer: Any) -> None:
    """Give adapters of a layer without weights some of their own: PEFT has put both on the meta device."""
    down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    if up.weight.is_meta:
        down.to_empty(device="cpu")
        torch.nn.init.zeros_(up.to_empty(device="cpu").weight)


def _adapted_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Compute W x + scaling B A x as PEFT does, in fewer passes over memory."""
    if layer.disable_adapters or layer.merged:
        return type(layer).forward(layer, x)
    # The base layer gets a matrix of rows and so returns a tensor that is no view. `addmm_` may then write into it: no
    # backward pass needs W's output.
    rows = x.flatten(0, -2)
    output = layer.base_layer(rows)
    # PEFT always widens the input to the adapters' float32; under autocast the next product would narrow it again.
    if not torch.is_autocast_enabled(x.device.type):
        rows = rows.to(layer.lora_A[ADAPTER].weight.dtype)
    low_TR = layer.lora_A[ADAPTER](layer.lora_dropout[ADAPTER](rows))
    up_RO = layer.lora_B[ADAPTER].weight.t().to(low_TR.dtype)
    scaling = layer.scaling[ADAPTER]
    # One product scales B's output and adds it to W's.
    if output.dtype == low_TR.dtype:
        output = output.addmm_(low_TR, up_RO, alpha=scaling)
    else:
        output = torch.addmm(output.to(low_TR.dtype), low_TR, up_RO, alpha=scaling).to(output.dtype)
    return output.view(*x.shape[:-1], -1)


def has_adapters(encoder: Encoder) -> bool:
    """Return whether the trunk carries adapters; does not import PEFT."""
    return hasattr(encoder.trunk, "peft_config")


def merge_adapters(encoder: Encoder) -> Encoder:
    """Add the adapters' products to the weights, in place, and remove the adapters.

    The sum has the weights' own dtype, so that half-precision weights round the merged model.

    Raises:
        ValueError: A merged weight would not be finite.
    """
    assert has_adapters(encoder), "the encoder has no adapters"
    trunk = encoder.trunk
    for name, layer in _adapted_layers(trunk):
        # safe_merge looks for numbers that are not finite before it changes the weight.
        layer.merge(safe_merge=True)
        parent, _, leaf = name.rpartition(".")
        setattr(trunk.get_submodule(parent), leaf, layer.get_base_layer())
    del trunk.peft_config
    trunk.requires_grad_(True)
    if getattr(trunk, POOLER, None) is not None:
        # As before the adapters: without a gradient the optimizer must not decay it.
        trunk.pooler.requires_grad_(False)
    return encoder


def save_adapters(encoder: Encoder, path: str, base_path: str) -> None:
    """Write the adapters, atomically, as PEFT's adapter_config.json and adapter_model.safetensors.

    `PeftModel.from_pretrained(AutoModel.from_pretrained(base_path), path)` then embeds as this encoder does, provided
    that a decoder's config.json says `is_causal: false`.

    Args:
        encoder: Carries the adapters.
        path: The folder to write.
        base_path: Folder or hub id of the adapted model; recorded, not read.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    assert has_adapters(encoder), "the encoder has no adapters"
    weights = get_peft_model_state_dict(encoder.trunk, adapter_name=ADAPTER, save_embedding_layers=False)
    # PeftModel puts this prefix before every name; the trunk itself was never wrapped in one.
    prefixed = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    written = dataclasses.replace(
        encoder.trunk.peft_config[ADAPTER], base_model_name_or_path=base_path, inference_mode=True
    )
    with whole_folder(path) as folder:
        save_file(prefixed, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        written.save_pretrained(folder)


def checkpoint_layers(encoder: Encoder) -> None:
    """Turn on gradient checkpointing: each layer keeps its input only, and is computed again in the backward pass.

    Gradients stay the same, dropout included. A layer then keeps one hidden state for each token in place of all its
    activations, at the price of one more forward pass. It is active in training mode only.

    Raises:
        UserError: The architecture does not support it.
    """
    # The reentrant form would reach adapters behind frozen embeddings only if the embeddings' output required a
    # gradient, and could not keep a graph for a second backward pass.
    trunk, options = encoder.trunk, {"use_reentrant": False}
    if not trunk.supports_gradient_checkpointing:
        raise UserError(f"gradient_checkpointing=true: {type(trunk).__name__} does not support it")
    # transformers warns of a cache of keys beside checkpointing, and nothing here reads one.
    trunk.config.use_cache = False
    # The method's name since transformers 5.22, where the older name warns.
    if hasattr(trunk, "activation_checkpointing_enable"):
        trunk.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        trunk.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    # transformers makes the embeddings' output require a gradient, which the reentrant form alone needs.
    if hasattr(trunk, "_require_grads_hooks") or hasattr(trunk, "_require_grads_hook"):
        trunk.disable_input_require_grads()
