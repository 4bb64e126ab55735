"""scripts/reproduce.sh plan=true: each command that it would run is one that ours take, and its page says the same."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reasonir.eval import cli as eval_cli
from reasonir.llm import config as generator_config
from reasonir.quickstart import world
from reasonir.synth import cli as synth_cli
from reasonir.train import cli as train_cli
from tests.kit.composing import composed

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
STEPS = ("synth", "train", "bright", "rewrite", "rerank", "rag", "ablations")
# Stands for Python where a script of ours starts it: writes its arguments down and does nothing.
RECORDER = '#!/usr/bin/env bash\n{ printf "%s\\n" "${@@Q}" | tr "\\n" " "; echo; } >>"$CALLS"\n'


def planned(*arguments: str, **environment: str) -> str:
    """Return what the plan prints; no GPU, no server and no generator are there."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MODEL", "BASE_URL", "GPQA", "ROWS", "NPROC", "CORPUS", "BENCHMARK", "QUESTIONS", "RETRIEVER")
    }
    command = [str(ROOT / "scripts" / "reproduce.sh"), "plan=true", *arguments]
    done = subprocess.run(
        command, env={**kept, "PYTHON": sys.executable, **environment}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def commands(plan: str) -> list[str]:
    return [line.strip() for line in plan.splitlines() if line.startswith("    ")]


@pytest.fixture
def expand(tmp_path: Path) -> Any:
    """Return a function from a planned command to those that it comes down to, as arguments of Python."""
    recorder = tmp_path / "recorder"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)

    def calls(line: str) -> list[list[str]]:
        if line.startswith("python "):
            return [shlex.split(line)[1:]]
        log = tmp_path / "calls"
        log.unlink(missing_ok=True)
        environment = {**os.environ, "PYTHON": str(recorder), "CALLS": str(log)}
        subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, check=True, capture_output=True)
        return [shlex.split(call) for call in log.read_text().splitlines()]

    return calls


def compose(monkeypatch: pytest.MonkeyPatch, call: list[str]) -> Any:
    """Let Hydra compose a call of ours, and validate it, without its work."""
    if call[0].startswith("scripts/"):
        assert (ROOT / call[0]).is_file()
        return None
    module, arguments = next((call[n + 1], call[n + 2 :]) for n in range(len(call) - 1, -1, -1) if call[n] == "-m")
    arguments = [argument.replace("=URL", "=http://127.0.0.1:1/v1") for argument in arguments]
    if module == "reasonir.quickstart":
        return world._parse(arguments)
    with monkeypatch.context() as patched:
        main = {"train": train_cli.main, "eval": eval_cli.main, "synth": synth_cli.main}[
            module.removeprefix("reasonir.")
        ]
        return composed(patched, main, arguments)


def form(call: list[str]) -> tuple[str, ...]:
    """Return a call without the values that are paths: commands of one form compose alike."""
    return tuple(word.split("=")[0] if "/" in word else word for word in call)


@pytest.mark.seconds(20)
@pytest.mark.parametrize("scale", ["tiny", "small", pytest.param("paper", marks=pytest.mark.slow)])
def test_every_planned_command_composes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, expand: Any, scale: str
) -> None:
    monkeypatch.setattr(generator_config, "find_spec", lambda name: True)  # vllm need not be here
    monkeypatch.chdir(tmp_path)
    plan = planned(f"scale={scale}", f"output_dir={tmp_path}/out")
    assert re.findall(r"^== (\w+):", plan, re.MULTILINE) == list(STEPS)
    lines = commands(plan)
    if scale == "paper":
        lines += set(commands(planned("scale=paper", f"output_dir={tmp_path}/out", ROWS="release"))) - set(lines)
    calls = [call for line in lines for call in expand(line)]
    forms = {form(call): compose(monkeypatch, call) for call in calls}
    assert len(forms) > 15
    assert not (tmp_path / "out").exists(), "a plan runs nothing"


def test_each_command_has_a_folder_of_its_own_and_training_takes_what_synthesis_wrote(expand: Any) -> None:
    for scale, rows in (("tiny", "ours"), ("paper", "ours"), ("paper", "release")):
        calls = [call for line in commands(planned(f"scale={scale}", ROWS=rows)) for call in expand(line)]
        folders = [word for call in calls for word in call if word.startswith("output_dir=")]
        assert len(folders) == len(set(folders)) > 20
        (trained,) = [call for call in calls if "+experiment=vl_hq" in call]
        written = {word.split("=")[1] for word in folders}
        for chain in ("hq", "vl"):
            taken = [word for word in trained if f"/synth/{chain}_negatives/data.jsonl" in word]
            assert bool(taken) == (rows == "ours")
            assert rows == "release" or any(folder.endswith(f"/synth/{chain}_negatives") for folder in written)


def test_the_page_has_the_commands_and_numbers_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    steps = importlib.import_module("reproduce_steps")
    plan = planned("output_dir=OUT", NPROC="8")
    assert "\n".join(f"    {command}" for command in commands(plan)) in PAGE
    for step in steps.STEPS:
        assert f"| {step.name} | {step.does} | {step.cost} | {step.small} | {step.tiny} |" in PAGE
    for line in steps.PUBLISHED:
        assert f"| {line.step} | {line.name} | {line.points:.1f} | {line.tolerance:.1f} | {line.why} |" in PAGE
    for order in steps.ORDERS:
        assert f"| {order.step} | {order.name} | above | none |" in PAGE
    relations = (
        *importlib.import_module("reproduce_tiny_checks").RELATIONS,
        *importlib.import_module("reproduce_small_checks").RELATIONS,
    )
    for step_name, name, expected, _ in relations:
        assert f"| {step_name} | {name} | {expected} |" in PAGE


def test_published_numbers_are_those_that_bright_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    from reasonir.eval.scores.published import ORIGINAL, REWRITTEN

    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    steps = importlib.import_module("reproduce_steps")
    averages = {row.average for row in (*ORIGINAL, *REWRITTEN)}
    bright = [line for line in steps.PUBLISHED if line.name.startswith("BRIGHT")]
    assert len(bright) == 11 and {line.points for line in bright} <= averages


@pytest.mark.parametrize("line", re.findall(r"^    (.*scripts/reproduce\.sh.*)$", PAGE, re.MULTILINE))
def test_the_page_s_own_calls_are_taken(line: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "NPROC": "8"}
    line = line.split("  #")[0].replace("scripts/reproduce.sh", f"{ROOT}/scripts/reproduce.sh plan=true")
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not any(tmp_path.iterdir())
