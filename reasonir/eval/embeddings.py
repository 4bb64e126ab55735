"""Encodes long lists of texts into a memory-mapped array on disk: resumable, bounded in memory, reused when equal.

Invariant: an array under its final name is complete, and its name depends on everything that determines its rows:
the texts, the instruction, the model's weights and template, the token limit, the arithmetic.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reasonir.model.encoder import Encoder
from reasonir.model.precision import choose_precision
from reasonir.runs import Progress

TEXTS_PER_BLOCK = 8_192
NORM_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class EncodingSettings:
    """What the rows of an array depend on besides the texts and the model."""

    instruction: str
    max_tokens: int
    precision: str
    dtype: str = "float32"


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

    A cached array whose shape or norms are wrong is rebuilt, and said so.
    """
    target = cache_dir / "embeddings" / f"{encoding_key(encoder, texts, settings)}.npy"
    notes = target.with_suffix(".json")
    if target.exists() and notes.exists():
        if _is_sound(target, (len(texts), encoder.dimension)):
            truncated = json.loads(notes.read_text(encoding="utf-8"))["truncated_texts"]
            return Encoded(np.load(target, mmap_mode="r"), True, truncated)
        print(f"{label}: the cached embeddings {target} are damaged; encoding again")
    truncated = encode_to_file(encoder, texts, settings, target, label, chunk_tokens)
    notes.write_text(json.dumps({"truncated_texts": truncated}), encoding="utf-8")
    return Encoded(np.load(target, mmap_mode="r"), False, truncated)


def encode_to_file(
    encoder: Encoder,
    texts: Sequence[str],
    settings: EncodingSettings,
    target: Path,
    label: str,
    chunk_tokens: int | None = None,
) -> int:
    """Encode block by block into `target`; a killed call continues after its last complete block.

    Returns:
        How many texts were cut.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, position = target.with_suffix(".partial"), target.with_suffix(".position.json")
    shape = (len(texts), encoder.dimension)
    state = _resume_point(partial, position, shape, settings.dtype)
    mode = "r+" if state["texts"] else "w+"
    array = np.lib.format.open_memmap(partial, mode=mode, dtype=settings.dtype, shape=shape)
    progress = Progress(f"encode {label}", len(texts), "texts", done=state["texts"])
    for start in range(state["texts"], len(texts), TEXTS_PER_BLOCK):
        block = texts[start : start + TEXTS_PER_BLOCK]
        array[start : start + len(block)] = encoder.encode(
            block, settings.instruction, settings.max_tokens, chunk_tokens, settings.precision, progress.update
        )
        array.flush()
        state = {"texts": start + len(block), "truncated": state["truncated"] + encoder.truncated_texts}
        scratch = position.with_suffix(".scratch")
        scratch.write_text(json.dumps(state), encoding="utf-8")
        os.replace(scratch, position)
    progress.close()
    del array
    os.replace(partial, target)
    position.unlink(missing_ok=True)
    return int(state["truncated"])


def encoding_precision(requested: str, encoder: Encoder) -> str:
    """Return "fp32" or "bf16"; on a CPU `auto` is fp32, so that a score does not hang on a speed probe."""
    if requested == "auto" and encoder.device.type == "cpu":
        return "fp32"
    return choose_precision(requested, encoder.device)[0]


def _resume_point(partial: Path, position: Path, shape: tuple[int, int], dtype: str) -> dict[str, int]:
    try:
        state = json.loads(position.read_text(encoding="utf-8"))
        array = np.load(partial, mmap_mode="r")
    except (OSError, ValueError):
        return {"texts": 0, "truncated": 0}
    fits = array.shape == shape and array.dtype == np.dtype(dtype)
    return state if fits else {"texts": 0, "truncated": 0}


def _is_sound(path: Path, shape: tuple[int, int]) -> bool:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return False
    if array.shape != shape:
        return False
    for start in range(0, len(array), TEXTS_PER_BLOCK):
        norms = np.linalg.norm(np.asarray(array[start : start + TEXTS_PER_BLOCK], dtype=np.float32), axis=1)
        if not np.allclose(norms, 1.0, atol=NORM_TOLERANCE):
            return False
    return True


def encoding_key(encoder: Encoder, texts: Sequence[str], settings: EncodingSettings) -> str:
    """Return the name of an array by everything its rows depend on."""
    digest = hashlib.sha256()
    for part in (encoder.fingerprint, encoder.template.fingerprint, repr(settings), str(len(texts))):
        digest.update(part.encode() + b"\0")
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()[:40]
