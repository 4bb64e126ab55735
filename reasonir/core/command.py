"""From a command line to a typed configuration object, and from a mistake to one clear line.

Composes the YAML files and the overrides through Hydra, checks the options, runs the command, chooses the exit code.
Invariant: a command receives a plain dataclass that passed its `validate()`, and never sees OmegaConf or Hydra. What
the options mean is said in each stage's `config.py`.
"""

import atexit
import dataclasses
import difflib
import fnmatch
import inspect
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from reasonir.core.errors import CREDENTIALS, RunStopped, UserError, describe_os_error, printable
from reasonir.core.fields import Kind, check_range, open_mappings, typed_options
from reasonir.core.help import element_schemas, find_configs, flatten, help_page, nobody_reads, option_rows, show_page
from reasonir.core.processes import rank, world_size

# Where all ranks fail alike, rank 0 prints the line; the others wait so long before they print theirs.
SECONDS_FOR_RANK_0 = 3.0
# Beside a stage's config.py: options of other tools, and what they are called here.
FOREIGN_OPTIONS = "foreign_options.yaml"
# Hydra's own flags. Any other flag is refused by us: Hydra's message would not say that options are name=value.
HYDRA_FLAGS = (
    "--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i", "--multirun", "-m", "--config-dir", "-cd",
    "--config-path", "-cp", "--config-name", "-cn", "--hydra-help", "--version", "--shell-completion", "-sc",
)  # fmt: skip


