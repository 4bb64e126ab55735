"""Rules of the tests themselves: what they share lies in tests/kit."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
MAYBE = re.compile(r"\b(?:from|import)[\s\\]+tests\b(?!\.kit\.\w)|\btests\.[\w.]*(?:test_|conftest)")
"""What a file has that imports a test file; only such a file is parsed, which takes seconds for all of them."""


def imported(file: Path) -> set[str]:
    """Return the modules that a file imports, names of a `from` import included; none where no test can be among."""
    found: set[str] = set()
    text = file.read_text(encoding="utf-8")
    if not MAYBE.search(text):
        return found
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def is_test_file(module: str) -> bool:
    parts = module.split(".")
    return parts[0] == "tests" and any(part.startswith("test_") or part == "conftest" for part in parts)


def test_no_test_file_is_imported() -> None:
    files = sorted(TESTS.rglob("*.py"))
    assert len(files) > 100
    assert is_test_file("tests.e2e.test_x") and is_test_file("tests.unit.conftest") and not is_test_file("tests.kit")
    for line in ("import os, tests.e2e.test_x", "from tests.e2e import (\n    test_x)", "from tests import conftest"):
        assert MAYBE.search(line)
    assert not MAYBE.search("from tests.kit.texts import SENTENCES")
    found = {str(file.relative_to(TESTS)): [m for m in imported(file) if is_test_file(m)] for file in files}
    assert {file: modules for file, modules in found.items() if modules} == {}
