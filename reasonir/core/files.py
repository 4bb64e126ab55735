"""Files and folders that are complete or not there; JSON and JSON lines, read with file and line.

Every file that a later command reads is written to a name beside its own and renamed at the end, because a killed
process, a full disk or an error in the middle must not leave half a file under the final name. One process at a time
writes into an output folder (`lock_folder`), and a name that was read is never a path (`under`).
"""

import errno
import gzip
import hashlib
import json
import os
import platform
import secrets
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

from reasonir.core.errors import DISK_ERRORS, RunStopped, UserError

# What stops a write; libraries of other languages quote the system's words for it.
WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
LOCK_FILE = ".lock"
CONFIG_FILE, MANIFEST_FILE, METRICS_FILE = "config.yaml", "manifest.json", "metrics.jsonl"
# Windows tools write it before a text. Python's own codec for it knows the head of a file only.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@contextmanager
def whole_file(
    path: str | Path, mode: str = "w", *, durable: bool = False, per_process: bool = False
) -> Iterator[IO[Any]]:
    """Open a file that appears under its name complete, when the block ends without an error, or not at all.

    Text is UTF-8 with Unix line ends on every machine.

    Args:
        path: The final name; its folder must exist. An older file stays readable until the block has ended.
        mode: `w` for text, `wb` for bytes.
        durable: Wait until the disk holds the bytes, so that a power cut leaves no empty file.
        per_process: As in `whole_path`.
    """
    # newline: without it Python writes \r\n on Windows, and equal rows would have other bytes there.
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    whole = whole_path(path, durable=durable, per_process=per_process)
    with whole as scratch, scratch.open(mode, **text) as stream:
        yield stream


