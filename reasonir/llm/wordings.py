"""The wordings of prompt files: a small part of jinja2, and values that cannot leave their place in a prompt.

Invariants: rendering runs no code of the file and takes time in proportion to the values. No value can write the marks
that the prompt puts around it, nor the marks that chat templates put around a turn, because documents, queries and
answers are other people's.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from reasonir.core.errors import UserError

# What a wording may hold. No calls, no macros, no assignments: each could make rendering endless or fill the memory.
PARTS = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Tuple, nodes.List, nodes.If,
    nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Getattr,
    nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.Concat, nodes.Add, nodes.Sub, nodes.Mul,
    nodes.FloorDiv, nodes.Div, nodes.Mod,
)  # fmt: skip
# Filters whose result is about as long as what they get.
FILTERS = {
    "capitalize", "count", "default", "d", "first", "int", "join", "last", "length", "list", "lower", "replace",
    "round", "string", "title", "trim", "truncate", "upper", "wordcount",
}  # fmt: skip
ALLOWED = f"variables, if, one loop, arithmetic and the filters {', '.join(sorted(FILTERS))}"
# What a file of thousands of brackets does to jinja2 and to Python's own compiler.
UNREADABLE = (jinja2.TemplateError, RecursionError, SyntaxError, MemoryError, OverflowError, ValueError)
# How the chat templates of Llama 2 and 3, Qwen, Mistral, Gemma, Phi and DeepSeek mark the turns.
TURN_MARKS = r"<(?=[|｜][^\s|｜<>]{1,40}[|｜]>|/?s>|(?:start|end)_of_turn>)|\[(?=/?(?:INST|SYSTEM_PROMPT)\])"
# A longer line is a sentence and no heading.
HEADING_CHARACTERS = 60
# Values for the trial of a file before anything is asked. A variable that is named nowhere here is a text.
NUMBERS = ("count", "length_tokens", "length_words", "min_words", "positive_words", "query_words")
SAMPLES: Mapping[str, Any] = {
    **{name: ["a text", "another text"] for name in ("documents", "passages", "negatives")},
    "options": [("A", "a text"), ("B", "another text")],
    **dict.fromkeys(NUMBERS, 100),
}


class _Sandbox(ImmutableSandboxedEnvironment):
    """Templates that reach no attribute of Python's, and do not multiply or format texts to any length."""

    intercepted_binops = frozenset({"*", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute a product or a remainder of numbers, as jinja2 asks for it.

        Args:
            context: Of the rendering.
            operator: One of `intercepted_binops`.
            left: Number before it.
            right: Number behind it.
        Raises:
            SecurityError: One of them is no number.
        """
        if not all(isinstance(side, int | float) for side in (left, right)):
            raise SecurityError(f"{operator} takes numbers only")
        return super().call_binop(context, operator, left, right)


# StrictUndefined: a misspelt variable is an error and not an empty text.
_sandbox = _Sandbox(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@dataclass(frozen=True, slots=True)
class Wording:
    """One text of a prompt file. place: file and entry, for messages. own: its words, without those of its values.

    marks: where `own` has a heading or a number in brackets in front of a value, as a regular expression each.
    """

    place: str
    template: jinja2.Template
    own: tuple[str, ...]
    marks: tuple[str, ...]

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the text for some values."""
        try:
            return self.template.render(values)
        # Whatever an expression of the file makes of these values (a text divided by a number).
        except Exception as error:
            raise UserError(f"{self.place} cannot be filled in: {' '.join(str(error).split())[:200]}") from error

    def number(self, values: Mapping[str, Any]) -> int:
        """Return the whole number that a text of a schema stands for."""
        text = self.render(values)
        try:
            return int(text)
        except ValueError as error:
            raise UserError(f"{self.place} gives {text[:40]!r} where a whole number belongs") from error


def read_wording(place: str, text: Any, variables: Collection[str]) -> Wording:
    """Return a text of a prompt file, checked and tried once.

    Args:
        place: File and entry, for messages.
        text: The entry.
        variables: Names that it may use.
    Raises:
        UserError: it is no text, is broken, or holds more than a prompt needs.
    """
    if not isinstance(text, str):
        raise UserError(f"{place} must be a text")
    try:
        tree = _sandbox.parse(text)
        if foreign := next(_foreign_parts(tree), None):
            raise UserError(f"{place} holds {foreign}; a prompt has {ALLOWED}")
        # Found now: StrictUndefined raises only when the branch that holds the name is rendered.
        used = jinja2.meta.find_undeclared_variables(tree)
        template = _sandbox.from_string(text)
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{place}: {' '.join(str(error).split())[:200] or type(error).__name__}") from error
    if unknown := sorted(used - set(variables)):
        raise UserError(f"{place} uses {unknown[0]!r}; there are {', '.join(sorted(variables))}")
    own = tuple(node.data for node in tree.find_all(nodes.TemplateData))
    wording = Wording(place, template, own, tuple(_marks(tree)))
    # Tried once: what an expression makes of a value is not known before.
    wording.render(_samples(variables))
    return wording


def read_number(place: str, text: Any, variables: Collection[str]) -> Wording:
    """Return a number of a schema that depends on variables.

    Args:
        place: Named in errors.
        text: The number as a template.
        variables: Their names.
    Raises:
        UserError: As `read_wording`, or what it renders to is no number.
    """
    wording = read_wording(place, text, variables)
    wording.number(_samples(variables))
    return wording


def _samples(variables: Collection[str]) -> dict[str, Any]:
    return {name: SAMPLES.get(name, "a text") for name in variables}


def _foreign_parts(tree: nodes.Template) -> Iterator[str]:
    """Yield in words what a wording may not hold."""
    loops = list(tree.find_all(nodes.For))
    if any(loop.recursive or next(loop.find_all(nodes.For), None) for loop in loops):
        yield "a loop within a loop"
    for node in tree.find_all(nodes.Node):
        if isinstance(node, nodes.Filter):
            if node.name not in FILTERS:
                yield f"the filter {node.name}"
            if not all(isinstance(argument, nodes.Const) for argument in node.args) or node.kwargs:
                yield f"the filter {node.name} with more than plain values"
        elif isinstance(node, (nodes.Stmt, nodes.Expr, nodes.Macro)) and not isinstance(node, PARTS):
            yield f"a {type(node).__name__.lower()}"


def _marks(tree: nodes.Template) -> Iterator[str]:
    for output in tree.find_all(nodes.Output):
        for before, value in zip(output.nodes, [*output.nodes[1:], None], strict=True):
            if not isinstance(before, nodes.TemplateData):
                continue
            *whole, last = before.data.splitlines() or [""]
            # A heading ends its line, or stands in front of a value: "Question: {{ question }}".
            for line in map(str.strip, [*whole, last]):
                if line.endswith(":") and len(line) <= HEADING_CHARACTERS:
                    yield re.escape(line)
            if last.endswith("[") and value is not None:
                yield r"\[\d+\]"


class Frame:
    """Keeps the values of a prompt in their place."""

    def __init__(self, wordings: Sequence[Wording]) -> None:
        """Take the wordings of a prompt, whose tags, headings and numbers no value may write."""
        tags = sorted({tag for wording in wordings for own in wording.own for tag in re.findall(r"</(\w+)>", own)})
        marks = sorted({mark for wording in wordings for mark in wording.marks})
        # Each blank is looked at once from a mark: texts of blanks alone are the slowest that there are.
        opened = rf"<(?=\s*(?:/\s*)?(?:{'|'.join(tags)})\b)|" if tags else ""
        self._tags = re.compile(opened + TURN_MARKS, re.IGNORECASE)
        begins = rf"(?:^|(?<=[\r\u2028\u2029]))(?=[ \t\xa0\u3000]*(?:{'|'.join(marks)}))"
        self._lines = re.compile(begins, re.IGNORECASE | re.MULTILINE) if marks else None

    def keep(self, value: Any) -> Any:
        """Return a value that cannot be taken for a part of the prompt; most stay as they are.

        Of a tag `<` becomes `&lt;`, as in HTML; a line that begins like a heading of the prompt is quoted with `> `.
        """
        if isinstance(value, str):
            value = self._tags.sub(lambda mark: "&lt;" if mark[0] == "<" else "&#91;", value)
            return value if self._lines is None else self._lines.sub("> ", value)
        if isinstance(value, list | tuple):
            return type(value)(map(self.keep, value))
        return value
