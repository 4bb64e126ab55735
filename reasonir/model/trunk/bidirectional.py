"""Loads a decoder or encoder of transformers as a trunk, and proves that its attention has the requested direction.

Texts run packed, without padding, where the architecture hands our attention what it needs; else padded, through
transformers' own attention.
Invariant: a trunk from here attends in both directions, or, if causal attention was requested, to earlier tokens only.
This holds for padded and packed input alike, and texts never attend to each other. A model for which it fails is
refused with an error that names the model and its attention.

Letters: B texts of a packed stream, T its tokens, D channels of a hidden state.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.model.trunk.attention import PACKED_ATTENTION, Segments, register
from reasonir.model.trunk.fused import fuse
from reasonir.model.trunk.linear import padded_length, speed_up

DIGITS = re.compile(r"\d+")
PROBE_TOKENS = (11, 7, 11)
"""Lengths of the leak probe's texts: the middle one is padded in a batch, and has a packed neighbour on each side."""


class Attention(StrEnum):
    """Which tokens of its text a token attends to: all, or itself and earlier ones."""

    bidirectional = "bidirectional"
    causal = "causal"


def is_decoder(config: Any) -> bool:
    """Return whether a model type is a decoder such as Llama, not an encoder such as BERT."""
    # BERT has a causal head too, so a decoder is a model with a causal head and without a masked-language-model head.
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def load_config(path: str) -> Any:
    """Read a model's configuration unchanged, without remote code.

    Raises:
        UserError: No such folder, not a model, or an encoder-decoder whose encoder cannot be loaded alone.
    """
    from transformers import AutoConfig

    if not path.startswith("hub:") and _looks_local(path) and not (Path(path) / "config.json").is_file():
        raise UserError(f"model.path={path}: no such model folder (config.json is missing)")
    try:
        config = AutoConfig.from_pretrained(path.removeprefix("hub:"), trust_remote_code=False)
    except Exception as error:  # each architecture fails in its own way on a value that it did not expect
        raise UserError(f"model.path={path}: cannot be read as a model: {first_line(error)}") from error
    if getattr(config, "is_encoder_decoder", False) and not encoder_alone(config):
        raise UserError(f"model.path={path}: {config.model_type} is an encoder-decoder; use a decoder or an encoder")
    return config


