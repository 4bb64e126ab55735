"""Files of rewritten queries (rows `id`, `query`): how they are named, where they lie, what they hold.

A rewriting has a name: `mine`, `mine_256` (256 tokens were asked for), `mine_256_s2` (the second sample of that). The
rows are not checked here: whoever matches them with the original queries, by id, refuses what is missing.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl
from reasonir.data.rows import add_once, load_hub, text_id

ORIGINAL = "original"
SUFFIXES = (".jsonl", ".jsonl.gz")
# Query id to (line, text); 0 is no line.
Rewritten = Mapping[str, tuple[int, object]]


@dataclass(frozen=True, slots=True)
class Rewriting:
    """One rewriting of all queries. length_tokens: the length asked for, 0 for none. sample: from 1."""

    length_tokens: int
    sample: int
    name: str

    @classmethod
    def named(cls, base: str, length_tokens: int | None, sample: int) -> "Rewriting":
        """Return the rewriting of a length and a sample.

        Args:
            base: What all rewritings of a command are called.
            length_tokens: The length asked for; None for none.
            sample: From 1.
        """
        # The first sample has no number, so that a later command with more samples finds its file again.
        length = f"_{length_tokens}" if length_tokens else ""
        return cls(length_tokens or 0, sample, f"{base}{length}{f'_s{sample}' if sample > 1 else ''}")


def find_rewritings(folder: Path, base: str) -> list[Rewriting]:
    """Return the rewritings of a base name in a task's folder: shortest first, those without a length at last."""
    pattern = re.compile(rf"{re.escape(base)}(?:_([1-9]\d*))?(?:_s([1-9]\d*))?")
    stems = {path.name.removesuffix(suffix) for suffix in SUFFIXES for path in folder.glob(f"*{suffix}")}
    # The whole name must match: `mine` is not the beginning of `mine_too`.
    matches = filter(None, map(pattern.fullmatch, stems))
    found = [Rewriting(int(match[1] or 0), int(match[2] or 1), match[0]) for match in matches]
    return sorted(found, key=lambda r: (r.length_tokens == 0, r.length_tokens, r.sample))


def rewritten_file(queries: str, task: str, home: Path | None) -> Path:
    """Return the file of a task's rewritten queries.

    Args:
        queries: A name (`<home>/<name>.jsonl`), or a path DIR/NAME: `DIR/<task>/NAME.jsonl`, as `reasonir-eval rewrite`
            writes it, or `DIR/NAME/<task>.jsonl`, a folder with one file a task.
        task: The task's name.
        home: The task's own folder; None for a hub data set.

    Raises:
        UserError: no such file.
    """
    if "/" not in queries:
        stems = [home / queries] if home is not None else []
    else:
        stems = [Path(queries).parent / task / Path(queries).name, Path(queries) / task]
    for stem in stems:
        for suffix in SUFFIXES:
            # Not with_suffix, which would replace the end of a name that holds a dot.
            if (file := stem.with_name(stem.name + suffix)).is_file():
                return file
    places = " and no ".join(f"{stem}.jsonl" for stem in stems)
    raise UserError(f"queries={queries}: there is no {places} (or .jsonl.gz); make them with reasonir-eval rewrite")


def read_rewritten(queries: str, task: str, home: Path | str) -> Rewritten | None:
    """Return a task's rewritten queries; None for the original ones.

    Args:
        queries: "original", a name or a path, as `rewritten_file` takes it; of the hub, a name is the configuration
            `<name>_reason`.
        task: The task's name.
        home: The task's own folder, or the hub data set's name.
    """
    if queries == ORIGINAL:
        return None
    if isinstance(home, str) and "/" not in queries:
        # BRIGHT's configurations are named so (gpt4_reason); both forms are accepted.
        config = queries if queries.endswith("_reason") else f"{queries}_reason"
        return rewritten_rows(enumerate(load_hub(home, config, task), start=1), f"hub:{home}:{config}:{task}")
    return read_rewritten_file(rewritten_file(queries, task, home if isinstance(home, Path) else None))


def read_rewritten_file(file: Path) -> Rewritten:
    """Return the rewritten queries of a file; raises as `rewritten_rows`."""
    return rewritten_rows(read_jsonl(file), str(file))


def rewritten_rows(rows: Iterable[tuple[int, Mapping[str, Any]]], source: str) -> Rewritten:
    """Return rewritten queries by id.

    Args:
        rows: Lines and rows.
        source: The table's name, for messages.

    Raises:
        UserError: an id with two texts.
    """
    found: dict[str, tuple[int, object]] = {}
    texts: dict[str, object] = {}
    for line, row in rows:
        identifier = text_id(row.get("id"), f"{source}:{line}")
        if identifier is None:
            raise UserError(f"{source}:{line}: a rewritten query needs an `id`")
        add_once(texts, identifier, row.get("query"), f"{source}:{line}", "query")
        found.setdefault(identifier, (line, row.get("query")))
    return found