def run_command(
    program: str, config_name: str, schema: type, run: Callable[[Any], None], argv: Sequence[str]
) -> NoReturn:
    """Compose `configs/<config_name>.yaml` with the overrides in `argv`, validate it and call `run`.

    Exits 0 on success, 2 with one line on a user's mistake (`UserError`, a composition error), 1 with one line where a
    run must not go on (`RunStopped`) or the system refuses a file (`OSError`), 1 with a traceback on our own failure,
    130 on Ctrl-C. `debug=true` shows the traceback of any of them.

    Args:
        program: The command as typed, for messages.
        config_name: Its YAML file below configs/, without the ending.
        schema: Its options class, a dataclass.
        run: The command; receives an object of `schema`.
        argv: The command line without the program's name.
    """
    if any(argument in ("--help", "-h") for argument in argv):
        # Before composing: help must come where a required option is missing.
        show_page(help_page(program, config_name, schema))
        sys.exit(0)
    strange = next((a for a in argv if a.startswith("-") and a.split("=")[0] not in HYDRA_FLAGS), None)
    if strange is not None:
        # Not the value: it may be a password.
        print(f"{program}: error: unknown flag {strange.split('=')[0]}; {_hint(strange, schema)}", file=sys.stderr)
        sys.exit(2)
    # Spinning OpenMP threads make training 2 to 4 times slower as soon as another process wants a core, and gain
    # nothing on an idle machine (docs/log.md). torch reads this variable when it is loaded, and nobody has loaded it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Read from the words, because a composition error leaves no configuration to ask; `++` is Hydra's spelling.
    debug = any(argument.replace(" ", "").lower() in ("debug=true", "++debug=true") for argument in argv)
    try:
        _compose_and_run(program, config_name, schema, run, argv)
    # A command may end itself with a status, such as 143 when told to stop; a text is the interpreter's to print.
    except SystemExit as ended:
        if isinstance(ended.code, int):
            _end(ended.code)
        raise
    except KeyboardInterrupt:
        if rank() == 0:
            print(f"{program}: interrupted; the same command takes the work up again", file=sys.stderr)
        # 128 + SIGINT, as a shell reports it
        sys.exit(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            _leave_the_others(141)  # 128 + SIGPIPE: `| head` has read enough
        mistake = _is_user_mistake(error)  # asked first: Hydra's missing option of a group is an OSError to Python
        stopped = isinstance(error, RunStopped | OSError) and not mistake
        if debug or not (stopped or mistake):
            # Alone, the interpreter prints the traceback and runs every exit handler.
            if not _among_ranks():
                raise
            traceback.print_exc()
            _leave_the_others(1)
        if rank() > 0:
            time.sleep(SECONDS_FOR_RANK_0)  # meanwhile rank 0 has spoken, and the launcher ends this process
        print(f"{program}: error: {printable(_one_line(error, schema))}", file=sys.stderr)
        _leave_the_others(1 if stopped else 2)
    _end(0)


def _leave_the_others(code: int) -> NoReturn:
    """End after a failure. One of many ranks skips all clean-up, which may wait for the other ranks forever."""
    if _among_ranks():
        _vanish(code)
    sys.exit(code)


def _end(code: int) -> NoReturn:
    """End a run that succeeded or was ended by its command.

    One of many ranks skips the interpreter's shutdown. There a native thread aborts the process now and then, and the
    launcher would call the run failed, or start it again (docs/log.md, 2026-11-26).
    """
    # `os._exit` in `_vanish` skips Python's exit handlers, so they run by hand.
    if world_size() > 1:
        atexit._run_exitfuncs()
        _vanish(code)
    sys.exit(code)


def _vanish(code: int) -> NoReturn:
    # `os._exit` drops what the streams still hold.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _among_ranks() -> bool:
    # Looked up, not imported: the import of torch takes seconds, and a process without torch has joined nobody.
    joined = sys.modules.get("torch.distributed")
    return joined is not None and joined.is_available() and joined.is_initialized()


def _compose_and_run(
    program: str, config_name: str, schema: type, run: Callable[[Any], None], argv: Sequence[str]
) -> None:
    # Imported here: --help and a wrong flag need no Hydra.
    import hydra
    from hydra.core.config_store import ConfigStore

    # The command's YAML file names the class in its defaults list.
    ConfigStore.instance().store(name=f"{schema.__name__}", node=schema)

    failures: list[BaseException] = []

    def main(composed: Any) -> None:
        # An exception must not pass through Hydra, which would print a line of its own about it.
        try:
            config = _typed(composed, schema)
            validate_tree(config)
            run(config)
        # BaseException: a status that the command chose and Ctrl-C pass Hydra by as well.
        except BaseException as error:
            failures.append(error)

    # Without this variable Hydra prints composition errors itself and exits 1; with it, it raises them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # hydra.main takes no arguments; it reads sys.argv.
    previous = sys.argv
    sys.argv = [program, *_spelled_for_hydra(argv, schema)]
    try:
        # From version_base 1.2 on Hydra stays in the working directory, so that relative paths mean the user's folder.
        hydra.main(version_base="1.3", config_path=str(find_configs()), config_name=config_name)(main)()
    finally:
        sys.argv = previous
    if failures:
        raise failures[0]


def _spelled_for_hydra(words: Sequence[str], schema: type) -> list[str]:
    """Return overrides as Hydra wants them.

    A mapping whose keys are the user's needs `++`, which adds keys and replaces them. What the shell passed for a text
    is the text: Hydra's grammar would read `1_000` as a number and stop at most of the characters of a path. A single
    value of a list needs brackets.
    """
    opened = tuple(f"{name}{sign}" for name in open_mappings(schema) for sign in "=.")
    kinds = typed_options(schema)
    # In a sweep commas and parentheses are the sweep's.
    sweep = any(word in ("-m", "--multirun") for word in words)
    return [_spelled(f"++{word}" if opened and word.startswith(opened) else word, kinds, sweep) for word in words]


# A quoted value of Hydra's grammar, alone: the user knows the grammar.
QUOTED = re.compile(r"""(?P<quote>['"])(?:\\.|(?!(?P=quote))[^\\])*(?P=quote)""", re.DOTALL)


def _spelled(word: str, kinds: Mapping[str, Kind], sweep: bool) -> str:
    name, _sign, value = word.partition("=")
    kind = next((kind for pattern, kind in kinds.items() if fnmatch.fnmatchcase(name.lstrip("+"), pattern)), None)
    # "${" begins an interpolation of OmegaConf, "???" is its mark of a missing value.
    if kind is None or value in ("", "null", "???") or "${" in value or name.startswith("~"):
        return word
    if kind is Kind.text:
        return word if sweep else f"{name}={_quoted(value)}"
    return f"{name}={_listed(name.lstrip('+'), value, kind, sweep)}"


def _listed(name: str, value: str, kind: Kind, sweep: bool) -> str:
    """Return the value of a list with brackets, and its texts with quotes."""
    texts = kind is Kind.texts and not sweep
    if value[0] + value[-1] in ("[]", "{}"):
        return f"[{','.join(map(_quoted, _entries(value[1:-1])))}]" if texts and value[0] == "[" else value
    # Outside of quotes a sweep goes over several lists.
    if not QUOTED.fullmatch(value) and set(value) & set(",("):
        if sweep:
            return value
        if "," in value:
            raise UserError(f"{name} takes several values in brackets: '{name}=[{value}]'")
    return f"[{_quoted(value) if texts else value}]"


def _entries(inside: str) -> list[str]:
    """Return the entries of a list, cut at commas outside of quotes."""
    entries = re.findall(rf"\s*({QUOTED.pattern}(?=\s*(?:,|$))|[^,]*)(?:,|$)", inside, re.DOTALL)
    return [text.strip() for text, _ in entries if text.strip()]


def _quoted(value: str) -> str:
    if QUOTED.fullmatch(value) or value == "null":
        return value
    # In Hydra's quotes a backslash means something in front of a quote alone, and is doubled there.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def _typed(composed: Any, schema: type) -> Any:
    from omegaconf import OmegaConf

    # 1 options that nobody declared
    known = {name for name, _, _ in option_rows(schema)}
    # The keys of a mapping are the user's: flattened they would all be unknown options.
    mappings = {name for name, kind, _ in option_rows(schema) if kind.startswith("dict")}
    given = flatten(OmegaConf.to_container(composed), keep=mappings)
    added = next((name for name in given if name not in known), None)
    # `+name=` adds an unknown option that Hydra lets pass; `to_object` would fail on it with half a name.
    if added is not None:
        raise UserError(_unknown_option(added, schema))
    # The options of a mapping's entries are declared by the entry's own dataclass.
    for name, element in element_schemas(schema).items():
        fields = {field.name for field in dataclasses.fields(element)}
        entries = given.get(name) or {}
        added = next((f"{name}.{key}.{f}" for key, entry in entries.items() for f in entry if f not in fields), None)
        if added is not None:
            raise UserError(_unknown_option(added, schema))
    # 2 options that nobody gave, or that `~name` deleted
    missing = sorted(OmegaConf.missing_keys(composed)) or sorted(known - given.keys())
    if missing:
        raise UserError(f"{missing[0]} is missing: give {missing[0]}=VALUE")
    # 3 plain dataclasses, so that no command can read or set options through OmegaConf
    return OmegaConf.to_object(composed)


def validate_tree(config: Any, prefix: str = "") -> None:
    """Check the range of every field of the tree (`fields.py`) and call every `validate()`, leaves first.

    Args:
        config: A dataclass object whose fields may be dataclass objects.
        prefix: What stands before the names of its fields on the command line, such as `generator.`.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            validate_tree(value, f"{prefix}{field.name}.")
        else:
            check_range(field, f"{prefix}{field.name}", value)
            refuse_passwords(f"{prefix}{field.name}", value)
    # After the leaves: a rule over several options may rely on each one's range.
    if hasattr(config, "validate"):
        config.validate()


def holds_password(text: str) -> bool:
    """Return whether a text is an address with a user or a password in it; a sentence may speak of such an address."""
    return re.match(r"[\w+.-]+://", text) is not None and CREDENTIALS.search(text) is not None


def refuse_passwords(name: str, value: Any) -> None:
    """Refuse an address with a user or a password in it: options are written into config.yaml and the manifest."""
    if isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            refuse_passwords(name, entry)
    elif isinstance(value, str) and holds_password(value):
        raise UserError(f"{name} holds a password, which would be written down; give the address without it")


def to_yaml(config: Any) -> str:
    """Return the resolved configuration as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def changed_fields(old_yaml: str, config: Any, ignored: Sequence[str] = ()) -> list[str]:
    """Return `field: old -> new` for every option in which a stored configuration differs from another.

    Args:
        old_yaml: The stored config.yaml's text.
        config: The options now, a dataclass object.
        ignored: Dotted names that may differ.
    """
    from omegaconf import OmegaConf

    try:
        old = flatten(OmegaConf.to_container(OmegaConf.create(old_yaml)))
    except Exception as error:  # yaml's and OmegaConf's own
        raise UserError(f"the stored configuration cannot be read: {' '.join(str(error).split())}") from error
    # Both sides pass through YAML, so that a tuple, an enumeration or a path compares as it was stored.
    new = flatten(OmegaConf.to_container(OmegaConf.create(to_yaml(config))))
    names = sorted(name for name in old.keys() | new.keys() if name not in ignored)
    # A null option, or an empty mapping, that a later version adds is no difference.
    old, new = ({name: None if value == {} else value for name, value in side.items()} for side in (old, new))
    return [f"{n}: {old.get(n)} -> {new.get(n)}" for n in names if old.get(n) != new.get(n)]


def _is_user_mistake(error: Exception) -> bool:
    if isinstance(error, UserError):
        return True
    module = type(error).__module__
    # Their errors speak of the command line or of a YAML file.
    return module.startswith(("hydra.", "omegaconf."))


def _one_line(error: Exception, schema: type) -> str:
    """Fold an error's message into one line that names the option and the remedy.

    The patterns are those of the messages of Hydra 1.3 and OmegaConf 2.3.
    """
    if isinstance(error, (UserError, RunStopped)):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and not _is_user_mistake(error):
        return describe_os_error(error)
    # Hydra's parser speaks of its own tokens. Not the value: it may be a password.
    if isinstance(override := getattr(error, "override", None), str):
        name, sign, _ = override.partition("=")
        return f"{name}: the value cannot be read; quote its texts: {name}='...'" if sign else _no_option(name, schema)
    # Both tails repeat the search path and the key over several lines.
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


def _no_option(word: str, schema: type) -> str:
    """Say what to do about a word without an equals sign."""
    known = word in (option for option, _, _ in option_rows(schema))
    return f"write {word}=VALUE" if known else "a word is no option; options are name=value, --help lists them"


def _hint(flag: str, schema: type) -> str:
    """Say how a flag is written here, where it is an option of ours or of another tool."""
    name = flag.lstrip("-").partition("=")[0].replace("-", "_")
    if name in (option for option, _, _ in option_rows(schema)):
        return f"write {name}=VALUE"
    return _foreign(name, schema) or "options are name=value, --help lists them"


def _foreign(name: str, schema: type) -> str | None:
    """Return what another tool's option is called here, from the table beside the schema's module if it has one."""
    import yaml

    table = Path(inspect.getfile(schema)).with_name(FOREIGN_OPTIONS)
    answers = yaml.safe_load(table.read_text(encoding="utf-8")) if table.is_file() else {}
    answer = answers.get(name.rpartition(".")[2])
    return None if answer is None else f"here: {answer}"


def _unknown_option(name: str, schema: type) -> str:
    if foreign := _foreign(name, schema):
        return f"unknown option {name!r}; {foreign}"
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