def encoder_alone(config: Any) -> bool:
    """Return whether transformers has a class for the encoder of this encoder-decoder, such as T5EncoderModel."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    return MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "").endswith("EncoderModel")


def ask_for_attention(config: Any, attention: Attention) -> None:
    """Write the attention of a decoder into its configuration, and remove the reference to remote code."""
    # `is_causal` must be set on the configuration before the model is built. Set on modules only, SDPA silently stays
    # causal for padded batches (transformers 5.23). Encoders have no such option; the leak probe checks them.
    if is_decoder(config):
        config.is_causal = attention is Attention.causal
    # Saved folders must not send a reader to code that we never ran.
    if hasattr(config, "auto_map"):
        del config.auto_map


def attention_of(config: Any) -> Attention:
    """Return the attention of a loaded or built trunk from its configuration."""
    return Attention.causal if getattr(config, "is_causal", False) else Attention.bidirectional


def _looks_local(path: str) -> bool:
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") > 1


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says; its class where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def load_trunk(path: str, config: Any, dtype: torch.dtype | None, attention: Attention, four_bits: bool = False) -> Any:
    """Load a model's weights into a trunk with packed attention.

    Args:
        path: A model folder or hub id.
        config: The model's configuration, from `load_config`; changed in place.
        dtype: Of the weights; None is the checkpoint's own.
        attention: Direction of the attention.
        four_bits: Hold the matrices of linear layers in four bits (NF4; bitsandbytes).

    Raises:
        UserError: The folder is unreadable, weights are missing, or the leak probe fails.
    """
    from transformers import AutoModel, AutoModelForTextEncoding

    # Of a multimodal model we keep the text tower, which has a configuration of its own.
    ask_for_attention(config.get_text_config(), attention)
    register()
    kind = AutoModelForTextEncoding if encoder_alone(config) else AutoModel
    read = partial(kind.from_pretrained, path.removeprefix("hub:"), config=config, dtype=dtype or "auto",
                   trust_remote_code=False, output_loading_info=True)  # fmt: skip
    four = _four_bit_options() if four_bits else {}
    try:
        try:
            model, report = read(attn_implementation=PACKED_ATTENTION, **four)
        except KeyError:  # an architecture with a list of attentions of its own, such as Falcon
            model, report = read(**four)
    except Exception as error:  # damaged files raise different exceptions in every library that reads them
        raise UserError(f"model.path={path}: weights cannot be loaded: {first_line(error)}") from error
    # transformers would only warn of missing weights and leave them random. Pooling never uses the pooler's.
    missing = sorted(key for key in report["missing_keys"] if "pooler." not in key)
    if missing:
        raise UserError(f"model.path={path}: {len(missing)} weights are missing, such as {missing[0]}")
    # transformers would leave out the last layers, and only warn of it too.
    if beyond := weights_beyond(model, report["unexpected_keys"]):
        raise UserError(
            f"model.path={path}: {len(beyond)} weights have no place in the model that config.json describes, such as "
            f"{beyond[0]}; it counts too few layers"
        )
    trunk = getattr(model, "language_model", model)
    # The commit is the name of a hub model in cache keys.
    trunk.config._commit_hash = getattr(config, "_commit_hash", None)
    return prepare_trunk(trunk, path, attention)


def weights_beyond(model: Any, unexpected: Iterable[str]) -> list[str]:
    """Return the weights of layers that config.json does not count, from those that found no place in a model."""
    known = {DIGITS.sub("#", name) for name, _ in model.named_parameters()}
    prefix = f"{model.base_model_prefix}."
    return sorted(key for key in unexpected if DIGITS.sub("#", key.removeprefix(prefix)) in known)


def _four_bit_options() -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    options = {
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    }
    # Matrices are quantised one by one as they come onto the device.
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **options), "device_map": {"": device}}


def prepare_trunk(model: Any, name: str, attention: Attention = Attention.bidirectional) -> Any:
    """Freeze unused weights, install the faster modules of this folder, and run the leak probe.

    Args:
        model: Built with packed attention; changed in place.
        name: The model's name in error messages.
        attention: Direction that the probe has to find.
    """
    install_modules(model)
    try:
        probe_leakage(model, name, attention)
    except UserError as error:
        pad_from_now_on(model, str(error))
        probe_leakage(model, name, attention)
    return model


def install_modules(model: Any) -> None:
    """Freeze unused weights and install the faster modules of this folder; reads no weight."""
    # BERT's pooler gets no gradient from our pooling; an optimizer must not decay its weights.
    if getattr(model, "pooler", None) is not None:
        model.pooler.requires_grad_(False)
    model.eval()
    model.config.use_cache = False
    fuse(model)
    speed_up(model)


def pad_from_now_on(model: Any, reason: str) -> None:
    """Let `forward_packed` pad texts and run them through transformers' own attention.

    Args:
        model: The trunk, changed in place.
        reason: Why it cannot run packed, for those who ask.
    """
    model.padded_because = reason
    _set_attention(model, _own_attention(model))


def padded_because(model: Any) -> str | None:
    """Return why a trunk pads its texts; None if it packs them."""
    return getattr(model, "padded_because", None)


def _set_attention(model: Any, name: str) -> None:
    # `set_attn_implementation` forgets copies of the configuration (UMT5's encoder) and refuses older architectures.
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = name


def _own_attention(model: Any) -> str:
    """Return the attention that transformers would choose for a saved folder."""
    return "sdpa" if model._supports_sdpa else "eager"


def forward_packed(model: Any, token_ids: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Run a packed stream through the trunk; the positions of every text start anew.

    Args:
        model: The trunk.
        token_ids: int64 (T), the texts' tokens end to end.
        segments: Where each text begins and ends.

    Returns:
        Hidden states (T, D) of the last layer.
    """
    if padded_because(model) is not None:
        texts = token_ids.split(list(segments.lengths))
        return torch.cat(_padded_states(model, list(texts)))
    tokens, lengths = len(token_ids), torch.tensor(segments.lengths, device=token_ids.device)
    starts = torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths, output_size=tokens)
    positions = torch.arange(tokens, device=token_ids.device) - starts + _first_position(model)
    # Some layers are faster with a few more rows. Attention leaves this padding out and its states are dropped, so
    # neither embeddings nor gradients change.
    if rest := padded_length(tokens, model.dtype, token_ids.device) - tokens:
        token_ids, positions = (torch.nn.functional.pad(x, (0, rest)) for x in (token_ids, positions))
    output = model(input_ids=token_ids[None], position_ids=positions[None], segments=segments)
    return output.last_hidden_state[0, :tokens]


