"""Embeddings of texts in a cache on disk: memory-mapped, reused when equal, checked before they are used.

Invariant: an array under its final name is complete. Its name depends on everything that determines its rows: the
texts, the instruction, the model's weights and template, the token limit, the arithmetic. The stamp beside it holds
the checksum of its bytes. Leaves the encoding itself to `sharding.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reasonir.core.files import only_one, remove_leftovers
from reasonir.core.processes import rank
from reasonir.core.stamp import digest_of, read_stamp, remove_stamp, sized, unchanged, write_stamp
from reasonir.model.encoder import Encoder
from reasonir.retrieval.sharding import EncodingSettings, ShardedEncoding

KEY_DIGITS = 40
"""Hexadecimal digits of a key: 160 bits of SHA-256."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An array (N, D), whether the cache had it, and how many of its texts were cut at the token limit."""

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
    instructions: Sequence[str] | None = None,
) -> Encoded:
    """Return the texts' embeddings from the cache, encoding them first where it has none.

    A cached array whose bytes changed since they were written is encoded again, with a message. Of several ranks, rank
    0 calls this function and the others `encode_share` with the same arguments.

    Args:
        encoder: The model.
        texts: N texts.
        settings: The instruction, the token limit and the arithmetic.
        cache_dir: Arrays go to its folder `embeddings`.
        label: What progress lines call the texts.
        chunk_tokens: Tokens of one forward pass; None lets the encoder choose. Changes no result.
        instructions: One for each text, in place of the one of `settings`.
    """
    target, sharded = _shard(encoder, texts, settings, cache_dir, label, chunk_tokens, instructions)
    # Asked before the lock: a cache that cannot be written serves what it holds.
    if found := _find(target, sharded):
        return found
    # Two commands on one cache: the second waits for the first and finds its array.
    with only_one(target, f"{label}: another process encodes them; waiting") as locked:
        if locked:
            remove_leftovers(target)
        return _find(target, sharded) or _encode(target, sharded, label)


def _find(target: Path, sharded: ShardedEncoding) -> Encoded | None:
    """Return the array that the cache holds as it was written; None where it holds none."""
    truncated = _truncated_if_sound(target, (len(sharded.texts), sharded.encoder.dimension))
    if truncated is None:
        return None
    sharded.discard_blocks()  # a kill between joining and removing leaves them
    return Encoded(np.load(target, mmap_mode="r"), True, truncated)


def _encode(target: Path, sharded: ShardedEncoding, label: str) -> Encoded:
    """Encode, join and stamp."""
    if target.exists():
        print(f"{label}: the cached embeddings {target} are damaged; encoding again")
    sharded.encode_share()
    # The stamp goes before the array changes and comes after: a kill in between leaves an array that nobody trusts.
    stamp = _stamp_of(target)
    remove_stamp(stamp)
    truncated, checksum = sharded.join(target)
    write_stamp(stamp, truncated_texts=truncated, sha256=checksum)
    sharded.discard_blocks()
    # Mapped, not read: search takes it block by block and lets each block go.
    return Encoded(np.load(target, mmap_mode="r"), False, truncated)


def encode_share(
    encoder: Encoder,
    texts: Sequence[str],
    settings: EncodingSettings,
    cache_dir: Path,
    label: str,
    chunk_tokens: int | None = None,
) -> None:
    """Encode what falls to this rank, for rank 0's `embed_cached`.

    Args:
        encoder: As in `embed_cached`, like all others.
        texts: The texts of all ranks.
        settings: The instruction, the token limit and the arithmetic.
        cache_dir: A folder that all ranks see.
        label: What progress lines call the texts.
        chunk_tokens: Tokens of one forward pass.
    """
    assert rank() > 0, "rank 0 joins the shares"
    target, sharded = _shard(encoder, texts, settings, cache_dir, label, chunk_tokens, None)
    # Asked on every rank: otherwise one would encode what rank 0 takes from the cache.
    if _truncated_if_sound(target, (len(texts), encoder.dimension)) is None:
        sharded.encode_share()


def _shard(
    encoder: Encoder,
    texts: Sequence[str],
    settings: EncodingSettings,
    cache_dir: Path,
    label: str,
    chunk_tokens: int | None,
    instructions: Sequence[str] | None,
) -> tuple[Path, ShardedEncoding]:
    """Return the place of an array in the cache, and the encoding that fills it."""
    target = cache_dir / "embeddings" / f"{encoding_key(encoder, texts, settings, instructions)}.npy"
    blocks = target.with_suffix(".blocks")
    return target, ShardedEncoding(encoder, texts, settings, blocks, label, chunk_tokens, instructions)


def _stamp_of(target: Path) -> Path:
    return target.with_suffix(".json")


def _truncated_if_sound(target: Path, shape: tuple[int, int]) -> int | None:
    """Return how many texts of a cached array were cut; None where the array is missing or not as it was written.

    Reading the array for its checksum takes about a second a gigabyte.
    """
    stamp = read_stamp(_stamp_of(target))
    try:
        # Header and stamp first, because the checksum reads the whole array.
        if stamp is None or np.load(target, mmap_mode="r").shape != shape:
            return None
        truncated = int(stamp["truncated_texts"])
        return truncated if unchanged(target.parent, {target.name: str(stamp["sha256"])}) else None
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def encoding_key(
    encoder: Encoder, texts: Sequence[str], settings: EncodingSettings, instructions: Sequence[str] | None = None
) -> str:
    """Return the name of an array by everything that its rows depend on.

    Args:
        encoder: Its weights and template count.
        texts: In their order.
        settings: All of them count, by their `repr`.
        instructions: One for each text; None where `settings` has the one of all.
    """

    def parts() -> Iterator[str | bytes]:
        # Texts and instructions carry their lengths; the number of texts says where the instructions begin.
        for part in (encoder.fingerprint, encoder.template.fingerprint, repr(settings), str(len(texts))):
            yield f"{part}\0"
        yield from map(sized, texts)
        yield from map(sized, instructions or ())

    return digest_of(parts())[:KEY_DIGITS]
