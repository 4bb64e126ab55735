"""Loads any transformers decoder or encoder as a trunk with the attention asked for, and proves that it has it.

Invariant: a trunk that leaves this room attends in both directions (or, asked to be causal, to earlier tokens only) on
padded and on packed input alike, and never across packed neighbours; anything else is an error that names the model
and its attention.
"""

from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.model.trunk.attention import PACKED_ATTENTION, Segments, register
from reasonir.model.trunk.fused import fuse
from reasonir.model.trunk.linear import rows_to_fill, speed_up_linear

PROBE_TOKENS = (11, 7, 11)


class Attention(StrEnum):
    """Which tokens of its text a token sees: all, or itself and those before it."""

    bidirectional = "bidirectional"
    causal = "causal"


def is_decoder(config: Any) -> bool:
    """Return whether transformers knows this model type as a decoder only (Llama) and not an encoder (BERT)."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def load_config(path: str) -> Any:
    """Read a model's configuration as it stands, without remote code.

    Raises:
        UserError: no such folder, not a model, or an encoder-decoder.
    """
    from transformers import AutoConfig

    if not path.startswith("hub:") and _looks_local(path) and not (Path(path) / "config.json").is_file():
        raise UserError(f"model.path={path}: no such model folder (config.json is missing)")
    try:
        config = AutoConfig.from_pretrained(path.removeprefix("hub:"), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"model.path={path}: cannot be read as a model: {_first_line(error)}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"model.path={path}: {config.model_type} is an encoder-decoder; use a decoder or an encoder")
    return config


def ask_for_attention(config: Any, attention: Attention) -> None:
    """Write the attention of a decoder into its configuration, and take out what asks for remote code.

    `is_causal` has to stand on the configuration before the model is built: set on modules only, SDPA stays
    silently causal for padded batches (transformers 5.23). Encoders have no such switch: the probe judges them.
    """
    if is_decoder(config):
        config.is_causal = attention is Attention.causal
    if hasattr(config, "auto_map"):
        del config.auto_map


def attention_of(config: Any) -> Attention:
    """Return the attention of a trunk that was loaded or built here."""
    return Attention.causal if getattr(config, "is_causal", False) else Attention.bidirectional


def _looks_local(path: str) -> bool:
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") > 1


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def load_trunk(path: str, config: Any, dtype: torch.dtype | None, attention: Attention) -> Any:
    """Load the weights under `path` into a trunk with packed attention of this kind.

    Raises:
        UserError: unreadable folder, or weights that do not cover the trunk (transformers would only warn and
            leave them random).
    """
    from transformers import AutoModel

    ask_for_attention(config, attention)
    register()
    try:
        model, report = AutoModel.from_pretrained(
            path.removeprefix("hub:"),
            config=config,
            dtype=dtype or "auto",
            attn_implementation=PACKED_ATTENTION,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # damaged files raise whatever the readers below like
        raise UserError(f"model.path={path}: weights cannot be loaded: {_first_line(error)}") from error
    missing = sorted(key for key in report["missing_keys"] if "pooler." not in key)
    if missing:
        raise UserError(f"model.path={path}: {len(missing)} weights are missing, such as {missing[0]}")
    return prepare_trunk(model, path, attention)


def prepare_trunk(model: Any, name: str, attention: Attention = Attention.bidirectional) -> Any:
    """Freeze what pooling never uses, fuse what can be, and run the leak probe."""
    if getattr(model, "pooler", None) is not None:
        model.pooler.requires_grad_(False)
    model.eval()
    model.config.use_cache = False
    fuse(model)
    speed_up_linear(model)
    probe_leakage(model, name, attention)
    return model


def forward_packed(model: Any, token_ids: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Run texts that lie end to end through the trunk; every text's positions start at its own beginning.

    Where `linear.py` asks for it the stream is filled up behind the last text: attention leaves the filling out, and
    its states are cut off, so that neither an embedding nor a gradient hears of it.

    Args:
        token_ids: int64 (T).
    Returns:
        Hidden states (T, D) of the last layer.
    """
    tokens, lengths = len(token_ids), torch.tensor(segments.lengths, device=token_ids.device)
    starts = torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths, output_size=tokens)
    positions = torch.arange(tokens, device=token_ids.device) - starts + _first_position(model)
    if rest := rows_to_fill(tokens, model.dtype, token_ids.device):
        token_ids, positions = (torch.nn.functional.pad(x, (0, rest)) for x in (token_ids, positions))
    output = model(input_ids=token_ids[None], position_ids=positions[None], segments=segments)
    return output.last_hidden_state[0, :tokens]


def _first_position(model: Any) -> int:
    """RoBERTa's learned positions start after the padding index; everyone else's at 0."""
    embeddings = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    return 0 if padding is None else padding + 1


@torch.no_grad()
def probe_leakage(model: Any, name: str, attention: Attention = Attention.bidirectional) -> None:
    """Check on random tokens how far the last token of a text reaches: to its first position, and to no neighbour's.

    Three texts run packed with our attention and right-padded with transformers' own; then the last token of the
    middle text changes. Asked of both: the middle text's first state moves, or, of a causal model, no state before the
    last moves. Asked of packed: the neighbours do not move at all beyond rounding, and packed equals padded.

    Raises:
        UserError: naming the model, its attention and what was found.
    """
    trained, device = model.training, model.device
    model.eval()
    vocabulary = model.get_input_embeddings().num_embeddings
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(vocabulary // 2, vocabulary, (n,), generator=draw).to(device) for n in PROBE_TOKENS]
    changed = [text.clone() for text in texts]
    changed[1][-1] = vocabulary // 3
    where = f"{name} ({type(model).__name__}, transformers attention and {PACKED_ATTENTION})"
    packed, packed_after = _packed_states(model, texts, where), _packed_states(model, changed, where)
    padded, padded_after = _padded_states(model, texts), _padded_states(model, changed)
    model.train(trained)
    scale = max(float(state.float().abs().max()) for state in packed)
    tolerance = scale * (1e-4 if packed[0].dtype == torch.float32 else 5e-2)
    neighbours = max(_distance(packed[i], packed_after[i]) for i in (0, 2))
    if neighbours > tolerance:
        raise UserError(f"{where}: packed neighbours mix (moved by {neighbours:.3g}); it cannot be trained packed")
    for kind, before, after in (("packed", packed, packed_after), ("padded", padded, padded_after)):
        if attention is Attention.bidirectional and _distance(before[1][0], after[1][0]) <= scale * 1e-7:
            raise UserError(f"{where}: {kind} input is still causal: the last token does not reach the first")
        if attention is Attention.causal and _distance(before[1][:-1], after[1][:-1]) > scale * 1e-6:
            raise UserError(f"{where}: {kind} input is not causal: the last token reaches those before it")
    apart = max(_distance(a, b) for a, b in zip(packed, padded, strict=True))
    if apart > tolerance:
        raise UserError(f"{where}: packed and padded states differ by {apart:.3g} (allowed {tolerance:.3g})")


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def _packed_states(model: Any, texts: list[torch.Tensor], where: str) -> list[torch.Tensor]:
    lengths = [len(text) for text in texts]
    try:
        states = forward_packed(model, torch.cat(texts), Segments.of(lengths, model.device))
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: cannot run packed: {_first_line(error)}") from error
    return list(states.split(lengths))


def _padded_states(model: Any, texts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Right-padded batch through the attention that transformers itself would choose for an exported model."""
    packed = model.config._attn_implementation
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    finally:
        model.set_attn_implementation(packed)
    return [states[i, : len(text)] for i, text in enumerate(texts)]
