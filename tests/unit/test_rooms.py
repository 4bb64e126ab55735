"""The house rules, read off the syntax trees: who imports whom, where heavy imports live, sizes, docs."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "reasonir"

FLOOR = {"row_formats", "schema", "settings", "distributed", "ahead"}
SECOND = {
    "templates", "runs", "lexical", "aspects", "corpora", "hub", "trec", "world", "world_lexicon", "generator",
    "prompting", "rewritten", "text_files",
}  # fmt: skip
MODEL = {"model"}
STAGES = {"train", "eval", "synth"}
ROOMS = FLOOR | SECOND | MODEL | STAGES

# Imports between rooms of one tier. Everything else goes down only.
SAME_TIER = {
    ("schema", "row_formats"),
    ("settings", "schema"),
    ("settings", "distributed"),
    ("distributed", "schema"),
    ("world", "world_lexicon"),
    ("world", "corpora"),
    ("corpora", "aspects"),
    ("corpora", "trec"),
    ("hub", "corpora"),
    ("prompting", "generator"),
    ("corpora", "rewritten"),
    ("corpora", "text_files"),
}

# Heavy package: the files that may import it.
HEAVY = {
    "pytrec_eval": {"eval/metrics.py"},
    "wandb": {"runs.py"},
    "huggingface_hub": {"train/push.py", "train/sizes.py"},
    "deepspeed": {"train/engine.py"},
    "accelerate": {"train/engine.py"},
    "peft": {"model/adapters.py"},
    "vllm": {"generator/vllm_engine.py", "model/serving.py"},
    "openai": {"generator/client.py", "generator/endpoint.py", "generator/batch.py"},
    "tenacity": {"generator/client.py", "generator/endpoint.py", "generator/batch.py"},
    "hydra": {"settings.py", "train/cli.py", "eval/cli.py", "synth/cli.py"},
    "omegaconf": {"settings.py", "train/cli.py", "eval/cli.py", "synth/cli.py"},
    "matplotlib": {"eval/scaling_plot.py", "synth/report.py"},
    "faiss": {"eval/rag/faiss_index.py"},
    "mteb": {"eval/mteb_adapter.py"},
    "sentence_transformers": set(),
}
# What cli.py, config.py and all they import at module level must do without, so that --help is instant.
SLOW_TO_IMPORT = {"torch", "transformers", "numpy", "datasets", "pyarrow", "scipy", "hydra", "wandb", "bm25s",
                  "openai", "vllm"}  # fmt: skip

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400


def imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Yield (dotted name, whether at module level) of everything that a module imports.

    `from x import y` counts as x.y, so that `from reasonir import runs` is reasonir.core.run_folder.
    """
    inside = {id(node) for f in ast.walk(tree) if isinstance(f, FUNCTION) for node in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in inside
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield f"{base}.{alias.name}", id(node) not in inside


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def room_of(name: str) -> str | None:
    """Return the room of a dotted reasonir name or of a file's path; None for anything else."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    if parts[0] == "reasonir":
        parts = parts[1:]
    return parts[0] if parts and parts[0] in ROOMS else None


def tier(room: str) -> int:
    return next(i for i, rooms in enumerate((FLOOR, SECOND, MODEL, STAGES)) if room in rooms)


def check_who_imports_whom(file: str, tree: ast.Module) -> Iterator[str]:
    own = room_of(file)
    for name, _ in imports(tree):
        if name.startswith("."):
            yield f"{file}: relative import {name}"
        if not name.startswith("reasonir."):
            continue
        other = room_of(name)
        if "cli" in name.split(".") and not file.endswith("__main__.py"):
            yield f"{file}: imports a cli ({name})"
        if other is None or own is None or other == own or (own, other) in SAME_TIER:
            continue
        if own == "synth" and other == "model" and file not in ("synth/negatives.py", "synth/filters.py"):
            yield f"{file}: synth uses the model in negatives.py and filters.py only"
        if tier(other) >= tier(own):
            yield f"{file}: {own} may not import {other}"


def check_heavy_imports(file: str, tree: ast.Module) -> Iterator[str]:
    for name, _ in imports(tree):
        package = name.split(".")[0]
        constant_only = name == "omegaconf.MISSING" and file.endswith("config.py")
        if package in HEAVY and file not in HEAVY[package] and not constant_only:
            yield f"{file}: {package} lives in {' and '.join(sorted(HEAVY[package])) or 'no room'}"


def check_light_command_line(file: str, tree: ast.Module) -> Iterator[str]:
    # schema.py and settings.py are what every command line imports at once.
    if not file.endswith(("cli.py", "config.py")) and file not in ("schema.py", "settings.py", "__init__.py"):
        return
    for name, at_module_level in imports(tree):
        if at_module_level and name.split(".")[0] in SLOW_TO_IMPORT:
            yield f"{file}: imports {name} at module level, --help waits for it"


def check_signatures(file: str, tree: ast.Module) -> Iterator[str]:
    for function in (node for node in ast.walk(tree) if isinstance(node, FUNCTION)):
        spec = function.args
        named = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
        bare = [a.arg for a in named if a.annotation is None and a.arg not in ("self", "cls")]
        if bare:
            yield f"{file}:{function.lineno}: {function.name} has unannotated arguments {', '.join(bare)}"
        if function.returns is None and function.name != "__init__":
            yield f"{file}:{function.lineno}: {function.name} has no return annotation"


def check_docstrings(file: str, tree: ast.Module) -> Iterator[str]:
    empty = not tree.body or file == "__init__.py"  # the package says its version only
    if not empty and not file.endswith("__main__.py") and not ast.get_docstring(tree):
        yield f"{file}: no module docstring"

    def walk(body: list[ast.stmt]) -> Iterator[str]:
        for node in body:
            public = isinstance(node, (*FUNCTION, ast.ClassDef)) and not node.name.startswith("_")
            if not public:
                continue
            if not ast.get_docstring(node):
                yield f"{file}:{node.lineno}: {node.name} has no docstring"
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body)

    yield from walk(tree.body)


def check_sizes(file: str, tree: ast.Module) -> Iterator[str]:
    for function in (node for node in ast.walk(tree) if isinstance(node, FUNCTION)):
        lines = function.end_lineno - function.lineno + 1
        if ast.get_docstring(function):
            lines -= function.body[0].end_lineno - function.body[0].lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"{file}:{function.lineno}: {function.name} has {lines} lines"


def check_names(file: str, tree: ast.Module) -> Iterator[str]:
    if Path(file).stem in ("utils", "util", "helpers", "common", "misc"):
        yield f"{file}: name a room by what it does"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Handler", "Base", "Helper")):
            yield f"{file}:{node.lineno}: class {node.name} says too little"


CHECKS: list[Callable[[str, ast.Module], Iterator[str]]] = [
    check_who_imports_whom,
    check_heavy_imports,
    check_light_command_line,
    check_signatures,
    check_docstrings,
    check_sizes,
    check_names,
]
FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
TREES = {file: ast.parse((PACKAGE / file).read_text(encoding="utf-8")) for file in FILES}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_package_keeps_the_rule(check: Callable[[str, ast.Module], Iterator[str]]) -> None:
    assert len(FILES) > 25
    broken = [problem for file in FILES for problem in check(file, TREES[file])]
    assert not broken, "\n".join(broken)


def test_every_file_belongs_to_a_room_and_is_short() -> None:
    assert [file for file in FILES if file != "__init__.py" and room_of(file) is None] == []
    lengths = {file: (PACKAGE / file).read_text(encoding="utf-8").count("\n") for file in FILES}
    assert {file: lines for file, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


LONG = "def f() -> None:\n    '''Doc.'''\n" + "    pass\n" * (MAX_FUNCTION_LINES + 1)

BAD = [
    (check_who_imports_whom, "schema.py", "from reasonir.core.run_folder import RunFolder"),
    (check_who_imports_whom, "schema.py", "from reasonir import runs"),
    (check_who_imports_whom, "schema.py", "def f():\n    import reasonir.model.encoder"),
    (check_who_imports_whom, "settings.py", "from reasonir.model.templates import Template"),
    (check_who_imports_whom, "runs.py", "from reasonir.data.collections import Query"),
    (check_who_imports_whom, "lexical.py", "from reasonir.model import Encoder"),
    (check_who_imports_whom, "model/encoder.py", "from reasonir.train.objectives.infonce import info_nce"),
    (check_who_imports_whom, "train/loop.py", "from reasonir.eval.scores.metrics import score_run"),
    (check_who_imports_whom, "train/loop.py", "from reasonir import eval"),
    (check_who_imports_whom, "eval/retrieve.py", "from reasonir.train.config import TrainConfig"),
    (check_who_imports_whom, "train/loop.py", "from reasonir.train.cli import main"),
    (check_who_imports_whom, "train/loop.py", "from reasonir.train import cli"),
    (check_who_imports_whom, "train/loop.py", "from . import data"),
    (check_who_imports_whom, "synth/pipeline.py", "from reasonir.model import Encoder"),
    (check_heavy_imports, "eval/retrieve.py", "import pytrec_eval"),
    (check_heavy_imports, "train/loop.py", "def f():\n    import wandb"),
    (check_heavy_imports, "train/step.py", "from accelerate import Accelerator"),
    (check_heavy_imports, "train/loop.py", "import deepspeed.ops"),
    (check_heavy_imports, "eval/rerank.py", "from vllm import LLM"),
    (check_heavy_imports, "train/config.py", "from omegaconf import OmegaConf"),
    (check_heavy_imports, "train/loop.py", "from omegaconf import MISSING"),
    (check_heavy_imports, "runs.py", "import hydra"),
    (check_light_command_line, "train/cli.py", "import torch.nn"),
    (check_light_command_line, "eval/config.py", "from transformers import AutoModel"),
    (check_light_command_line, "settings.py", "if True:\n    import numpy"),
    (check_signatures, "a.py", "def f(x) -> int: ..."),
    (check_signatures, "a.py", "def f(x: int): ..."),
    (check_signatures, "a.py", "def f(*parts, y: int) -> int: ..."),
    (check_signatures, "a.py", "class A:\n    async def f(self, *, x) -> int: ..."),
    (check_docstrings, "a.py", "x = 1"),
    (check_docstrings, "a.py", "'''Module.'''\ndef f() -> int: ..."),
    (check_docstrings, "a.py", "'''Module.'''\nclass A: ..."),
    (check_docstrings, "a.py", "'''Module.'''\nclass A:\n    '''A.'''\n    def f(self) -> int: ..."),
    (check_sizes, "a.py", LONG),
    (check_names, "utils.py", ""),
    (check_names, "a.py", "class BatchManager: ..."),
]

GOOD = [
    (check_who_imports_whom, "runs.py", "from reasonir import __version__, settings"),
    (check_who_imports_whom, "model/tiny.py", "from reasonir.model.templates import Template"),
    (check_who_imports_whom, "train/__main__.py", "from reasonir.train.cli import main"),
    (check_who_imports_whom, "eval/search.py", "from reasonir.retrieval.bm25 import tie_ranks"),
    (check_who_imports_whom, "synth/negatives.py", "from reasonir.model import Encoder"),
    (check_heavy_imports, "eval/metrics.py", "import pytrec_eval"),
    (check_heavy_imports, "eval/config.py", "from omegaconf import MISSING"),
    (check_light_command_line, "train/cli.py", "def f():\n    import torch"),
    (check_docstrings, "__init__.py", ""),
    (check_sizes, "a.py", LONG.replace("    pass\n", "", 2)),
]


@pytest.mark.parametrize(("check", "file", "source"), BAD)
def test_rule_can_fail(check: Callable[[str, ast.Module], Iterator[str]], file: str, source: str) -> None:
    assert list(check(file, ast.parse(source)))


@pytest.mark.parametrize(("check", "file", "source"), GOOD)
def test_rule_lets_pass_what_it_should(
    check: Callable[[str, ast.Module], Iterator[str]], file: str, source: str
) -> None:
    assert list(check(file, ast.parse(source))) == []
