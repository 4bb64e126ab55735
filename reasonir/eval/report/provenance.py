"""What a results folder says of the command that made it: its options, its manifest, in words for a reader."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reasonir.core.errors import CREDENTIALS
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, read_mapping
from reasonir.core.help import flatten

# Retrievers whose name begins so use no encoder.
LEXICAL = "bm25"


def read_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """Return a folder's manifest.json, and when it was written; {} and "" where there is none."""
    file = folder / MANIFEST_FILE
    manifest = read_mapping(file)
    if not manifest:
        return {}, ""
    return manifest, f"{datetime.fromtimestamp(file.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC"


def read_options(folder: Path) -> dict[str, Any]:
    """Return a folder's config.yaml; {} where there is none."""
    return read_mapping(folder / CONFIG_FILE)


def facts_of(
    pairs: Sequence[tuple[str, Any]], folder: Path, manifest: Mapping[str, Any], finished: str
) -> dict[str, str]:
    """Return what was measured by name, as text; "" where nothing is known.

    Args:
        pairs: name and value of what the folder's options say.
        folder: the folder of results.
        manifest: its manifest.json, or {}.
        finished: when the manifest was written, or "".
    """
    ended = [
        ("Finished", finished),
        ("Took", _duration(manifest.get("wall_seconds"))),
        ("Command", _command_line(manifest.get("command"))),
        ("Folder", folder),
    ]
    return {name: "" if value is None else str(value) for name, value in (*pairs, *ended)}


def data_of(options: Mapping[str, Any]) -> str | None:
    """Return the folder, the file or the hub id that `data` names; None where it names nothing."""
    data = mapping(options.get("data"))
    return data.get("dir") or data.get("file") or (f"hub {data['hub']}" if data.get("hub") else None)


def model_of(options: Mapping[str, Any]) -> Any:
    """Return the path or id of the encoder; None where only words were compared."""
    lexical = str(options.get("retriever")).startswith(LEXICAL)
    return None if lexical else mapping(options.get("model")).get("path")


def side_by_side(columns: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """Return (name, values) for every name that any column has a value for."""
    # A name for which no column has a value would be an empty row.
    said = {name for column in columns for name, value in column.items() if value}
    names = dict.fromkeys(name for column in columns for name in column if name in said)
    return [(name, [column.get(name, "") for column in columns]) for name in names]


def option_texts(options: dict[str, Any]) -> dict[str, str]:
    """Return the options by dotted name, as text."""
    return {name: "null" if value is None else str(value) for name, value in flatten(options).items()}


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a value that should be a mapping; an empty one where it is not."""
    return value if isinstance(value, Mapping) else {}


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _duration(seconds: Any) -> str | None:
    """Return seconds as people read them; None for what is no number."""
    if not isinstance(seconds, (int, float)):
        return None
    # Up to 90 of a unit: 80 seconds read better than 1.3 minutes.
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.1f} s" if seconds < 90 else f"{minutes:.1f} min" if minutes < 90 else f"{hours:.1f} h"


def _command_line(parts: Any) -> str | None:
    """Return a manifest's command as typed; None where it has none."""
    if not isinstance(parts, list) or not parts:
        return None
    # The first part may hold a blank, between the command and its task: quotes would not be as typed.
    typed = " ".join([str(parts[0]), *(shlex.quote(str(part)) for part in parts[1:])])
    # A folder of an older version may hold a password, which no page shows.
    return CREDENTIALS.sub("...", typed)
