"""Is this artefact finished, and was it made from the same input?

An artefact is a file or a folder that took long to make: a run, embeddings, an index, a token store. It is finished
where its *stamp* is there: a JSON object beside it or inside it that is written last of all. A stamp says what the
artefact was made from (a key, or checksums of the inputs) and often the size or checksum of each of its files:

    work:       stamp = read_stamp(file, key=key); if stamp is None or not unchanged(folder, stamp["files"]): make it
    make it:    remove_stamp(file), write the files, then write_stamp(file, key=key, files=checksums(folder, names))

A file whose very name is its key needs no stamp: `files.whole_file` lets it appear only when it is complete. A
stamp carries a checksum of its own content: a damaged one vouches for nothing. Leaves the comparison of options to
`run_folder.py`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import file_sha256, write_json

SEAL, CHECK = "checksum", "check"
# Of a row: 48 bits miss one damaged row of 10^14.
CHECK_DIGITS = 12


def digest_of(parts: Iterable[str | bytes]) -> str:
    """Return the SHA-256 of all parts end to end, as 64 hex digits; texts are hashed as UTF-8.

    The parts are taken one at a time, so that a corpus may stream through. Where two lists of parts could run into
    each other ("ab", "c" and "a", "bc"), put lengths between the parts: `sized` does.
    """
    digest = hashlib.sha256()
    for part in parts:
        # surrogatepass: a file name or a text of a library may hold half a surrogate pair, which plain UTF-8 refuses.
        digest.update(part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def sized(text: str) -> bytes:
    """Return a text as UTF-8 behind its length in bytes (8 bytes, little endian)."""
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded


def key_of(*parts: object) -> str:
    """Return a hash of plain values (numbers, texts, tuples of them, dataclasses): the SHA-256 of their `repr`."""
    return digest_of([repr(parts)])


# `file` is positional only, so that a stamp may hold an entry of that name.
def read_stamp(file: Path, /, **same: Any) -> dict[str, Any] | None:
    """Return a stamp; None where the artefact must be made, because it is unfinished or was made from another input.

    Args:
        file: The stamp's JSON file. One that is missing or cannot be parsed counts as unfinished.
        same: Entries that the stamp must hold with these values, such as `key="..."`.
    """
    try:
        stamp = json.loads(file.read_text(encoding="utf-8"))
    # A stamp that cannot be read vouches for nothing; making the artefact again is always right.
    except (OSError, ValueError):
        return None
    # Stamps of older versions carry no checksum.
    if not isinstance(stamp, dict) or stamp.pop(SEAL, None) not in (None, _seal(stamp)):
        return None
    return None if any(stamp.get(name) != value for name, value in same.items()) else stamp


def write_stamp(file: Path, /, **content: Any) -> None:
    """Say that an artefact is finished, once all its files are there."""
    write_json(file, content | {SEAL: _seal(content)})


def _seal(content: dict[str, Any]) -> str:
    # As it will be read: JSON turns tuples into lists and keys into texts.
    plain = json.loads(json.dumps(content))
    return digest_of([json.dumps(plain, sort_keys=True)])


def checked(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a growing file with a checksum of its own, for `is_sound`."""
    return row | {CHECK: _seal(row)[:CHECK_DIGITS]}


def is_sound(row: dict[str, Any]) -> bool:
    """Take the checksum off a row and return whether it is right; rows of older versions have none."""
    return row.pop(CHECK, None) in (None, _seal(row)[:CHECK_DIGITS])


def remove_stamp(file: Path) -> None:
    """Say that an artefact is unfinished, before its files are written anew."""
    file.unlink(missing_ok=True)


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of some files of a folder by name, for a stamp."""
    return {name: file_sha256(folder / name) for name in names}


def checksums_inside(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file inside a folder by its path there, for a stamp."""
    return checksums(folder, [str(file.relative_to(folder)) for file in input_files([folder])])


def unchanged(folder: Path, files: Mapping[str, str | int]) -> bool:
    """Return whether files are as a stamp says.

    Args:
        folder: Where the files lie.
        files: For each file name its SHA-256 (a text; reading takes about a second a gigabyte), or its size in bytes
            (a number; finds a copy or a disk that was cut off, nothing else).
    """
    try:
        return all(
            (folder / name).stat().st_size == told if isinstance(told, int) else file_sha256(folder / name) == told
            for name, told in files.items()
        )
    except (OSError, AttributeError, TypeError):  # a file is gone, or the stamp holds something else under this name
        return False


def input_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return the files that inputs stand for: a file itself, all files inside a folder in the order of their names."""
    files: list[Path] = []
    for path in map(Path, paths):
        # Sorted: the order in which a file system lists names differs between machines.
        inside = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        files += [file for file in inside if file.exists()]
    return files


def check_same_inputs(record: Path, inputs: Iterable[str | Path], begun: bool, refusal: str) -> None:
    """Note the checksums of the inputs of a long work; refuse to go on with other ones.

    Args:
        record: JSON file inside the output folder: a list of path and sha256.
        inputs: Files and folders that the work reads.
        begun: Whether something was made from the inputs already; otherwise the note is written anew.
        refusal: What the user reads where an input changed.
    """
    noted = [{"path": str(file), "sha256": file_sha256(file)} for file in input_files(inputs)]
    # Without anything made of the old inputs the user may change them freely.
    if not begun or not record.exists():
        write_json(record, noted)
        return
    try:
        same = json.loads(record.read_text(encoding="utf-8")) == noted
    except ValueError:  # a damaged note vouches for no input
        same = False
    if not same:
        raise UserError(refusal)
