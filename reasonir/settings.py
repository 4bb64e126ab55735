"""From a command line to a typed configuration object, and from a mistake to one clear line.

Owns: where `configs/` lies, composition through Hydra, the help page, exit codes. Invariant: below this
room nothing sees OmegaConf or Hydra; commands receive plain dataclasses that passed their `validate()`.
Leaves the meaning of the options to each stage's `config.py`.
"""

import ast
import atexit
import dataclasses
import difflib
import inspect
import itertools
import os
import random
import re
import sys
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from reasonir.distributed import rank, world_size
from reasonir.schema import RunStopped, UserError

SECONDS_FOR_RANK_0 = 3.0


class Precision(StrEnum):
    """Arithmetic of the encoder: float32, or bfloat16 products under autocast."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class TemplateChoice(StrEnum):
    """How texts become embeddings (form of the input, attention, pooling): a preset of `reasonir.model.presets`.

    auto takes what the model folder or a known hub id says, else reasonir for decoders and plain for encoders.
    """

    auto = "auto"
    reasonir = "reasonir"
    gritlm = "gritlm"
    e5_mistral = "e5_mistral"
    qwen3 = "qwen3"
    plain = "plain"
    bge = "bge"
    e5 = "e5"


def require(holds: bool, field: str, value: Any, rule: str) -> None:
    """Raise the one-line refusal of an option's value, for `validate()`."""
    if not holds:
        raise UserError(f"{field}={value} {rule}")


HYDRA_FLAGS = (
    "--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i", "--multirun", "-m", "--config-dir", "-cd",
    "--config-path", "-cp", "--config-name", "-cn", "--hydra-help", "--version", "--shell-completion", "-sc",
)  # fmt: skip


