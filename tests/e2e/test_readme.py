"""What the README tells people to type is typed here, with tiny settings."""

import re
import shlex
from pathlib import Path

from reasonir.eval.cli import TASKS

README = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_stage_table_names_every_task():
    """test_guides.py carries its commands out."""
    commands = re.findall(r"\| `(reasonir-(?:train|eval) [^`]+)` \|", README)
    assert {shlex.split(command)[1] for command in commands[1:]} == set(TASKS)


def test_the_python_lines_run(tiny, tmp_path, capsys):
    tiny.save_pretrained(str(tmp_path / "model"))
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    exec(code.replace("outputs/quickstart/model", str(tmp_path / "model")), {})
    assert re.search(r"^\[\[-?[01]?\.\d+\]\]", capsys.readouterr().out, re.MULTILINE)
