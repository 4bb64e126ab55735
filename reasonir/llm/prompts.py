"""Prompt files, which a researcher edits without touching code.

A file holds `version`, `turns` (roles and jinja2 texts), `retry` (the turn after a rejected answer, or a list of
wordings), and where they apply `schema` (JSON schema of the answer; its numbers may be templates), `example` (an item
that is already answered), `instruction` (of the rows) and lists to draw from. Invariant: every mistake
in a file is found before anything is asked, and the file's hash stands in every row that it made.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import parse_yaml, whole_file
from reasonir.core.run_folder import RunFolder
from reasonir.core.stamp import digest_of
from reasonir.llm.records import Completion, Message
from reasonir.llm.wordings import Frame, Wording, read_number, read_wording

OWN_FILES = Path(__file__).resolve().parents[1] / "prompts"
ROLES = ("system", "user", "assistant")
# Characters of a rejected answer that the model is shown again. An answer that did not end would fill the context.
SHOWN_CHARACTERS, SHOWN_OF_CUT_OFF = 8_000, 400
# Names that the turns of rewrite.yaml may use.
REWRITE_VARIABLES = ("instruction", "query", "length_tokens", "length_words")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt file.

    example: the turns of an item that is already answered, which come before the question. retries: wordings of the
    turn after a rejected answer; the last one serves all further attempts. lists: further lists of texts, by name.
    frame: keeps documents and answers from being taken for words of the prompt.
    """

    name: str
    version: str
    sha256: str
    source: bytes
    turns: tuple[tuple[str, Wording], ...]
    example: tuple[Message, ...]
    retries: tuple[Wording, ...]
    schema: dict[str, Any] | None
    instruction: str
    lists: Mapping[str, list[str]]
    frame: Frame

    def messages(self, values: Mapping[str, Any]) -> tuple[Message, ...]:
        """Return the conversation that asks for an item."""
        kept = {name: self.frame.keep(value) for name, value in values.items()}
        asked = tuple(Message(role, wording.render(kept).strip()) for role, wording in self.turns)
        # Servers take a system turn at the beginning only.
        system = tuple(message for message in asked if message.role == "system")
        return (*system, *self.example, *asked[len(system) :])

    def own_texts(self) -> tuple[str, ...]:
        """Return the words that are the prompt's own, piece by piece: turns, retries, example; no values of an item."""
        wordings = (*(wording for _, wording in self.turns), *self.retries)
        return (*(text for wording in wordings for text in wording.own), *(turn.content for turn in self.example))

    def schema_of(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the schema of an item's answer, whose lengths may depend on the item; None for a plain text."""
        return None if self.schema is None else _fill(self.schema, values)

    def after_rejection(
        self, messages: tuple[Message, ...], rejected: Completion, reason: str, *, attempt: int, repeated: bool
    ) -> tuple[Message, ...]:
        """Return the conversation that asks again.

        Args:
            messages: The conversation that asked first.
            rejected: The last answer.
            reason: Why it is rejected, in a sentence.
            attempt: The rejected answer's number, from 1; it chooses the wording.
            repeated: Whether the answer before was the same. It is not shown again then, because a model that reads
                its own words twice writes them a third time.
        """
        wording = self.retries[min(attempt, len(self.retries)) - 1]
        feedback = wording.render({"reason": self.frame.keep(reason)}).strip()
        if repeated:
            last = messages[-1]
            return (*messages[:-1], Message(last.role, f"{last.content}\n\n{feedback}"))
        shown = SHOWN_OF_CUT_OFF if rejected.finish == "length" else SHOWN_CHARACTERS
        answer = Message("assistant", self.frame.keep(rejected.text[:shown]).strip() or "(nothing)")
        return (*messages, answer, Message("user", feedback))


def draw_number(seed: int, *names: object) -> int:
    """Return a number below 2**31 that depends on the seed and the names alone."""
    # Part of every stored request's key: another form of this text would pay for all answers again.
    text = ":".join(map(str, (seed, *names)))
    return int(digest_of([text])[:8], 16) >> 1


def rewrite_values(query: str, length_tokens: int | None, instruction: str = "") -> dict[str, Any]:
    """Return the variables of rewrite.yaml for a query, without its line breaks as in the paper (arXiv 2504.20595).

    Args:
        query: Its text.
        length_tokens: Target length; None sets none. The prompt names it in words too, 3 for 4 tokens.
        instruction: Of the query; "" for none.
    """
    lengths = {"length_tokens": length_tokens, "length_words": length_tokens and length_tokens * 3 // 4}
    return {"instruction": instruction, "query": " ".join(query.split()), **lengths}


def load_prompt(
    name: str,
    folder: str | None,
    variables: Collection[str],
    answer: str,
    lists: Collection[str] = (),
    *,
    retried: bool = True,
    example: bool = False,
) -> Prompt:
    """Read and check `<name>.yaml` of the user's folder, or the package's own where there is none.

    Args:
        name: Of the file, without .yaml.
        folder: The user's edited files; None for the package's own.
        variables: Names that the turns may use.
        answer: Field (or fields, with a space) that the schema must require; "text" also without a schema.
        lists: Names of lists of texts that the file must hold.
        retried: Whether a rejected answer is asked for again, so that the file needs `retry`.
        example: Whether the file's worked example, where it has one, comes before the question.
    Raises:
        UserError: naming the file and what is wrong in it.
    """
    path = OWN_FILES / f"{name}.yaml"
    if folder is not None:
        if not Path(folder).is_dir():
            raise UserError(f"prompts={folder}: no such folder; copy {OWN_FILES} and edit the copy")
        edited = Path(folder) / f"{name}.yaml"
        path = edited if edited.is_file() else path
    # Bytes, because their hash stands in every row that the prompt makes.
    raw = path.read_bytes()
    content = _parse(path, raw)
    known = {"version", "turns", "retry", "schema", "instruction", "about", "example", *lists}
    if unknown := sorted(str(name) for name in content if name not in known):
        raise UserError(f"{path}: unknown entry {unknown[0]!r}")
    for field in ("version", "turns", "retry") if retried else ("version", "turns"):
        if not content.get(field):
            raise UserError(f"{path}: `{field}` is missing")
    schema = content.get("schema")
    if schema is not None:
        _check_schema(path, schema, top=True)
    asked = ["text"] if schema is None else schema.get("required", [])
    if missing := [field for field in answer.split() if field not in asked]:
        raise UserError(f"{path}: `schema` must require the field `{missing[0]}`")
    turns = tuple(_turns(path, content["turns"], variables))
    retries = _retries(path, content.get("retry", ""))
    return Prompt(
        name=name,
        version=str(content["version"]),
        sha256=digest_of([raw]),
        source=raw,
        turns=turns,
        example=_example(path, content.get("example"), turns, variables) if example else (),
        retries=retries,
        schema=None if schema is None else _schema(path, schema, variables),
        instruction=str(content.get("instruction") or "").strip(),
        lists={name: _texts(path, name, content.get(name)) for name in lists},
        frame=Frame([*(wording for _, wording in turns), *retries]),
    )


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        content = parse_yaml(raw)
    except ValueError as error:
        raise UserError(f"{path}: broken YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a prompt file holds version, turns and retry")
    return content


def _turns(path: Path, turns: Any, variables: Collection[str]) -> list[tuple[str, Wording]]:
    whole = isinstance(turns, list) and all(
        isinstance(turn, dict) and turn.keys() == {"role", "text"} for turn in turns
    )
    if not whole or not turns:
        raise UserError(f"{path}: `turns` must be a list of entries with role and text")
    wrong = next((turn["role"] for turn in turns if turn["role"] not in ROLES), None)
    if wrong is not None:
        raise UserError(f"{path}: role {wrong!r} must be one of {', '.join(ROLES)}")
    if turns[-1]["role"] != "user":
        raise UserError(f"{path}: the last turn must be the user's")
    return [
        (turn["role"], read_wording(f"{path}: `turns[{n}]`", turn["text"], variables)) for n, turn in enumerate(turns)
    ]


def _check_schema(path: Path, schema: Any, *, top: bool = False) -> None:
    """Refuse a schema that answers could not be held against."""
    kinds = ("object",) if top else ("object", "array", "string", "integer", "number", "boolean")
    if not isinstance(schema, dict) or schema.get("type", "string") not in kinds:
        raise UserError(f"{path}: `schema` must be a JSON schema of type {', '.join(kinds)}")
    for name, kind in (("required", list), ("enum", list), ("properties", dict), ("items", dict)):
        if name in schema and not isinstance(schema[name], kind):
            raise UserError(f"{path}: `schema`: `{name}` must be a {kind.__name__}")
    for limit in ("minimum", "maximum", "minItems", "minLength"):
        # A number may be a template, which `_schema` reads.
        if not isinstance(value := schema.get(limit, 0), int | float) and "{{" not in str(value):
            raise UserError(f"{path}: `schema`: `{limit}` must be a number")
    for part in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])):
        _check_schema(path, part)


