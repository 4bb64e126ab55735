"""Encodes a long list of texts in blocks that several processes share out; a killed job goes on after its last block.

Invariant: the edges of the blocks depend on the texts alone, never on the number of ranks, so that W processes give the
rows of one process, bit for bit. Each block is a file that is complete as soon as it has its name. Block b belongs to
rank (b + shift) mod W, and rank 0 joins all blocks. The ranks meet in the file system only: all must see one folder.
"""

import gc
import hashlib
import io
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reasonir.core.errors import UserError
from reasonir.core.files import whole_file
from reasonir.core.prefetch import prefetch
from reasonir.core.processes import local_rank, rank, world_size
from reasonir.core.progress import Progress
from reasonir.core.stamp import digest_of
from reasonir.model.encoder import Encoder

BLOCK_TEXTS = 2_048
BLOCK_CHARACTERS = 4_194_304
"""Most characters of a block: about a million tokens, a minute of a large model on one GPU. A kill costs no more.

Other edges would put other texts into one forward pass, which may change the last bit of an embedding.
"""
# Short beside a block of a minute, long enough to spare a shared disk.
SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True, slots=True)
class EncodingSettings:
    """What the rows of an array depend on besides the texts and the model.

    instruction: stands before every text. max_tokens: of a whole input. precision: fp32 or bf16. dtype: of the stored
    rows. The cache hashes the `repr` of this class: a new field makes every cached array a stranger.
    """

    instruction: str
    max_tokens: int
    precision: str
    dtype: str = "float32"


def own_device() -> str:
    """Return this rank's device, the GPU of its local rank or the CPU, and make it CUDA's current device."""
    if not torch.cuda.is_available():
        return "cpu"
    # More ranks than GPUs share them.
    index = local_rank() % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return f"cuda:{index}"


