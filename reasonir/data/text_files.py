"""A folder of plain text files as a corpus: a document a file, named by its path within the folder.

Invariant: the same files give the same rows in the same order, on any machine. Leaves every other layout to
`collections.py`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError

# In any letter case.
SUFFIXES = (".txt", ".md")


def is_text_file(name: str) -> bool:
    """Say whether a file of this name is a document of its own."""
    return name.lower().endswith(SUFFIXES)


def find_text_files(path: Path) -> tuple[Path, list[Path]]:
    """Return a folder and the text files inside it and its sub-folders, ordered by path.

    A path that is one file gives its folder and itself. Names that begin with a dot are left out.

    Raises:
        UserError: a link leads out of the folder: what lies there was not meant to be shown to a language model.
    """
    if path.is_file():
        return path.parent, [path]
    found = []
    for place, names, files in os.walk(path):
        # In place: os.walk goes down into what is left in its own list.
        names[:] = [name for name in names if not name.startswith(".")]
        found += [Path(place, file) for file in files if not file.startswith(".") and is_text_file(file)]
    inside = path.resolve()
    for file in found:
        if file.is_symlink() and not file.resolve().is_relative_to(inside):
            raise UserError(f"{file} is a link out of the folder; remove it, or put a copy of the file in its place")
    # By the path with slashes, so that the order is the same on any machine.
    return path, sorted(found, key=lambda file: file.relative_to(path).as_posix())


def read_text_files(folder: Path, files: list[Path]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 1, row of id and content), a file at a time; a byte order mark is no part of the text.

    Raises:
        UserError: a file that cannot be opened, or is not UTF-8, by its name and line.
    """
    for number, file in enumerate(files, start=1):
        yield number, {"id": file.relative_to(folder).as_posix(), "content": _read_text(file)}


def _read_text(file: Path) -> str:
    try:
        # Bytes, so that the line of a byte that is no UTF-8 can be counted.
        raw = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{file}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8; save it as UTF-8") from error