def _schema(path: Path, part: Any, variables: Collection[str]) -> Any:
    """Return a part of a schema with a template in the place of each number that is written as one."""
    if isinstance(part, dict):
        return {name: _schema(path, value, variables) for name, value in part.items()}
    if isinstance(part, list):
        return [_schema(path, value, variables) for value in part]
    return read_number(f"{path}: `schema`", part, variables) if isinstance(part, str) and "{{" in part else part


def _fill(part: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(part, dict):
        return {name: _fill(value, values) for name, value in part.items()}
    if isinstance(part, list):
        return [_fill(value, values) for value in part]
    return part.number(values) if isinstance(part, Wording) else part


def _retries(path: Path, retry: Any) -> tuple[Wording, ...]:
    wordings = retry if isinstance(retry, list) and retry else [retry]
    return tuple(read_wording(f"{path}: `retry`", text, ("reason",)) for text in wordings)


def _example(
    path: Path, example: Any, turns: Sequence[tuple[str, Wording]], variables: Collection[str]
) -> tuple[Message, ...]:
    """Return the file's own turns for a foreign item, and the answer to them."""
    if example is None:
        return ()
    if not isinstance(example, dict) or example.keys() != {"values", "answer"}:
        raise UserError(f"{path}: `example` must hold values (of the turns' variables) and answer")
    values, answer = example["values"], example["answer"]
    missing = sorted(set(variables) - (values.keys() if isinstance(values, dict) else set()))
    if missing:
        raise UserError(f"{path}: `example` gives no value for {missing[0]!r}")
    asked = [Message(role, wording.render(values).strip()) for role, wording in turns if role != "system"]
    written = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, default=str)
    return (*asked, Message("assistant", written.strip()))


