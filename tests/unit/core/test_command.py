"""What people type for a text is the text; what goes wrong is one line that holds no secret."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from reasonir.core.command import _one_line, _spelled_for_hydra, holds_password, refuse_passwords, run_command
from reasonir.core.errors import UserError, printable
from reasonir.core.fields import Kind, typed_options


@dataclass(kw_only=True, slots=True)
class Part:
    path: str = "x"
    files: list[str] | None = None


@dataclass(kw_only=True, slots=True)
class Options:
    output_dir: str = "x"
    queries: str | None = None
    files: list[str] = field(default_factory=list)
    weights: list[float] | None = None
    steps: int = 1
    part: Part = field(default_factory=Part)
    parts: dict[str, Part] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


TYPED = [
    "a=b", "g(h)", "i#j", "ü", "日本", "a b", " a ", "1_000", "0123", "_x", "1e5", "true", "nan", "x[1]", "C:\\new\\",
    "it's", 'say "hi"', "a\\'b", "\\", "\\\\'", "~/x", "@x%", "$HOME", "a\nb", "a;b&c|d", "*", "!x", "<a>", "^", "-x",
    "é:/x", "a\\=b", "'Find' and 'use'", "--x", "?", "Aim: {x} now", "a, b", "(a, b)", "[x].jsonl", "{a}/b", "\t",
    "naïve café.jsonl", "[1] a", "choice(a)", "a:b", "%d", "`x`", "‘quoted’",
]  # fmt: skip


def read(*words: str) -> list[Any]:
    """Return the values that Hydra reads in the words of a command."""
    overrides = OverridesParser.create().parse_overrides(_spelled_for_hydra(list(words), Options))
    return [override.value() for override in overrides]


def test_a_text_is_taken_as_typed() -> None:
    assert read(*(f"output_dir={text}" for text in TYPED)) == TYPED
    assert read(*(f"{name}=ü=1" for name in ("+queries", "part.path", "parts.new.path", "++output_dir"))) == ["ü=1"] * 4


def test_a_list_takes_texts_as_typed() -> None:
    texts = [text for text in TYPED if "," not in text]
    assert read(*(f"files={text}" for text in texts)) == [[text] for text in texts]
    together = [text for text in texts if text == text.strip()]
    assert read(f"part.files=[{','.join(together)}]", "parts.new.files=ü=1") == [together, ["ü=1"]]


def test_what_is_written_in_hydras_grammar_is_read_so() -> None:
    assert read("output_dir='a, b'", 'queries="q r"', "queries=null") == ["a, b", "q r", None]
    assert read("""files=['a, b',"c d",e=f]""", "files=[]", "files='a, b'") == [["a, b", "c d", "e=f"], [], ["a, b"]]
    assert read("output_dir=${oc.env:HOME}", "weights=[.5,.5]", "weights=2") == ["${oc.env:HOME}", [0.5, 0.5], [2]]
    assert read("body={a: 1}", "steps=1_000") == [{"a": 1}, 1000]
    assert _spelled_for_hydra(["-m", "output_dir=a,b", "steps=1,2"], Options) == ["-m", "output_dir=a,b", "steps=1,2"]


@pytest.mark.parametrize("word", ["files=a,b", "weights=.5,.5", "part.files=a b,c"])
def test_several_values_without_brackets_are_one_line(word: str) -> None:
    name, _, value = word.partition("=")
    with pytest.raises(UserError, match=rf"^{name} takes several values in brackets: '{name}=\[{value}\]'$"):
        read(word)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("steps=canary(", "steps: the value cannot be read; quote its texts: steps='...'"),
        ("body={a: ca=nary}", "body: the value cannot be read; quote its texts: body='...'"),
        ("sk-canary", "a word is no option; options are name=value, --help lists them"),
        ("steps", "write steps=VALUE"),
    ],
)
def test_what_hydra_cannot_read_is_named_and_not_repeated(word: str, line: str) -> None:
    with pytest.raises(Exception) as caught:
        read(word)
    assert _one_line(caught.value, Options) == line


def test_the_value_of_an_unknown_flag_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command("reasonir-x", "train", Options, print, ["--api-key=canary"])
    assert "unknown flag --api-key;" in (said := capsys.readouterr().err) and "canary" not in said


def test_kinds_of_options() -> None:
    kinds = typed_options(Options)
    assert {name for name, kind in kinds.items() if kind is Kind.text} == {
        "output_dir", "queries", "part.path", "parts.*.path"
    }  # fmt: skip
    assert {name for name, kind in kinds.items() if kind is Kind.texts} == {"files", "part.files", "parts.*.files"}
    assert kinds["weights"] is Kind.items and not {"steps", "body"} & kinds.keys()
    assert len(dataclasses.fields(Options)) == 8, "an option that is added belongs into these sets"


@pytest.mark.parametrize(
    "value",
    ["https://u:canary@h/v1", "s3://canary@bucket", ["x", "http://u:canary@h"], {"a": {"b": "ftp://u:canary@h"}}],
)
def test_an_address_with_a_password_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"^data\.dir holds a password") as caught:
        refuse_passwords("data.dir", value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("text", ["hub:owner/name", "a@b", "http://host/@x", "Write to me@home: http://x.y/", ""])
def test_other_texts_hold_no_password(text: str) -> None:
    assert not holds_password(text)
    refuse_passwords("data.dir", [text, None, 3])


def test_a_message_holds_no_password_and_no_escape_sequence() -> None:
    assert printable("s3://u:can@ary@h") == "s3://...@h"
    said = printable("http://u:canary@h/x?a@b refuses: \x1b[2J\x9bü\x00 mail a@b")
    assert said == "http://...@h/x?a@b refuses: ?[2J?ü? mail a@b"


@pytest.mark.seconds(10)
def test_help_whose_reader_goes_ends_quietly() -> None:
    program = "from reasonir.eval.cli import main; main(['bright', '--help'])"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reading:
        assert reading.stdout is not None and reading.stderr is not None
        reading.stdout.close()  # as `| head -0` does
        assert (reading.stderr.read(), reading.wait()) == (b"", 0)
