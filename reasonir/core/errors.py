"""Errors that a command reports in one line instead of a traceback."""

import errno
import re
from typing import Any

DISK_ERRORS = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free space within your quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "name a folder on a disk that can be written",
    errno.EACCES: "get the rights to it, or name another place",
    errno.EPERM: "get the rights to it, or name another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "remove the symbolic links that lead in a circle",
    errno.ENOENT: "it is gone; was it removed or moved while the command ran?",
    errno.ENOTDIR: "a file stands where a folder is needed; name another place",
    errno.EISDIR: "a folder stands where a file is needed; name another place",
    errno.EEXIST: "something else stands there; remove it",
    errno.ENOTEMPTY: "another process writes there; wait for it",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine has no more open files to give",
    errno.EIO: "the disk or its connection fails; look into the system's log",
    errno.ESTALE: "the network's file system lost it; mount it again",
}
"""What the system says of files and disks, and what a user can do about it."""


class UserError(ValueError):
    """A user's mistake; commands print it as one line and exit 2."""


class NoConfiguration(UserError):
    """A hub data set lacks the configuration asked for."""


class RunStopped(RuntimeError):
    """A run that must end although the user typed nothing wrong; commands print it as one line and exit 1."""


# The user, or user and password, of an address. A password may hold an @, so all of it up to the last one is meant.
CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*(?=@)")


def printable(text: str) -> str:
    """Return a message as a terminal and a log may show it: without passwords in addresses and control characters.

    Names and answers of others stand in messages; an escape sequence in one of them could rewrite the screen.
    """
    text = CREDENTIALS.sub("...", text)
    return "".join(character if character.isprintable() else "?" for character in text)


def require(holds: bool, field: str, value: Any, rule: str) -> None:
    """Raise the one-line refusal of an option's value, for `validate()`.

    Args:
        holds: Whether the rule holds; then nothing happens.
        field: The option's name on the command line, with dots.
        value: What the option holds.
        rule: What must hold, such as `must be positive`.
    """
    if not holds:
        raise UserError(f"{field}={value} {rule}")


def describe_os_error(error: OSError) -> str:
    """Return an error of the system in one line: the path, what is wrong, the remedy."""
    if error.errno is None or error.strerror is None:
        return " ".join(str(error).split())  # a library's own sentence
    places = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    remedy = DISK_ERRORS.get(error.errno)
    parts = [f"{places}: {error.strerror}" if places else error.strerror, remedy, "then run the same command again"]
    return "; ".join(part for part in parts if part)