def _texts(path: Path, name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise UserError(f"{path}: `{name}` must be a list of texts")
    return value


def start_with_prompts(
    folder: RunFolder, prompts: Sequence[Prompt], inputs: Sequence[str] = (), *, begun: bool = False
) -> None:
    """Start a run's folder and put a copy of each prompt into it; refuse one that was begun with other prompts.

    Args:
        folder: Of the run.
        prompts: All that it asks with.
        inputs: As in `RunFolder.start`.
        begun: As in `RunFolder.start`.
    """
    copies = {folder.path / "prompts" / f"{prompt.name}.yaml": prompt for prompt in prompts}
    for copy, prompt in copies.items():
        if copy.is_file() and copy.read_bytes() != prompt.source:
            raise UserError(
                f"output_dir={folder.path} was begun with another prompt {prompt.name!r} (its copy: {copy}); "
                "name a new folder, or take that prompt"
            )
    # Not before, because `start` takes away the manifest, which a folder of other prompts keeps.
    folder.start(inputs, begun=begun)
    for copy, prompt in copies.items():
        copy.parent.mkdir(exist_ok=True)
        with whole_file(copy, "wb") as stream:
            stream.write(prompt.source)


def describe_prompts(prompts: Sequence[Prompt]) -> list[dict[str, str]]:
    """Return name, version and hash of each prompt, for the manifest."""
    return [{"name": prompt.name, "version": prompt.version, "sha256": prompt.sha256} for prompt in prompts]