def find_configs() -> Path:
    """Return the folder of YAML files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"reasonir is installed without its configs/ (looked beside {package})")


def run_command(
    program: str, config_name: str, schema: type, run: Callable[[Any], None], argv: Sequence[str]
) -> NoReturn:
    """Compose `configs/<config_name>.yaml` with the overrides in `argv`, validate it and call `run`.

    Exits 0 on success, 2 with one line on a user's mistake (`UserError`, a composition error), 1 with one line where a
    run must not go on (`RunStopped`), 1 with a traceback on our own failure, 130 on Ctrl-C. `debug=true` shows the
    traceback of any of them.
    """
    if any(argument in ("--help", "-h") for argument in argv):
        print(help_page(program, config_name, schema))
        sys.exit(0)
    strange = next((a for a in argv if a.startswith("-") and a.split("=")[0] not in HYDRA_FLAGS), None)
    if strange is not None:
        print(f"{program}: error: unknown flag {strange}; options are name=value, --help lists them", file=sys.stderr)
        sys.exit(2)
    # Waiting OpenMP threads that spin make training 2 to 4 times slower as soon as another process wants a core, and
    # gain nothing on an idle machine (docs/log.md). Read when torch is loaded, which no module did so far.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = any(argument.replace(" ", "").lower() in ("debug=true", "++debug=true") for argument in argv)
    try:
        _compose_and_run(program, config_name, schema, run, argv)
    except SystemExit as ended:
        if isinstance(ended.code, int):
            _end(ended.code)
        raise
    except KeyboardInterrupt:
        if rank() == 0:
            print(f"{program}: interrupted; the same command takes the work up again", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        stopped = isinstance(error, RunStopped)
        if debug or not (stopped or _is_user_mistake(error)):
            if not _among_ranks():
                raise
            traceback.print_exc()
            _leave_the_others(1)
        if rank() > 0:
            time.sleep(SECONDS_FOR_RANK_0)  # where all ranks fail alike, rank 0 speaks, and the launcher ends the rest
        print(f"{program}: error: {_one_line(error, schema)}", file=sys.stderr)
        _leave_the_others(1 if stopped else 2)
    _end(0)


def _leave_the_others(code: int) -> NoReturn:
    """End after a failure. One of many ranks leaves at once: what it would clean up may wait for the others forever."""
    if _among_ranks():
        _vanish(code)
    sys.exit(code)


def _end(code: int) -> NoReturn:
    """End a run that came to its end.

    One of many ranks skips the interpreter's own end, where a native thread now and then aborts the process: its
    launcher would call the run failed, or start it again (docs/log.md, 2026-11-26).
    """
    if world_size() > 1:
        atexit._run_exitfuncs()
        _vanish(code)
    sys.exit(code)


def _vanish(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _among_ranks() -> bool:
    joined = sys.modules.get("torch.distributed")
    return joined is not None and joined.is_available() and joined.is_initialized()


def _compose_and_run(
    program: str, config_name: str, schema: type, run: Callable[[Any], None], argv: Sequence[str]
) -> None:
    import hydra
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name=f"{schema.__name__}", node=schema)

    failures: list[BaseException] = []

    def main(composed: Any) -> None:
        # Hydra would print a line of its own about an exception that passes through it.
        try:
            config = _typed(composed, schema)
            validate_tree(config)
            run(config)
        except BaseException as error:
            failures.append(error)

    # Hydra prints composition errors and exits 1 by itself otherwise; with this it hands them to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    previous = sys.argv
    sys.argv = [program, *argv]
    try:
        hydra.main(version_base="1.3", config_path=str(find_configs()), config_name=config_name)(main)()
    finally:
        sys.argv = previous
    if failures:
        raise failures[0]


def _typed(composed: Any, schema: type) -> Any:
    from omegaconf import OmegaConf

    known = {name for name, _, _ in option_rows(schema)}
    mappings = {name for name, kind, _ in option_rows(schema) if kind.startswith("dict")}
    given = _leaves(OmegaConf.to_container(composed), keep=mappings)
    added = next((name for name in given if name not in known), None)
    if added is not None:  # `+name=` gets past Hydra; to_object would fail on the slots with half a name
        raise UserError(_unknown_option(added, schema))
    for name, element in element_schemas(schema).items():
        fields = {field.name for field in dataclasses.fields(element)}
        entries = given.get(name) or {}
        added = next((f"{name}.{key}.{f}" for key, entry in entries.items() for f in entry if f not in fields), None)
        if added is not None:
            raise UserError(_unknown_option(added, schema))
    missing = sorted(OmegaConf.missing_keys(composed)) or sorted(known - given.keys())
    if missing:
        raise UserError(f"{missing[0]} is missing: give {missing[0]}=VALUE")
    return OmegaConf.to_object(composed)


def validate_tree(config: Any) -> None:
    """Call `validate()` on every dataclass of the tree, leaves first."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            validate_tree(value)
    if hasattr(config, "validate"):
        config.validate()


def to_yaml(config: Any) -> str:
    """Return the resolved configuration as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def changed_fields(old_yaml: str, config: Any, ignored: Sequence[str] = ()) -> list[str]:
    """Return `field: old -> new` for every leaf in which a stored configuration differs from `config`."""
    from omegaconf import OmegaConf

    try:
        old = _leaves(OmegaConf.to_container(OmegaConf.create(old_yaml)))
    except Exception as error:  # yaml's and OmegaConf's own
        raise UserError(f"the stored configuration cannot be read: {' '.join(str(error).split())}") from error
    new = _leaves(OmegaConf.to_container(OmegaConf.create(to_yaml(config))))
    names = sorted(name for name in old.keys() | new.keys() if name not in ignored)
    return [f"{n}: {old.get(n)} -> {new.get(n)}" for n in names if old.get(n) != new.get(n)]


def _leaves(tree: Any, prefix: str = "", keep: Collection[str] = ()) -> dict[str, Any]:
    """Flatten nested mappings into dotted names; those named in `keep` stay whole."""
    if not isinstance(tree, dict) or prefix in keep or (prefix and not tree):
        return {prefix: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _leaves(value, f"{prefix}.{key}" if prefix else str(key), keep)
    return leaves


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _is_user_mistake(error: Exception) -> bool:
    if isinstance(error, UserError):
        return True
    module = type(error).__module__
    return module.startswith(("hydra.", "omegaconf."))


def _one_line(error: Exception, schema: type) -> str:
    """Fold an error's message into one line that names the option and the remedy."""
    if isinstance(error, (UserError, RunStopped)):
        return " ".join(str(error).split())
    message = " ".join(str(error).split()).split(" Config search path:")[0].split(" full_key:")[0]
    if overridden := re.match(r"Could not override '([^']+)'", message):
        return _unknown_option(overridden[1], schema)
    if missing := re.search(r"missing mandatory value: (\S+)", message):
        return f"{missing[1]} is missing: give {missing[1]}=VALUE"
    if message.startswith("Error merging override") and error.__cause__ is not None:
        cause = " ".join(str(error.__cause__).split()).split(" full_key:")[0]
        inside = re.match(r"Error merging override \+*([^=]+)=", message)
        if inside and "Invalid type assigned: dict" in cause:  # an option of an entry that is not there
            return _unknown_option(inside[1], schema)
        return f"{message.removeprefix('Error merging override ')}: {cause}"
    return message