@contextmanager
def whole_path(path: str | Path, *, durable: bool = False, per_process: bool = False) -> Iterator[Path]:
    """Give the name of a file beside `path` for a library to write to, and rename that file when the block has ended.

    A block that fails leaves no file. A killed process leaves `.NAME.partial`, which the next attempt overwrites.

    Args:
        path: The final name; its folder must exist.
        durable: Wait until the disk holds the bytes.
        per_process: Several processes may write the same file at once (a shared cache): each writes
            `.NAME.<host>.<chance>.partial`, and the last to end wins.
    """
    path = Path(path)
    scratch = _beside(path, per_process)
    try:
        with naming(path):
            yield scratch
            _apply_umask(scratch, [scratch])
            if durable:
                flush_to_disk(scratch)
            # Atomic within one file system, hence the name beside the final one and not in a temporary folder.
            os.replace(scratch, path)
    finally:
        # After a rename there is nothing left to remove. The disk's own error must not hide the first one.
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path, *, stays: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Give an empty folder beside `path` to fill, and put it in place of `path` when the block has ended.

    A block that fails leaves the older folder as it was.

    Args:
        path: The final name; missing parents are made.
        stays: Several processes may fill the folder at once (a shared cache): each fills one of its own, and a folder
            under the final name for which this is true is never replaced, because others may read it.
    """
    import shutil  # here, because it loads bz2 and lzma, and options' classes reach this module before any --help

    path = Path(path)
    scratch = _beside(path, stays is not None)
    # What a killed attempt left under the name.
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        with naming(path):
            yield scratch
            _apply_umask(scratch, (file for file in scratch.rglob("*") if file.is_file()))
        try:
            os.rename(scratch, path)  # refused where an older folder holds files
        except OSError:
            if stays is None or not stays(path):
                _replace_folder(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Name the file in an error of the disk: a write that fails knows no name, and libraries raise errors of theirs."""
    try:
        yield
    except (UserError, RunStopped):
        raise  # a sentence about something else, which may quote the system
    except Exception as error:
        number = _disk_error(error)
        if number is None or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _disk_error(error: Exception) -> int | None:
    """Return the number of the system's error behind an exception; None where the disk is not to blame."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in DISK_ERRORS else None
    message = str(error)
    # numpy says how much of an array it wrote, and not why it wrote no more.
    if isinstance(error, OSError) and "requested and" in message:
        return errno.ENOSPC
    # safetensors and faiss quote the system's words.
    return next((number for number in WRITE_ERRORS if os.strerror(number) in message), None)


def _apply_umask(scratch: Path, files: Iterable[Path]) -> None:
    """Give files the mode of any new file here: some libraries (safetensors) write 0600, whatever the umask."""
    # A file of our own shows the mode. Reading the umask would change it, for all threads, and knows no default ACLs.
    sample = scratch.with_name(f"{scratch.name}.mode")
    sample.touch()
    mode = stat.S_IMODE(sample.stat().st_mode)
    sample.unlink()
    for file in files:
        if stat.S_IMODE(file.stat().st_mode) != mode:
            file.chmod(mode)


def _replace_folder(scratch: Path, target: Path) -> None:
    """Put a finished folder in place of `target`; a crash in between leaves one of the two whole."""
    import shutil

    if target.exists():
        # A folder cannot be renamed over one that holds files: the old one steps aside first.
        retired = target.with_name(f".{target.name}.old")
        shutil.rmtree(retired, ignore_errors=True)
        os.replace(target, retired)
        os.replace(scratch, target)
        shutil.rmtree(retired)
    else:
        os.replace(scratch, target)


@contextmanager
def only_one(path: Path, waiting: str) -> Iterator[bool]:
    """Let one process at a time through of all that make `path`; yield whether the file system really locked.

    Some network file systems know no locks, and some lock on one machine only: what follows must be right without.

    Args:
        path: What is made; the lock is a file `.NAME.lock` beside it, which stays.
        waiting: Printed by a process that has to wait; "" prints nothing.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("ab") as lock:
        locked = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                print(waiting, file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            locked = False
        yield locked  # closing the file unlocks it


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes of this host left beside `path`; its lock must be held (`only_one`)."""
    _remove(path.parent.glob(f".{path.name}.{platform.node()}.*.partial"))


def remove_all_leftovers(folder: Path) -> None:
    """Remove what killed processes of this host left in a folder whose artefacts are made under `only_one`."""
    import fcntl

    for lock in folder.glob(".*.lock"):
        left = list(folder.glob(f"{lock.name.removesuffix('.lock')}.{platform.node()}.*.partial"))
        if not left:
            continue
        with suppress(OSError), lock.open("ab") as stream:  # held: a living process fills one of them
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(left)


def _remove(paths: Iterable[Path]) -> None:
    import shutil

    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def lock_or_refuse(opened: Any, refusal: str | None) -> None:
    """Lock an open file until it is closed; the lock ends with the process even where that is killed.

    Raises:
        UserError: another process holds the lock; the text is `refusal`. Without a refusal the call waits.
    """
    import fcntl

    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if refusal is None else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise UserError(refusal) from error
    except OSError as error:
        # A file system without locks must not forbid the work.
        if error.errno == errno.EBADF:
            raise


class FolderLock:
    """The right to write into a folder; it ends with `release`, with the object or with the process."""

    def __init__(self, path: Path, refusal: str | None) -> None:
        """Take the right; `lock_folder` is the way to it."""
        # The folder itself is locked, so that no file of the lock's own lies in it.
        self._descriptor: int | None = os.open(path, os.O_RDONLY)
        try:
            lock_or_refuse(self._descriptor, refusal)
        except OSError:
            # NFS locks only what is open for writing, which a folder cannot be.
            self.release()
            self._descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
            lock_or_refuse(self._descriptor, refusal)

    def release(self) -> None:
        """Let others write into the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def released(self) -> bool:
        """Whether others may write."""
        return self._descriptor is None

    __del__ = release


_held: WeakValueDictionary[tuple[int, int, int], FolderLock] = WeakValueDictionary()


def lock_folder(path: Path, *, wait: bool = False) -> FolderLock:
    """Let this process alone write into an existing folder, for as long as it keeps what is returned.

    Args:
        path: The folder.
        wait: Whether a process that writes there, for moments, is waited for.
    Raises:
        UserError: another process writes there.
    """
    found = path.stat()
    # The process too: a forked one inherits the table, and not the right.
    place = (os.getpid(), found.st_dev, found.st_ino)
    # One lock a process: a run that failed in a notebook may still be held by its traceback when it is called again.
    held = _held.get(place)
    if held is None or held.released:
        refusal = None if wait else f"{path}: another run writes here; wait for it, or name another folder"
        held = _held[place] = FolderLock(path, refusal)
    return held


def under(folder: Path, name: str, option: str) -> Path:
    """Return the path of a name inside a folder. A name is no path: it never leads out of the folder.

    Args:
        folder: Where the file or folder of that name lies.
        name: As an option, a data set or a file of results gives it.
        option: Where the name was read, for the refusal.
    """
    if name in ("", ".", "..") or not {"/", "\\", "\0"}.isdisjoint(name):
        raise UserError(f"{option}: {name!r} must be a name, not a path; take the slashes out")
    return folder / name


def _beside(path: Path, per_process: bool) -> Path:
    # Not the process id: containers that share a folder have equal ones.
    process = f".{platform.node()}.{secrets.token_hex(4)}" if per_process else ""
    return path.with_name(f".{path.name}{process}.partial")


def flush_to_disk(path: Path) -> None:
    """Wait until the disk holds a file's bytes, or a folder's names."""
    # Reading is enough for fsync, and a folder cannot be opened for writing.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: str | Path) -> str:
    """Read a text file; a byte order mark is no part of the text.

    Raises:
        UserError: a byte that is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start + 1} is not UTF-8; the file is damaged, or is no text") from error


def write_text(path: str | Path, text: str) -> None:
    """Write a text file that appears complete or not at all."""
    with whole_file(path) as stream:
        stream.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that appears complete or not at all, and wait until the disk holds it."""
    # Durable: stamps and manifests are JSON, and a power cut must not leave an empty one under the final name.
    with whole_file(path, durable=True) as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def file_sha256(path: str | Path) -> str:
    """Return the hex digest of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def parse_yaml(raw: bytes) -> Any:
    """Read YAML, or JSON, of others: plain values, without the references by which ten lines stand for millions.

    Raises:
        ValueError: broken, not UTF-8, nested by the thousand, or with references.
    """
    import yaml

    class Plain(yaml.SafeLoader):  # type: ignore[misc]  # types of yaml are not installed
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("references (*name) are not read")
            return super().compose_node(parent, index)

    try:
        return yaml.load(raw.decode("utf-8"), Plain)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def read_mapping(file: Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds a mapping, such as config.yaml or manifest.json; {} where there is none.

    Raises:
        UserError: broken, or something other than a mapping.
    """
    if not file.is_file():
        return {}
    try:
        content = parse_yaml(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file}: broken: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no mapping")
    return content


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a .jsonl or .jsonl.gz file; blank lines are passed over.

    Raises:
        UserError: missing or empty file, broken JSON, a key twice in one object, a byte that is not UTF-8, a line that
            is not an object.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    opener = gzip.open if path.suffix == ".gz" else open
    found = False
    with opener(path, "rb") as stream:
        # Stepped by hand: a damaged gzip archive raises in the middle of reading, and nothing else is to be caught.
        lines = enumerate(stream, start=1)
        while True:
            try:
                number, raw = next(lines)
            except StopIteration:
                break
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(f"{path}: damaged file: {error}") from error
            if raw.strip():
                found = True
                yield number, _parse_line(path, number, raw)
    if not found:
        raise UserError(f"{path}: the file is empty")


def parse_json(raw: bytes) -> Any:
    """Return the value that UTF-8 JSON spells, with or without a byte order mark.

    Raises:
        UnicodeDecodeError, ValueError, RecursionError: it is not JSON, or an object has a key twice.
    """
    return DECODER.decode(raw.removeprefix(BYTE_ORDER_MARK).decode("utf-8"))


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # Python would take the last value, other readers take the first.
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object_of)


def _parse_line(path: Path, number: int, raw: bytes) -> dict[str, Any]:
    try:
        row = parse_json(raw)
        # JSON may spell half of a surrogate pair, which no UTF-8 file can hold. Few lines have an escape to check.
        if b"\\ud" in raw.lower():
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: byte 0x{raw[error.start]:02x} is not UTF-8; save it as UTF-8") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{path}:{number}: half a surrogate pair (\\ud800 to \\udfff) is no text; remove it") from error
    except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
        raise UserError(f"{path}:{number}: broken JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{path}:{number}: a line must hold one JSON object, not {type(row).__name__}")
    return row


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows, one JSON object a line, gzipped for .gz, complete or not at all; return how many there were."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with whole_file(path, "wb", durable=True) as raw:
        # No time stamp and no name in the archive's head: the same rows give the same bytes.
        zipped = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else None
        stream = zipped or raw
        for row in rows:
            stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))
            count += 1
        if zipped is not None:
            zipped.close()  # writes the end of the archive; the file below stays open
    return count
