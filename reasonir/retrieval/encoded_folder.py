"""What `reasonir-eval encode` writes, opened: embeddings.npy with row i for line i of ids.txt, and its manifest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, parse_yaml
from reasonir.core.stamp import read_stamp, unchanged

IDS_FILE, EMBEDDINGS_FILE = "ids.txt", "embeddings.npy"


@dataclass(frozen=True, slots=True)
class EncodedFolder:
    """A finished folder of `reasonir-eval encode`.

    embeddings_ND: memory-mapped. sha256: of embeddings.npy. model: fingerprint of its encoder. source: the corpus that
    was encoded. inputs: the corpus's files as they were then, as the manifest describes them.
    """

    folder: Path
    embeddings_ND: np.ndarray
    sha256: str
    model: str | None
    source: str
    inputs: list[dict[str, Any]]

    @property
    def shape(self) -> list[int]:
        """N and D."""
        return list(self.embeddings_ND.shape)

    def require_whole(self) -> "EncodedFolder":
        """Return the folder if its embeddings are what was encoded; reading takes about a second a gigabyte.

        Raises:
            UserError: a byte was changed since.
        """
        if not unchanged(self.folder, {EMBEDDINGS_FILE: self.sha256}):
            raise UserError(f"{self.folder / EMBEDDINGS_FILE} is damaged: it is not what was encoded; encode again")
        return self


def open_encoded(folder: Path, side: str) -> EncodedFolder:
    """Open what `reasonir-eval encode` wrote.

    Args:
        folder: Its output_dir.
        side: document or query, which the folder must hold.

    Raises:
        UserError: not there, unfinished, damaged in its header, or of the other side.
    """
    file, manifest = folder / EMBEDDINGS_FILE, folder / MANIFEST_FILE
    if not file.is_file():
        raise UserError(f"{folder}: no {EMBEDDINGS_FILE} here; reasonir-eval encode side={side} writes it")
    # The manifest is written last: an array without it may lack its end.
    if not manifest.is_file():
        raise UserError(f"{folder}: no {MANIFEST_FILE}: the encoding is unfinished; run its command again")
    try:
        found = read_stamp(manifest)
        if found is None:
            raise ValueError(f"{MANIFEST_FILE} is not as it was written")
        options = parse_yaml((folder / CONFIG_FILE).read_bytes())
        rows, checksum = np.load(file, mmap_mode="r"), str(found["sha256"])
        texts, held = int(found["counts"]["texts"]), options["side"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not a folder of reasonir-eval encode, or damaged: {error}; encode again") from error
    if held != side:
        raise UserError(f"{folder} holds embeddings of side={held}; name a folder of side={side}")
    # Line i of ids.txt names row i: a row more or less would name all that follow wrongly.
    if rows.ndim != 2 or len(rows) != texts:
        raise UserError(f"{file}: shape {rows.shape} for {texts} texts; encode again")
    # Folders of older versions carry no checksum of the ids.
    if not unchanged(folder, found.get("outputs", {})):
        raise UserError(f"{folder / IDS_FILE} is not what was encoded: it would name rows wrongly; encode again")
    source, inputs = str(options.get("input", "")), found.get("inputs", [])
    return EncodedFolder(folder, rows, checksum, found.get("model_fingerprint"), source, inputs)
