"""Counts of a checkout's package: lines and comments by folder, functions, their documentation, whole configurations.

    python scripts/count_package.py [CHECKOUT]

A line of comment stands alone and begins with "# ". A function's lines are those without its docstring. A public
function with three or more parameters counts as documented where an `Args:` block names each of them.
"""

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

PACKAGE = (Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parents[1]) / "reasonir"
TREES = {path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
FUNCTIONS = [
    (file, node)
    for file, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
]
OPTIONS = {
    node.name
    for tree in TREES.values()
    for node in tree.body
    if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
}


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    first, lines = function.body[0], (function.end_lineno or 0) - function.lineno + 1
    return lines - ((first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(function) else 0)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """Return the parameters of a function but `self` and `cls`."""
    spec = function.args
    return [a for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs) if a.arg not in ("self", "cls")]


def takes_options(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a parameter is annotated with a class of options."""
    marks = [a.annotation for a in parameters(function) if a.annotation is not None]
    return any(isinstance(node, ast.Name) and node.id in OPTIONS for mark in marks for node in ast.walk(mark))


def documents(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether an `Args:` block names every parameter."""
    text = ast.get_docstring(function) or ""
    return "Args:" in text and all(re.search(rf"^\s*\**{a.arg}\b.*:", text, re.MULTILINE) for a in parameters(function))


def main() -> None:
    """Print the counts."""
    # 1 by folder
    folders: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for file in TREES:
        lines = (PACKAGE / file).read_text(encoding="utf-8").splitlines()
        counted = (1, len(lines), sum(line.strip().startswith("# ") for line in lines))
        for folder in (str(file.parent), "all"):
            folders[folder] = [a + b for a, b in zip(folders[folder], counted, strict=True)]
    print("| folder | files | lines | comments |\n|---|---:|---:|---:|")
    for folder, (files, lines, comments) in sorted(folders.items()):
        print(f"| `{folder}` | {files} | {lines:,} | {comments / max(lines, 1):.1%} |")
    # 2 functions
    lengths = sorted((length(f), f"{file}: {f.name}") for file, f in FUNCTIONS)
    print(f"functions: {len(lengths):,}, median {median(n for n, _ in lengths):g} lines, longest {lengths[-1]}")
    takers = [file for file, f in FUNCTIONS if takes_options(f) and not str(file).endswith(("config.py", "cli.py"))]
    print(f"functions that take a whole configuration, outside config.py and cli.py: {len(takers)}")
    public = [
        f for _, f in FUNCTIONS if not f.name.startswith("_") and len(parameters(f)) >= 3 and ast.get_docstring(f)
    ]
    print(f"documented parameters: {sum(map(documents, public))} of {len(public)} public functions with three or more")


if __name__ == "__main__":
    main()
