"""Prints Markdown tables of what a pytest run took: python -m tests.kit.durations JUNIT.xml [ROWS]."""

import sys
import xml.etree.ElementTree as Tree
from collections import Counter
from pathlib import Path


def durations(file: Path) -> list[tuple[str, str, float]]:
    """Return (file, test, seconds with set-up and tear-down) of every test that ran."""
    cases = Tree.parse(file).iter("testcase")
    ran = (case for case in cases if case.find("skipped") is None)
    return [(_file_of(case.attrib["classname"]), case.attrib["name"], float(case.attrib["time"])) for case in ran]


def _file_of(classname: str) -> str:
    return "/".join(part for part in classname.split(".") if part[:1].islower()) + ".py"


def main() -> None:
    found, rows = durations(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 60
    seconds: Counter[str] = Counter()
    for file, _, taken in found:
        seconds[file] += taken
    tests = Counter(file for file, _, _ in found)
    print(f"{len(found)} tests, {sum(seconds.values()):.0f} s\n\n| file | tests | seconds |\n|---|---|---|")
    for file, taken in seconds.most_common():
        print(f"| {file} | {tests[file]} | {taken:.1f} |")
    print(f"\nThe slowest {rows}:\n\n| test | seconds |\n|---|---|")
    for file, name, taken in sorted(found, key=lambda row: -row[2])[:rows]:
        print(f"| {file}::{name.replace('|', '¦')} | {taken:.1f} |")


if __name__ == "__main__":
    main()
