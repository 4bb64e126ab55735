"""The `--help` page of a command, made from its option classes, their docstrings and its YAML files."""

import ast
import dataclasses
import functools
import inspect
import itertools
import os
import re
import sys
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args, get_origin


def find_configs() -> Path:
    """Return the folder of YAML files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"reasonir is installed without its configs/ (looked beside {package})")


def flatten(tree: Any, prefix: str = "", keep: Collection[str] = ()) -> dict[str, Any]:
    """Flatten nested mappings into {dotted name: value}.

    Args:
        tree: Nested mappings, as YAML gives them.
        prefix: The dotted name of `tree` itself; "" at the top.
        keep: Names of mappings that stay whole, because their keys are the user's.
    """
    # An empty mapping is a value of its own; as no leaves the option would seem to be missing.
    if not isinstance(tree, dict) or prefix in keep or (prefix and not tree):
        return {prefix: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key), keep)
    return leaves


def option_rows(schema: type, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (dotted name, type, docstring) of every leaf option of a config dataclass."""
    documents = _field_docstrings(schema)
    rows: list[tuple[str, str, str]] = []
    for field in dataclasses.fields(schema):
        name = f"{prefix}{field.name}"
        # No module of options postpones its annotations, so that field.type is a class and not a text.
        if dataclasses.is_dataclass(field.type):
            rows += option_rows(field.type, f"{name}.")  # type: ignore[arg-type]
        else:
            rows.append((name, _type_name(field.type), documents.get(field.name, "")))
    return rows


def element_schemas(schema: type, prefix: str = "") -> dict[str, type]:
    """Return the options that map names to dataclasses, as {dotted name: dataclass}."""
    found: dict[str, type] = {}
    for field in dataclasses.fields(schema):
        name, kind = f"{prefix}{field.name}", field.type
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            found |= element_schemas(kind, f"{name}.")
        elif get_origin(kind) is dict and dataclasses.is_dataclass(get_args(kind)[1]):
            found[name] = get_args(kind)[1]
    return found


def _type_name(kind: Any) -> str:
    members = getattr(kind, "__members__", None)
    if members is not None:
        return "|".join(members)
    if hasattr(kind, "__args__"):
        return re.sub(r"\b[\w.]+\.(?=\w)", "", str(kind))
    return getattr(kind, "__name__", str(kind))


# Every command line asks several times, and parsing takes tens of milliseconds.
@functools.cache
def _field_docstrings(schema: type) -> dict[str, str]:
    """Map field name to the string literal that follows it in the class body.

    Python drops such a string when it compiles the class, so the source is parsed again.
    """
    documents = {}
    for kind in reversed(schema.__mro__[:-1]):  # base classes first: a subclass may describe a field anew
        # cleandoc takes its margin from the second line on, and that is `class`: the first holds the decorator.
        tree = ast.parse(inspect.cleandoc(inspect.getsource(kind)))
        body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                documents[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(text.value)).split())
    return documents


def help_page(program: str, config_name: str, schema: type) -> str:
    """Return the help text: what the command does, its options with their values, its config groups.

    Args:
        program: The command as typed.
        config_name: Its YAML file below configs/, without the ending; the values shown are written there.
        schema: Its options class; the text for each option is the docstring below the field.
    """
    root = find_configs()
    # 1 the values written in YAML, and the options by class
    values, groups = _written_values(root, root / f"{config_name}.yaml")
    lines = [f"usage: {program} [option=value ...]", "", inspect.getdoc(schema) or "", "", "options:"]
    rows = option_rows(schema)
    for holder, element in element_schemas(schema).items():
        after = next(i for i, row in enumerate(rows) if row[0] == holder) + 1
        rows[after:after] = option_rows(element, f"{holder}.NAME.")
    # 2 one entry an option
    for name, kind, document in rows:
        default = "" if name not in values else f" [{'null' if values[name] is None else values[name]}]"
        lines.append(f"  {name}  ({kind}){default}")
        lines += textwrap.wrap(document, 100, initial_indent="      ", subsequent_indent="      ")
    # 3 the groups
    if groups:
        lines.append("\ngroups of options:")
        # An experiment overrides other groups and is in no defaults list, so that Hydra wants it added with a plus.
        signs = {group: f"{group}=" for group in groups} | {"experiment": "+experiment="}
        for group, sign in signs.items():
            lines.append(f"  {sign}  one of: {', '.join(sorted(path.stem for path in (root / group).glob('*.yaml')))}")
    lines.append("\n--cfg job prints the composed configuration; -m runs a sweep (Hydra).")
    return "\n".join(lines)


def show_page(text: str) -> None:
    """Print a page, or as much of it as anybody reads (`--help | head`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        nobody_reads()


def nobody_reads() -> bool:
    """Return whether standard output is a pipe whose reader has gone; what is printed from then on goes nowhere."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Not closed: the interpreter flushes it once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _written_values(root: Path, file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the values that a YAML file and its defaults list write, by dotted name, and the groups it chooses."""
    import yaml

    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    groups = []
    # Only what configs/ uses of Hydra's defaults lists: files from the root, files beside this one, groups.
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and (root / f"{entry.lstrip('/')}.yaml").is_file():
            values |= _written_values(root, root / f"{entry.lstrip('/')}.yaml")[0]
        elif isinstance(entry, str) and (file.parent / f"{entry}.yaml").is_file():
            values |= _written_values(root, file.parent / f"{entry}.yaml")[0]
        elif isinstance(entry, dict):
            for group, choice in ((name.lstrip("/"), choice) for name, choice in entry.items()):
                if (root / group).is_dir():
                    groups.append(group)
                    chosen = _written_values(root, root / group / f"{choice}.yaml")[0]
                    values |= {f"{group}.{name}": value for name, value in chosen.items()}
    # The file's own values come last, as after `_self_` at the end of a defaults list.
    return values | flatten(content), groups