def give_back_gpu() -> None:
    """Free the GPU memory of encoders that nobody holds any more, for an engine that is about to start."""
    # First the objects: a tensor in a reference cycle still holds its memory, and the cache frees none of that.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def cut_blocks(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Return (start, stop) of every block of at most BLOCK_TEXTS texts and BLOCK_CHARACTERS characters.

    A text that alone has more characters is a block of its own.
    """
    blocks, start, filled = [], 0, 0
    for position, text in enumerate(texts):
        full = position - start >= BLOCK_TEXTS or filled + len(text) > BLOCK_CHARACTERS
        # position > start: no block is empty, even before a text that is longer than a block.
        if position > start and full:
            blocks.append((start, position))
            start, filled = position, 0
        filled += len(text)
    return [*blocks, (start, len(texts))] if texts else []


@dataclass(frozen=True, slots=True)
class ShardedEncoding:
    """Texts on their way to an array (N, D).

    folder: of the blocks; its name must stand for texts, model and settings. label: what progress lines call the
    texts. chunk_tokens: tokens of one forward pass; None lets the encoder choose. instructions: one for each text, in
    place of the one of `settings`.
    """

    encoder: Encoder
    texts: Sequence[str]
    settings: EncodingSettings
    folder: Path
    label: str
    chunk_tokens: int | None = None
    instructions: Sequence[str] | None = None

    def encode_share(self) -> None:
        """Encode the blocks of this rank that are not there yet."""
        # Every rank cuts all texts, so that all agree on the edges without a word.
        blocks = cut_blocks(self.texts)
        mine = [number for number in range(len(blocks)) if self._rank_of(number) == rank()]
        # A file that has its name is whole, whoever wrote it.
        missing = [number for number in mine if not self._file(number).exists()]
        whole, left = (sum(blocks[n][1] - blocks[n][0] for n in numbers) for numbers in (mine, missing))
        if rank() == 0 and left < whole:
            print(f"{self.label}: going on after {whole - left} of {whole} texts")
        # One rank speaks for all; the others are as far, give or take a block.
        progress = Progress(f"encode {self.label}", whole, "texts", done=whole - left) if rank() == 0 else None
        encoded = zip(missing, self._encode([blocks[number] for number in missing], progress), strict=True)
        for _ in prefetch(lambda item: self._write(item[0], *item[1]), encoded):
            pass  # one block is written in a thread while the next is encoded
        if progress is not None:
            progress.close()

    def join(self, target: Path) -> tuple[int, str]:
        """Write all blocks end to end into `target`, once every rank has encoded its share.

        A damaged block is encoded again here. Time: one pass over the rows; memory: one block.

        Returns:
            How many texts were cut, and the file's sha256.
        """
        blocks = cut_blocks(self.texts)
        # 1 all shares are there
        self._wait_for_others(len(blocks))
        target.parent.mkdir(parents=True, exist_ok=True)
        # 2 the array's header, written by hand: np.save would need all rows in memory
        header = io.BytesIO()
        shape = (len(self.texts), self.encoder.dimension)
        description = np.lib.format.dtype_to_descr(np.dtype(self.settings.dtype))
        layout = {"descr": description, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, layout)
        digest, cut = hashlib.sha256(header.getvalue()), 0
        # 3 the rows, hashed on their way: the checksum costs no second pass
        with whole_file(target, "wb", per_process=True) as stream:
            stream.write(header.getvalue())
            for number, block in enumerate(blocks):
                rows, truncated = self._read(number, block) or next(self._encode([block], None))
                stream.write(rows.data)
                digest.update(rows.data)
                cut += truncated
        return cut, digest.hexdigest()

    def discard_blocks(self) -> None:
        """Remove the blocks, for instance because they are joined."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _rank_of(self, number: int) -> int:
        """Return the rank of a block.

        The shift spreads many short lists over the ranks: without it rank 0 would encode the queries of every task.
        """
        shift = int(digest_of([self.folder.name])[:8], 16)
        return (number + shift) % world_size()

    def _file(self, number: int) -> Path:
        return self.folder / f"block-{number:06d}.npz"

    def _encode(self, blocks: Sequence[tuple[int, int]], progress: Progress | None) -> Iterator[tuple[np.ndarray, int]]:
        """Yield the rows of each block and how many of its texts were cut."""
        settings = self.settings
        pairs = (self._pairs(*block) for block in blocks)
        encoded = self.encoder.encode_blocks(
            pairs, settings.max_tokens, self.chunk_tokens, settings.precision,
            None if progress is None else progress.update,
        )  # fmt: skip
        for (start, _), (rows, truncated) in zip(blocks, encoded, strict=True):
            # Converted before the check: a float32 number too large for float16 becomes infinity.
            rows = rows.astype(settings.dtype, copy=False)
            broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if len(broken):
                raise UserError(
                    f"{self.label}: the model gives NaN or infinity for text {start + int(broken[0]) + 1} "
                    f"({len(broken)} texts of a block of {len(rows)}); is the model whole? precision=fp32 may help"
                )
            yield rows, truncated

    def _pairs(self, start: int, stop: int) -> list[tuple[str, str]]:
        """Return (instruction, text) of the texts of a block."""
        texts = self.texts[start:stop]
        if self.instructions is None:
            return [(self.settings.instruction, text) for text in texts]
        return list(zip(self.instructions[start:stop], texts, strict=True))

    def _write(self, number: int, rows: np.ndarray, truncated: int) -> None:
        # per_process: two jobs on one cache may encode the same block at once. One that is done removes the folder.
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self._file(number), "wb", per_process=True) as stream:
            np.savez(stream, rows=rows, truncated=truncated)

    def _read(self, number: int, block: tuple[int, int]) -> tuple[np.ndarray, int] | None:
        """Return a block's rows and how many of its texts were cut; None where the file is not as it was written."""
        try:
            with np.load(self._file(number)) as content:  # zip files carry checksums
                rows, truncated = content["rows"], int(content["truncated"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        fits = rows.shape == (block[1] - block[0], self.encoder.dimension) and rows.dtype == self.settings.dtype
        return (rows, truncated) if fits else None

    def _wait_for_others(self, count: int) -> None:
        """Wait until the other ranks have written their blocks; torchrun ends this rank when another one dies."""
        others = [number for number in range(count) if self._rank_of(number) != rank()]
        progress = Progress(f"{self.label}: wait for other ranks, in {self.folder}", len(others), "blocks")
        # Asks the file system and no rank: ranks share no collective here, and one that is done may be gone.
        while others:
            left = [number for number in others if not self._file(number).exists()]
            progress.update(len(others) - len(left))
            others = left
            if left:
                time.sleep(SECONDS_BETWEEN_LOOKS)
        progress.close()
