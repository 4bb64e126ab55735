"""From a model's answer to the fields of a JSON schema, or to the reason why it has none.

Invariant: returned fields obey the schema, and their text holds only what people write: valid UTF-8 without control
characters. Thoughts, code fences and sentences around the JSON are ignored, and LaTeX with single backslashes is read
as it was meant; other mistakes inside the JSON are not mended.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from reasonir.llm.attempts import Rejection
from reasonir.llm.refusals import without_thoughts
from reasonir.text.control_characters import restore_backslashes, stray_character

KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,),
}  # fmt: skip


def read_fields(text: str, finish: str, schema: dict[str, Any] | None) -> dict[str, Any] | Rejection:
    """Return the fields of an answer; `{"text": …}` without a schema.

    Args:
        text: The answer, thoughts included.
        finish: How it ended, as in `Completion`; "length" means that it was cut off.
        schema: JSON schema of the object; None takes the answer as it stands.
    """
    if finish == "refusal":
        return Rejection("refusal", f"It was declined: {text[:300]!r}.")
    text = without_thoughts(text)
    if schema is None:
        return _checked({"text": text}) if text else Rejection("empty", "The answer was empty.")
    # Before the JSON is looked for: a cut answer has none, and "be shorter" mends it where "no JSON object" does not.
    if finish == "length":
        return Rejection("cut_off", "The answer was too long and was cut off before its end; be shorter.")
    found = _first_object(text)
    if found is None:
        return Rejection("json", "The answer was not one JSON object.")
    problem = schema_problem(found, schema)
    if problem:
        return Rejection("schema", f"The JSON object is not as asked: {problem}.")
    return _checked(found)


def _checked(fields: dict[str, Any]) -> dict[str, Any] | Rejection:
    """Return the fields with the backslashes of their LaTeX, or what no text holds."""
    # Half a surrogate pair is valid in JSON (as an escape) but not in UTF-8.
    if re.search("[\ud800-\udfff]", json.dumps(fields, ensure_ascii=False)):
        return Rejection("json", "The answer holds half a surrogate pair, which is no text.")
    mended: dict[str, Any] = _in_strings(restore_backslashes, fields)
    if stray := next(filter(None, map(stray_character, _strings(mended))), None):
        return Rejection("control_character", f"The answer holds the character {stray}; write plain text.")
    return mended


def _in_strings(change: Callable[[str], str], value: Any) -> Any:
    """Return a value of JSON with every string in it changed; names of fields stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_in_strings(change, entry) for entry in value]
    if isinstance(value, dict):
        return {name: _in_strings(change, entry) for name, entry in value.items()}
    return value


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in a value of JSON, names of fields left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for entry in value if isinstance(value, list) else value.values():
            yield from _strings(entry)


# A backslash with what makes it an escape of JSON, or alone.
ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})?')


def _first_object(text: str) -> dict[str, Any] | None:
    """Return the first JSON object of a text, also one whose LaTeX has single backslashes ("\\alpha" is no escape)."""
    doubled = ESCAPE.sub(lambda found: found[0] if found[1] else r"\\", text)
    found = _first_valid_object(text)
    return _first_valid_object(doubled) if found is None and doubled != text else found


def _first_valid_object(text: str) -> dict[str, Any] | None:
    # Models write line breaks into strings, which strict JSON forbids.
    decoder = json.JSONDecoder(strict=False)
    start = text.find("{")
    # Sentences before the object may contain a brace. Eight tries bound the time on a text full of braces.
    for _ in range(8):
        if start < 0:
            return None
        try:
            found, _ = decoder.raw_decode(text, start)
        # RecursionError: a model in a loop may open brackets by the thousand.
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        return found if isinstance(found, dict) else None
    return None


def schema_problem(value: Any, schema: dict[str, Any], name: str = "the object") -> str:
    """Return the first violation of a schema in words, "" for none.

    Args:
        value: Parsed JSON.
        schema: A schema of the keywords that our prompts use; others are ignored.
        name: The value's name in words.
    """
    kind = schema.get("type")
    # Python's booleans are integers; JSON's are not.
    if kind is not None and (not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return f"{name} must be of type {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{name} must be one of {schema['enum']}"
    if isinstance(value, dict):
        missing = [key for key in schema.get("required", ()) if key not in value]
        if missing:
            return f"`{missing[0]}` is missing"
        parts = ((value[key], part, f"`{key}`") for key, part in schema.get("properties", {}).items() if key in value)
        return next(filter(None, (schema_problem(*part) for part in parts)), "")
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            return f"{name} has {len(value)} entries, fewer than {schema['minItems']}"
        entries = (schema_problem(entry, schema.get("items", {}), f"an entry of {name}") for entry in value)
        return next(filter(None, entries), "")
    if isinstance(value, str):
        return f"{name} is empty" if schema.get("minLength", 0) and not value.strip() else ""
    low, high = schema.get("minimum"), schema.get("maximum")
    if (low is not None and value < low) or (high is not None and value > high):
        return f"{name} must lie between {low} and {high}"
    return ""
