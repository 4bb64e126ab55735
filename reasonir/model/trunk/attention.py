"""Attention without padding: texts lie end to end in one stream, and each attends to itself only.

transformers' models call `packed_attention` through their `AttentionInterface`. On CUDA it is one call of torch's
variable-length kernel, or one padded SDPA call where the kernel refuses (cards before Ampere, float32, odd heads); on a
CPU it is one SDPA call for each run of neighbours of equal length, in float32 also under autocast.
Invariant: no text attends to another.

Letters: T tokens of the stream, L tokens of one text, H heads, G key-value heads, C channels of a head.
"""

import inspect
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

PACKED_ATTENTION = "reasonir_packed"
# FlashAttention 2: the most channels of a head, and the first compute capability (Ampere's).
KERNEL_CHANNELS, FIRST_CAPABILITY = 256, 8


@dataclass(frozen=True, slots=True)
class Segments:
    """Where the texts of a packed stream begin and end.

    lengths: Tokens of each text, in order. cumulative: int32 (texts + 1), sums of the lengths, on the stream's device.
    """

    lengths: tuple[int, ...]
    cumulative: torch.Tensor

    @classmethod
    def of(cls, lengths: list[int], device: torch.device | str = "cpu") -> "Segments":
        """Describe texts of these lengths."""
        total = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(device, torch.int32)
        return cls(tuple(lengths), total)

    def runs(self) -> list[tuple[int, int]]:
        """Return (number of texts, their length) for each run of neighbours of equal length."""
        return [(sum(1 for _ in group), length) for length, group in groupby(self.lengths)]


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each segment; the signature is that of transformers' attention functions.

    Every token attends to its whole text; if the model's configuration says `is_causal: true`, to no later token.

    Args:
        module: The attention module that calls; its configuration gives direction and window.
        query: (1, H, T, C).
        key: (1, G, T, C).
        value: (1, G, T, C).
        attention_mask: Must be None.
        dropout: Probability of dropping an attention weight.
        scaling: Factor of the scores; None is C ** -0.5.
        sliding_window: Tokens of a window as transformers passes it; None is the whole text.
        softcap: Bound of the scores in Gemma 2's attention; None is unbounded.
        segments: The model's forward receives it as a keyword and passes it on; None if the model dropped it.
        **kwargs: Further options of transformers' models.

    Returns:
        (1, T, H, C), and None for the attention weights.

    Raises:
        ValueError: The model dropped `segments`, or uses attention features that are not built here.
    """
    if segments is None or attention_mask is not None:
        raise ValueError(f"{type(module).__name__} does not hand packed segments to its attention function")
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise ValueError(f"{type(module).__name__} uses attention sinks or position biases, which cannot be packed")
    causal = bool(getattr(getattr(module, "config", None), "is_causal", False))
    window = _window(module, sliding_window, causal)
    query_THC, key_TGC, value_TGC = (x[0].transpose(0, 1) for x in (query, key, value))
    # Rotary positions of a float32 stream turn bfloat16 queries into float32, which the kernel does not take. SDPA
    # casts its inputs under autocast, so we do the same.
    if query.is_cuda and torch.is_autocast_enabled("cuda"):
        low = torch.get_autocast_dtype("cuda")
        query_THC, key_TGC, value_TGC = query_THC.to(low), key_TGC.to(low), value_TGC.to(low)
    # SDPA's backward pass on a CPU is slower in bfloat16 than in float32 (docs/log.md, 2026-11-29).
    if query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        query_THC, key_TGC, value_TGC = query_THC.float(), key_TGC.float(), value_TGC.float()
    if softcap is None and dropout == 0.0 and _kernel_takes(query_THC, value_TGC):
        output = _variable_length_kernel(query_THC, key_TGC, value_TGC, segments, scaling, window, causal)
    elif softcap is None and query.is_cuda:
        output = _padded(query_THC, key_TGC, value_TGC, segments, scaling, window, causal, dropout)
    else:
        with torch.autocast("cpu", enabled=False):
            output = _per_run(query_THC, key_TGC, value_TGC, segments, scaling, window, causal, dropout, softcap)
    return output.unsqueeze(0), None


def _kernel_takes(query_THC: torch.Tensor, value_TGC: torch.Tensor) -> bool:
    """Return whether torch's variable-length kernel (FlashAttention 2) computes these heads on this card."""
    channels = query_THC.shape[-1]
    fits = channels == value_TGC.shape[-1] and channels <= KERNEL_CHANNELS and channels % 8 == 0
    return fits and query_THC.dtype in (torch.bfloat16, torch.float16) and has_fast_bfloat16(query_THC.device)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device is a GPU with bfloat16 units: NVIDIA's since Ampere (compute capability 8), AMD's.

    Older cards emulate bfloat16 slowly, and the variable-length kernel refuses them.
    """
    if device.type != "cuda" or torch.version.hip:
        return device.type == "cuda"
    return torch.cuda.get_device_capability(device)[0] >= FIRST_CAPABILITY


def _window(module: torch.nn.Module, sliding_window: int | None, causal: bool) -> int | None:
    """Return how many tokens a window reaches back, and ahead unless causal, beyond the token itself."""
    if sliding_window is None:
        return None
    # A causal window of n tokens holds the token itself and n - 1 earlier ones.
    if causal:
        return sliding_window - 1
    # In both directions transformers' masks reach `config.sliding_window` tokens to either side, inclusive. It passes
    # one token less to flash kernels of decoders, so the configuration is read, not the argument.
    return getattr(getattr(module, "config", None), "sliding_window", None) or sliding_window - 1


def _variable_length_kernel(
    query_THC: torch.Tensor,
    key_TGC: torch.Tensor,
    value_TGC: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
    causal: bool,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    grouped: dict[str, Any] = (
        {"enable_gqa": query_THC.shape[1] != key_TGC.shape[1]} if _kernel_asks_for_groups() else {}
    )
    longest = max(segments.lengths)
    reach = -1 if window is None else window
    output = varlen_attn(
        query_THC.contiguous(),
        key_TGC.contiguous(),
        value_TGC.contiguous(),
        segments.cumulative,
        segments.cumulative,
        longest,
        longest,
        scale=scaling,
        window_size=(reach, 0 if causal else reach),
        **grouped,
    )
    assert isinstance(output, torch.Tensor), "no auxiliary output was asked for"
    return output


@cache
def _kernel_asks_for_groups() -> bool:
    """Return whether varlen_attn needs `enable_gqa` for fewer key-value heads; torch 2.11 does not know it."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _padded(
    query_THC: torch.Tensor,
    key_TGC: torch.Tensor,
    value_TGC: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """Call SDPA once, on texts padded to the longest: on a GPU many small calls cost more than the padding."""
    tokens, longest = sum(segments.lengths), max(segments.lengths)
    lengths = segments.cumulative.diff().long()
    starts = torch.arange(len(lengths), device=lengths.device) * longest - segments.cumulative[:-1]
    # Where each token of the stream stands in the padded batch, flattened.
    places = torch.arange(tokens, device=lengths.device) + starts.repeat_interleave(lengths, output_size=tokens)

    def spread(x: torch.Tensor) -> torch.Tensor:
        rows = x.new_zeros(len(lengths) * longest, *x.shape[1:]).index_copy(0, places, x[:tokens])
        return rows.unflatten(0, (len(lengths), longest)).transpose(1, 2)

    real = torch.arange(longest, device=lengths.device) < lengths[:, None]
    mask = real[:, None, None, :]
    if causal or window is not None:
        # Padded rows see themselves: a row that saw nothing would become NaN, and so would gradients.
        itself = torch.eye(longest, dtype=torch.bool, device=lengths.device)
        mask = (mask & _mask(longest, window, causal, lengths.device)) | itself
    # Repeated: with a mask and grouped heads at once SDPA would leave its kernels that need no L x L memory.
    groups = query_THC.shape[1] // key_TGC.shape[1]
    key, value = (spread(x).repeat_interleave(groups, dim=1) for x in (key_TGC, value_TGC))
    out = scaled_dot_product_attention(spread(query_THC), key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    found = out.transpose(1, 2).flatten(0, 1)[places]
    # Padding that `forward_packed` appended behind the last text.
    return torch.nn.functional.pad(found, (0, 0, 0, 0, 0, len(query_THC) - tokens))


def _per_run(
    query_THC: torch.Tensor,
    key_TGC: torch.Tensor,
    value_TGC: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
    causal: bool,
    dropout: float,
    softcap: float | None,
) -> torch.Tensor:
    """Call SDPA once for each run of texts of equal length."""
    runs = segments.runs()
    sizes = [count * length for count, length in runs]
    # Padding that `forward_packed` appended behind the last text.
    filling = len(query_THC) - sum(sizes)
    parts = []
    # `split`, not slices: its backward pass is one concatenation, where each slice's fills a whole stream with zeros.
    pieces = zip(runs, *(x.split([*sizes, filling])[:-1] for x in (query_THC, key_TGC, value_TGC)), strict=True)
    for (count, length), query, key, value in pieces:
        q, k, v = (x.reshape(count, length, x.shape[1], x.shape[2]).transpose(1, 2) for x in (query, key, value))
        # A mask costs memory and the fast kernels. It is built only if the window is narrower than the text, or for a
        # causal text with `_soft_capped`, which has no other way to be causal.
        narrow = window is not None and length > window + 1
        mask = _mask(length, window, causal, query.device) if narrow or (causal and softcap is not None) else None
        if softcap is None:
            out = scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=causal and mask is None,
                scale=scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        else:
            # Dropout would draw other numbers the second time.
            attend = _SoftCapped.apply if dropout == 0.0 else _soft_capped
            out = attend(q, k, v, mask, scaling, dropout, softcap)
        parts.append(out.transpose(1, 2).reshape(count * length, q.shape[1], v.shape[-1]))
    # Nothing attends to the padding and it attends to nothing: zeros keep its states finite.
    if filling:
        parts.append(query_THC.new_zeros(filling, query_THC.shape[1], value_TGC.shape[-1]))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _mask(length: int, window: int | None, causal: bool, device: torch.device) -> torch.Tensor:
    """Return which of L keys each of L queries attends to: bool (L, L)."""
    position = torch.arange(length, device=device)
    back = position[:, None] - position[None, :]
    reach = length if window is None else window
    return (back >= 0) & (back <= reach) if causal else back.abs() <= reach


class _SoftCapped(torch.autograd.Function):
    """`_soft_capped`, computed again in the backward pass: a graph would keep five L x L matrices of every head."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *options: Any) -> torch.Tensor:
        """Attend; keep the inputs alone.

        Args:
            ctx: Keeps what the backward pass reads.
            q: Queries (texts, H, L, C).
            k: Keys (texts, G, L, C).
            v: Values (texts, G, L, C).
            *options: mask, scaling, dropout and softcap of `_soft_capped`.
        """
        ctx.save_for_backward(q, k, v)
        kind = q.device.type
        ctx.options, ctx.autocast = options, (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        return _soft_capped(q, k, v, *options)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad(), torch.autocast(*ctx.autocast):
            found = _soft_capped(*inputs, *ctx.options)
        return (*torch.autograd.grad(found, inputs, gradients), None, None, None, None)


def _soft_capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    dropout: float,
    softcap: float,
) -> torch.Tensor:
    """Gemma 2's attention (arXiv 2408.00118): scores become softcap * tanh(scores / softcap); softmax in float32."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = query @ key.transpose(-1, -2) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores.float(), dim=-1).to(query.dtype)
    return torch.nn.functional.dropout(weights, p=dropout) @ value


def register() -> None:
    """Make `attn_implementation="reasonir_packed"` known to transformers."""
    from transformers import AttentionInterface

    # No mask function is registered with it, so that transformers builds no (T, T) mask.
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
