"""A trunk without weights, and its checkpoint read in parts: each rank of a sharded engine holds its shard alone.

Invariant: what is read is what transformers loads, bit for bit. A checkpoint that transformers would have to convert
(other names, other files, weights of buffers) is not read here: `find_stored` returns None, and the model loads whole.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.model.trunk.attention import PACKED_ATTENTION, register
from reasonir.model.trunk.bidirectional import (
    Attention,
    ask_for_attention,
    encoder_alone,
    install_modules,
    probe_leakage,
    weights_beyond,
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
BLOCK_BYTES = 2**24
"""Read at once: a block exists in the checkpoint's number format and in the model's."""


class StoredWeights(Mapping[str, torch.Tensor]):
    """Float32 weights of a checkpoint by their names in the trunk; read anew each time, never kept."""

    def __init__(self, places: dict[str, tuple[Path, str]]) -> None:
        """Take the file and the key of each weight."""
        self._places = places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> torch.Tensor:
        whole = torch.empty(self.shape(name), dtype=torch.float32)
        self.fill(name, 0, whole)
        return whole

    def shape(self, name: str) -> list[int]:
        """Return the shape of a whole weight."""
        file, key = self._places[name]
        with _open(file) as opened:
            shape: list[int] = opened.get_slice(key).get_shape()
        return shape

    @torch.no_grad()
    def fill(self, name: str, first_row: int, into: torch.Tensor) -> None:
        """Copy rows of a weight into a tensor, in its number format.

        Args:
            name: Of the weight, in the trunk.
            first_row: Of the rows.
            into: As many rows as are wanted.
        """
        file, key = self._places[name]
        # Closed again at once: the pages of an open file count as this process's memory.
        with _open(file) as opened:
            stored = opened.get_slice(key)
            rows = max(1, BLOCK_BYTES // (4 * max(1, into[0].numel()))) if len(into) else 1
            for start in range(0, len(into), rows):
                block = into[start : start + rows]
                block.copy_(stored[first_row + start : first_row + start + len(block)])


def _open(file: Path) -> Any:
    from safetensors import safe_open

    return safe_open(file, framework="pt")


def find_stored(path: str, trunk: Any) -> StoredWeights | None:
    """Return the weights of a model folder or hub id; None if they do not stand there as the trunk names them.

    Args:
        path: Of the model.
        trunk: The model without weights.
    """
    parameters = dict(trunk.named_parameters())
    if trunk.state_dict().keys() != parameters.keys():
        return None
    keys = {key: file for file in _checkpoint_files(path) for key in _keys_of(file)}
    # A checkpoint of the model with a head has the trunk behind a prefix.
    for prefix in ("", f"{trunk.base_model_prefix}."):
        if all(prefix + name in keys for name in parameters):
            stored = StoredWeights({name: (keys[prefix + name], prefix + name) for name in parameters})
            fits = all(p.ndim and stored.shape(name) == list(p.shape) for name, p in parameters.items())
            fits = fits and not weights_beyond(trunk, keys.keys() - {prefix + name for name in parameters})
            return stored if fits else None
    return None


def _keys_of(file: Path) -> list[str]:
    with _open(file) as opened:
        return list(opened.keys())


def _checkpoint_files(path: str) -> list[Path]:
    """Return the safetensors files of a model, from the hub if need be; [] if it has none."""
    from transformers.utils import cached_file

    name, quiet = path.removeprefix("hub:"), {"_raise_exceptions_for_missing_entries": False}
    if (index := cached_file(name, INDEX, **quiet)) is None:
        single = cached_file(name, WEIGHTS, **quiet)
        return [] if single is None else [Path(single)]
    shards = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
    return [Path(found) for shard in shards if (found := cached_file(name, shard, **quiet)) is not None]


def open_trunk(
    path: str, config: Any, attention: Attention, device: str | torch.device
) -> tuple[Any, StoredWeights] | None:
    """Build a trunk on the meta device and find its weights; None if the model must be converted, padded or cut.

    The attention is proven with the real weights, one module in memory at a time.

    Args:
        path: A model folder or hub id.
        config: The model's configuration, from `load_config`; changed in place.
        attention: Direction of the attention.
        device: Where the proof computes.
    Raises:
        UserError: The files are damaged.
    """
    from accelerate import init_empty_weights
    from safetensors import SafetensorError
    from transformers import AutoModel

    if encoder_alone(config) or config.get_text_config() is not config:
        return None
    ask_for_attention(config, attention)
    register()
    try:
        # Buffers, such as rotary frequencies, are computed: they stand in no checkpoint.
        with init_empty_weights(include_buffers=False):
            trunk = AutoModel.from_config(
                config, attn_implementation=PACKED_ATTENTION, dtype=torch.float32, trust_remote_code=False
            )
        stored = find_stored(path, trunk)
        if stored is None:
            return None
        install_modules(trunk)
        _probe_in_parts(trunk, stored, path, attention, torch.device(device))
    except (SafetensorError, OSError) as error:
        raise UserError(f"model.path={path}: weights cannot be loaded: {error}") from error
    except Exception:  # it cannot be packed: `load_trunk` pads it, or says in one line why it refuses
        return None
    return trunk, stored


def _probe_in_parts(trunk: Any, stored: StoredWeights, name: str, attention: Attention, device: torch.device) -> None:
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_submodules

    cpu_offload(trunk, execution_device=device, state_dict=stored)
    probe_leakage(trunk, name, attention, device)
    remove_hook_from_submodules(trunk)
    # accelerate leaves each module's own method in an attribute, where it would hide a later subclass's.
    for module in trunk.modules():
        if getattr(module.__dict__.get("forward"), "__func__", None) is type(module).forward:
            del module.forward