def _first_position(model: Any) -> int:
    """Return the position of a text's first token: after the padding index for RoBERTa, else 0."""
    embeddings = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    return 0 if padding is None else padding + 1


@torch.no_grad()
def probe_leakage(
    model: Any, name: str, attention: Attention = Attention.bidirectional, device: torch.device | None = None
) -> None:
    """Check on random tokens which states depend on a text's last token.

    Three texts run together, packed with our attention or padded, and each alone with transformers' own. Then the last
    token of the middle text is replaced. In both runs the middle text's first state must change; of a causal model no
    state before the last may change. The neighbours' states must stay, and states together and alone must be equal.
    Under autocast all of it is as near as bfloat16 is.

    Args:
        model: The trunk.
        name: The model's name in error messages.
        attention: Direction that has to be found.
        device: Where the model computes; None is where its weights are.

    Raises:
        UserError: Names the model, its attention and the difference.
    """
    trained, device = model.training, device or model.device
    model.eval()
    vocabulary = model.get_input_embeddings().num_embeddings
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(vocabulary // 2, vocabulary, (n,), generator=draw).to(device) for n in PROBE_TOKENS]
    changed = [text.clone() for text in texts]
    changed[1][-1] = vocabulary // 3
    kinds = ("packed", "padded") if padded_because(model) is None else ("padded", "single")
    own = f"transformers attention and {PACKED_ATTENTION}" if kinds[0] == "packed" else "transformers attention, padded"
    where = f"{name} ({type(model).__name__}, {own})"
    try:
        packed, packed_after = _together(model, texts), _together(model, changed)
        padded, padded_after = _reference_states(model, texts), _reference_states(model, changed)
    except Exception as error:  # each architecture fails in its own way on input that it does not know
        raise UserError(f"{where}: cannot run {kinds[0]}: {first_line(error)}") from error
    finally:
        model.train(trained)
    if not all(bool(torch.isfinite(state).all()) for state in packed):
        raise UserError(f"{where}: hidden states are not finite; the weights are damaged, or too large for their dtype")
    # Tolerances are relative to the largest state. bfloat16 has 8 bits, and the two attentions sum in different orders.
    scale = max(float(state.float().abs().max()) for state in packed)
    low = packed[0].dtype != torch.float32 or torch.is_autocast_enabled(packed[0].device.type)
    tolerance = scale * (5e-2 if low else 1e-4)
    neighbours = max(_distance(packed[i], packed_after[i]) for i in (0, 2))
    if neighbours > tolerance:
        raise UserError(f"{where}: {kinds[0]} neighbours mix (moved by {neighbours:.3g})")
    for kind, before, after in zip(kinds, (packed, padded), (packed_after, padded_after), strict=True):
        if attention is Attention.bidirectional and _distance(before[1][0], after[1][0]) <= scale * 1e-7:
            raise UserError(
                f"{where}: {kind} input is still causal: the last token does not reach the first "
                "(model.attention=causal trains the model as it is)"
            )
        if attention is Attention.causal and _distance(before[1][:-1], after[1][:-1]) > scale * 1e-6:
            raise UserError(f"{where}: {kind} input is not causal: the last token reaches those before it")
    apart = max(_distance(a, b) for a, b in zip(packed, padded, strict=True))
    if apart > tolerance:
        raise UserError(f"{where}: {' and '.join(kinds)} states differ by {apart:.3g} (allowed {tolerance:.3g})")


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def _together(model: Any, texts: list[torch.Tensor]) -> list[torch.Tensor]:
    lengths = [len(text) for text in texts]
    return list(forward_packed(model, torch.cat(texts), Segments.of(lengths, texts[0].device)).split(lengths))


def _reference_states(model: Any, texts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Run a padded batch, as readers of a saved folder do; of a model that is padded anyway each text alone."""
    if padded_because(model) is None:
        return _padded_states(model, texts)
    return [states for text in texts for states in _padded_states(model, [text])]


def _padded_states(model: Any, texts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Run a right-padded batch through the attention that transformers would choose for a saved folder."""
    before = model.config._attn_implementation
    if before == PACKED_ATTENTION:
        _set_attention(model, _own_attention(model))
    try:
        # Some models count positions by the padding token. A few name one that their embedding does not hold.
        padding = getattr(model.config, "pad_token_id", None) or 0
        padding = padding if 0 <= padding < model.get_input_embeddings().num_embeddings else 0
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=padding)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    finally:
        if before == PACKED_ATTENTION:
            _set_attention(model, before)
    return [states[i, : len(text)] for i, text in enumerate(texts)]