def _unknown_option(name: str, schema: type) -> str:
    known = [option for option, _, _ in option_rows(schema)]
    if name in known:
        return f"{name} takes new entries with a plus in front: '+{name}={{NAME: VALUE}}'"
    for holder, element in element_schemas(schema).items():
        if name.startswith(f"{holder}."):
            key, _, rest = name.removeprefix(f"{holder}.").partition(".")
            fields = [field.name for field in dataclasses.fields(element)]
            if not rest or rest in fields:
                return f"{holder} has no entry {key!r}; add one with '+{holder}={{{key}: {{{fields[0]}: VALUE}}}}'"
            known = [f"{holder}.{key}.{field}" for field in fields]
    near = difflib.get_close_matches(name, known, n=3)
    if (find_configs() / name).is_dir():
        return f"unknown option {name!r}; did you mean +{name}=?"
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists the options"
    return f"unknown option {name!r}; {hint}"


def option_rows(schema: type, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (dotted name, type, docstring) of every leaf option of a config dataclass."""
    documents = _field_docstrings(schema)
    rows: list[tuple[str, str, str]] = []
    for field in dataclasses.fields(schema):
        name = f"{prefix}{field.name}"
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


def _field_docstrings(schema: type) -> dict[str, str]:
    """Map field name to the string literal that follows it in the class body."""
    documents = {}
    for kind in reversed(schema.__mro__[:-1]):  # a subclass may say it anew
        tree = ast.parse(inspect.cleandoc(inspect.getsource(kind)))
        body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                documents[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(text.value)).split())
    return documents


def help_page(program: str, config_name: str, schema: type) -> str:
    """Return the help text: what the command does, its options with their values, its config groups."""
    import textwrap

    root = find_configs()
    values, groups = _written_values(root, root / f"{config_name}.yaml")
    lines = [f"usage: {program} [option=value ...]", "", inspect.getdoc(schema) or "", "", "options:"]
    rows = option_rows(schema)
    for holder, element in element_schemas(schema).items():
        after = next(i for i, row in enumerate(rows) if row[0] == holder) + 1
        rows[after:after] = option_rows(element, f"{holder}.NAME.")
    for name, kind, document in rows:
        default = "" if name not in values else f" [{'null' if values[name] is None else values[name]}]"
        lines.append(f"  {name}  ({kind}){default}")
        lines += textwrap.wrap(document, 100, initial_indent="      ", subsequent_indent="      ")
    if groups:
        lines.append("\ngroups of options:")
        signs = {group: f"{group}=" for group in groups} | {"experiment": "+experiment="}
        for group, sign in signs.items():
            lines.append(f"  {sign}  one of: {', '.join(sorted(path.stem for path in (root / group).glob('*.yaml')))}")
    lines.append("\n--cfg job prints the composed configuration; -m runs a sweep (Hydra).")
    return "\n".join(lines)


def _written_values(root: Path, file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the values that a YAML file and its defaults list write, by dotted name, and the groups it chooses."""
    import yaml

    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    groups = []
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
    return values | _leaves(content), groups
