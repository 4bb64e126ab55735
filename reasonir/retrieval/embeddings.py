"""Embeddings of texts in a cache on disk: memory-mapped, reused when equal, checked before they are used.

Invariant: an array under its final name is complete, its name depends on everything that determines its rows (the
texts, the instruction, the model's weights and template, the token limit, the arithmetic), and the notes beside it
hold the checksum of its bytes. Leaves the encoding itself to `sharding.py`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reasonir.core.files import file_sha256, write_json
from reasonir.core.processes import rank
from reasonir.model.encoder import Encoder
from reasonir.model.trunk.precision import choose_precision
from reasonir.retrieval.sharding import EncodingSettings, ShardedEncoding


@dataclass(frozen=True, slots=True)
class Encoded:
    """An array (N, D) and how it came about."""

    embeddings: np.ndarray
    reused: bool
    truncated_texts: int


def embed_cached(
    encoder: Encoder,
    texts: Sequence[str],
    settings: EncodingSettings,
    cache_dir: Path,
    label: str,
    chunk_tokens: int | None = None,
) -> Encoded:
    """Return the texts' embeddings from the cache, encoding them first where it has none.

    A cached array that is not what was written (sha256) is encoded again, and said so. Of several ranks, rank 0 calls
    this and the others `encode_share` with the same arguments.
    """
    target, sharded = _place(encoder, texts, settings, cache_dir, label, chunk_tokens)
    notes = target.with_suffix(".json")
    found = _read_sound(target, (len(texts), encoder.dimension))
    if found is not None:
        sharded.discard_blocks()  # left by a kill between joining and removing them
        return Encoded(np.load(target, mmap_mode="r"), True, found)
    if target.exists():
        print(f"{label}: the cached embeddings {target} are damaged; encoding again")
    sharded.encode_share()
    notes.unlink(missing_ok=True)
    truncated, checksum = sharded.join(target)
    write_json(notes, {"truncated_texts": truncated, "sha256": checksum})
    sharded.discard_blocks()
    return Encoded(np.load(target, mmap_mode="r"), False, truncated)


def encode_share(
    encoder: Encoder,
    texts: Sequence[str],
    settings: EncodingSettings,
    cache_dir: Path,
    label: str,
    chunk_tokens: int | None = None,
) -> None:
    """Encode what falls to this rank, for rank 0's `embed_cached`."""
    assert rank() > 0, "rank 0 joins the shares"
    target, sharded = _place(encoder, texts, settings, cache_dir, label, chunk_tokens)
    if _read_sound(target, (len(texts), encoder.dimension)) is None:
        sharded.encode_share()


def _place(
    encoder: Encoder,
    texts: Sequence[str],
    settings: EncodingSettings,
    cache_dir: Path,
    label: str,
    chunk_tokens: int | None,
) -> tuple[Path, ShardedEncoding]:
    key = encoding_key(encoder, texts, settings)
    folder = cache_dir / "embeddings"
    return folder / f"{key}.npy", ShardedEncoding(
        encoder, texts, settings, folder / f"{key}.blocks", label, chunk_tokens
    )


def encoding_precision(requested: str, encoder: Encoder) -> str:
    """Return "fp32" or "bf16"; on a CPU `auto` is fp32, so that a score does not hang on a speed probe."""
    if requested == "auto" and encoder.device.type == "cpu":
        return "fp32"
    return choose_precision(requested, encoder.device)[0]


def _read_sound(target: Path, shape: tuple[int, int]) -> int | None:
    """Return how many texts of a cached array were cut; None where the array is missing or not as it was written.

    Reading it for the checksum takes about a second a gigabyte.
    """
    try:
        notes = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
        truncated, checksum = int(notes["truncated_texts"]), str(notes["sha256"])
        sound = np.load(target, mmap_mode="r").shape == shape and file_sha256(target) == checksum
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return truncated if sound else None


def encoding_key(encoder: Encoder, texts: Sequence[str], settings: EncodingSettings) -> str:
    """Return the name of an array by everything its rows depend on."""
    digest = hashlib.sha256()
    for part in (encoder.fingerprint, encoder.template.fingerprint, repr(settings), str(len(texts))):
        digest.update(part.encode() + b"\0")
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()[:40]


IDS_FILE, EMBEDDINGS_FILE = "ids.txt", "embeddings.npy"
