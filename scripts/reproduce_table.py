"""The table of `reproduce.sh`: what came out beside what was expected, each line ok, off or not run.

    python scripts/reproduce_table.py plan SCALE STEP                  # a step's cost and expected numbers
    python scripts/reproduce_table.py check SCALE FOLDER STEPS [WHY]    # writes FOLDER/reproduce.{md,json}

At scale=paper a published number is compared within a tolerance; at the other scales relations are checked that must
hold on any machine, from the files themselves. Exit status of check: 0 if every step asked for ran and every line is
ok, else 1.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from reproduce_steps import AVERAGE, ORDERS, PUBLISHED, STEPS

HONEST = {
    "paper": "scale=paper: numbers beside those of arXiv 2504.20595, in points.",
    "tiny": "scale=tiny checks the plumbing, not the paper's numbers: the corpus is made up, the generator is a set of "
    "rules, the model is tiny. What is expected are relations that must hold.",
    "small": "scale=small: real texts, a real language model of some hundred million parameters. What is expected are "
    "relations that so few items allow, each with its 95 % interval; the paper's numbers are another matter.",
}

OK, OFF, MISSING = "ok", "off", "not run"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. status: ok, off, or not run where a file that it needs is not there."""

    step: str
    name: str
    expected: str
    obtained: str
    tolerance: str
    status: str


Check = tuple[str, str, str, str, Callable[[Path], tuple[str, bool]]]
"""Step, name, what is expected, tolerance, and what gives the obtained value and whether it will do."""


def checks(scale: str) -> list[Check]:
    """Return the checks of a scale."""
    if scale != "paper":
        # Imported late: those of scale=small need the package and its numpy, and a plan is printed for each step.
        relations = import_module(f"reproduce_{scale}_checks").RELATIONS
        return [(step, name, expected, "none", measure) for step, name, expected, measure in relations]
    found: list[Check] = [
        (p.step, p.name, f"{p.points:.1f}", f"{p.tolerance:.1f} ({p.why})", _published(p.where, p.points, p.tolerance))
        for p in PUBLISHED
    ]
    return found + [(o.step, o.name, "above", "none", _order(o.higher, o.lower)) for o in ORDERS]


def value(folder: Path, file: str, *keys: str) -> float:
    """Return a number of a JSON file, in points."""
    found: Any = json.loads((folder / file).read_text(encoding="utf-8"))
    for key in keys:
        found = found[key]
    return 100 * float(found)


def _published(where: tuple[str, ...], points: float, tolerance: float) -> Callable[[Path], tuple[str, bool]]:
    def measure(folder: Path) -> tuple[str, bool]:
        found = value(folder, *where)
        return f"{found:.1f}", abs(found - points) <= tolerance

    return measure


def _order(higher: str, lower: str) -> Callable[[Path], tuple[str, bool]]:
    def measure(folder: Path) -> tuple[str, bool]:
        first, second = (value(folder, f"{name}/results.json", *AVERAGE) for name in (higher, lower))
        return f"{first:.1f} and {second:.1f}", first > second

    return measure


def examine(check: Check, folder: Path, ran: set[str]) -> Line:
    """Carry out one check; a step that did not end gives no number."""
    step, name, expected, tolerance, measure = check
    if step not in ran:
        return Line(step, name, expected, "", tolerance, MISSING)
    try:
        obtained, good = measure(folder)
    except (OSError, KeyError, ValueError, ZeroDivisionError) as error:
        return Line(step, name, expected, f"{type(error).__name__}: {error}", tolerance, OFF)
    return Line(step, name, expected, obtained, tolerance, OK if good else OFF)


def plan(scale: str, name: str) -> str:
    """Return what is said before a step."""
    step = next(step for step in STEPS if step.name == name)
    cost = f"cost: {step.cost}" if scale == "paper" else f"here: {step.at(scale)}"
    lines = [f"\n== {step.name}: {step.does}", f"   {cost}"]
    for of_step, what, expected, tolerance, _ in checks(scale):
        if of_step == name:
            within = "" if tolerance == "none" else f", within {tolerance}"
            lines.append(f"   expected: {what}: {expected}{within}")
    return "\n".join(lines)


def read_notes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the finished commands by "<step>.<name>", with their seconds."""
    notes = {}
    for note in sorted((folder / "notes").glob("*.*")):
        if not note.name.endswith(".partial"):
            command, seconds = note.read_text(encoding="utf-8").splitlines()
            notes[note.name] = {"command": command, "seconds": int(seconds)}
    return notes


def report(scale: str, folder: Path, asked: list[str], why: str) -> dict[str, Any]:
    """Return the content of reproduce.json."""
    ran = {step.name for step in STEPS if (folder / "notes" / step.name).is_file()}
    notes = read_notes(folder)
    rows = []
    for step in STEPS:
        took = sum(note["seconds"] for name, note in notes.items() if name.startswith(f"{step.name}."))
        state = "ran" if step.name in ran else MISSING if step.name in asked else "not asked for"
        cost = step.at(scale)
        rows.append({"step": step.name, "state": state, "does": step.does, "cost": cost, "seconds": took})
    lines = [examine(check, folder, ran) for check in checks(scale) if check[0] in asked or check[0] in ran]
    whole = not why and all(step in ran for step in asked)
    good = whole and all(line.status == OK for line in lines if line.step in asked)
    status = OK if good else OFF if whole else "incomplete"
    return {"scale": scale, "says": HONEST[scale], "status": status, "stopped": why, "steps": rows,
            "checks": [asdict(line) for line in lines], "commands": notes}  # fmt: skip


def render(found: dict[str, Any]) -> str:
    """Return reproduce.md."""
    lines = [f"# Reproduction: {found['status']}", "", found["says"], ""]
    if found["stopped"]:
        lines += [f"Not finished: {found['stopped']}.", ""]
    lines += ["| step | state | seconds | cost |", "|---|---|---|---|"]
    lines += [f"| {row['step']} | {row['state']} | {row['seconds']} | {row['cost']} |" for row in found["steps"]]
    lines += ["", "| step | check | expected | obtained | tolerance | |", "|---|---|---|---|---|---|"]
    columns = ("step", "name", "expected", "obtained", "tolerance", "status")
    lines += [f"| {' | '.join(row[column] for column in columns)} |" for row in found["checks"]]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run one of the two commands; return the exit status."""
    match sys.argv[1:]:
        case ["plan", scale, step]:
            print(plan(scale, step))
            return 0
        case ["check", scale, folder, steps, *why]:
            found = report(scale, Path(folder), steps.split(","), "".join(why))
            text = render(found)
            for name, content in (("reproduce.json", json.dumps(found, indent=2) + "\n"), ("reproduce.md", text)):
                partial = Path(folder) / f".{name}.partial"
                partial.write_text(content, encoding="utf-8")
                partial.replace(Path(folder) / name)
            print(f"\n{text}\n{folder}/reproduce.md, {folder}/reproduce.json")
            return 0 if found["status"] == OK else 1
    print("usage: reproduce_table.py plan SCALE STEP | check SCALE FOLDER STEPS [WHY]", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
