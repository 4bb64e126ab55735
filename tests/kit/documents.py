"""The commands that the documents tell people to type."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from reasonir.eval import cli as evaluation
from reasonir.synth import cli as synthesis
from reasonir.train import cli as training

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAINS: dict[str, Callable[[list[str]], None]] = {
    "train": training.main, "eval": evaluation.main, "synth": synthesis.main,
}  # fmt: skip
TINY_MODEL = [
    "max_steps=2", "global_batch_queries=4", "query_max_tokens=80", "document_max_tokens=80", "precision=fp32",
    "model.vocabulary_size=400", "model.hidden_size=32", "model.intermediate_size=48", "model.layers=2",
    "model.heads=4", "model.key_value_heads=2",
]  # fmt: skip
SMALL = ["max_steps=2", "global_batch_queries=4", "warmup_steps=1", "query_max_tokens=128", "document_max_tokens=128"]


def commands(document: Path) -> list[str]:
    """Return the lines of a document's code blocks and tables that are typed, in order; broken ones joined, `$G` filled
    in, comments cut."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n((?:.*\n)*?)```$|((?:^ {4}.*\n)+)", text, re.MULTILINE)
    typed = "\n".join(fenced or indented for language, fenced, indented in blocks if language in ("", "sh"))
    lines = re.sub(r"\s*\\\n\s*", " ", typed).splitlines()
    lines += re.findall(r"\| `(reasonir-[^`]+)` \|", text)
    variables = dict(re.findall(r'^\s*([A-Z]+)="([^"]*)"', text, re.MULTILINE))
    for name, value in variables.items():
        lines = [re.sub(rf"\${name}\b", value, line) for line in lines]
    return [line.split(" #")[0].strip() for line in lines if not line.strip().startswith("#")]


def own_command(line: str) -> tuple[str, list[str]] | None:
    """Return (stage, arguments) of a command of this project, launched by whatever; None for any other line."""
    found = re.search(r"(?:^|\s)(?:reasonir-|-m reasonir\.)(train|eval|synth)\s+(.*)", line)
    if found is None or line.startswith("cp "):
        return None
    arguments = shlex.split(found[2])
    return None if "..." in arguments else (found[1], arguments)
