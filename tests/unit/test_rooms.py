"""The house rules, read off the syntax trees: who imports whom, where heavy imports live, sizes, docs."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "reasonir"

# Folders of the package, each tier above the one before it. A file imports from its own folder and from tiers below.
TIERS: list[set[str]] = [
    {"core"},
    {"core/tracking", "text", "data"},
    {"llm", "model/trunk"},
    {"llm/engines", "model"},
    {"retrieval"},
    {"retrieval/ann"},
    {"train/objectives", "train/data", "train/memory", "train/parallel", "synth/gates", "quickstart", "eval/scores"},
    {"train/dev", "synth/recipes", "eval/benchmarks"},
    {"synth/corpus", "synth/report", "eval/rewrite", "eval/rerank", "eval/rag", "eval/audit"},
    {"eval/rag/datastore", "eval/report"},
    {"train", "synth", "eval"},
]
STAGES = {"train", "eval", "synth", "quickstart"}
# The files of a stage's top folder that its sub-folders may import: its options.
OPTIONS_OF_A_STAGE = {"train/config.py", "synth/config.py"}
# llm/__init__.py is the door of the room: open_generator() chooses an engine.
DOORS = {("llm/__init__.py", "llm/engines")}
MAX_FILES = 12

# The files that a command's function lies in: they resolve its options and hand plain arguments down.
MAIN_PATHS = {
    "eval/audit/compare.py", "eval/audit/contamination.py", "eval/benchmarks/evaluate.py",
    "eval/benchmarks/fuse.py", "eval/benchmarks/score.py", "eval/rag/answer_questions.py",
    "eval/rag/datastore/build.py", "eval/rag/datastore/encode.py", "eval/report/report.py", "eval/rerank/rerank.py",
    "eval/rewrite/rewrite.py", "eval/rewrite/scaling.py", "retrieval/ann/build.py", "synth/corpus/filter.py",
    "synth/corpus/mine.py", "synth/corpus/split.py", "synth/merge.py", "synth/pipeline.py", "train/export.py",
    "train/loop.py", "train/prepare.py",
}  # fmt: skip
# Other functions that take a whole configuration, each with the reason.
TAKES_A_CONFIGURATION = {
    ("llm/__init__.py", "open_generator"): "the door of its room: every stage opens its language model here",
    ("llm/engines/batch.py", "__init__"): "an engine is made of the group `generator`",
    ("llm/engines/endpoint.py", "__init__"): "an engine is made of the group `generator`",
    ("llm/engines/vllm.py", "__init__"): "an engine is made of the group `generator`",
    ("retrieval/ranking.py", "open_searcher"): "the door of its room: evaluation and RAG open their retriever here",
    ("train/data/sources.py", "list_sources"): "sources are what the group `data` names",
    ("train/memory/plan.py", "plan_figures"): "the plan is a page about the whole configuration",
}
MOST_TAKE_A_CONFIGURATION = 40

# Heavy package: the files that may import it.
HEAVY = {
    "pytrec_eval": {"retrieval/metrics.py"},
    "wandb": {"core/tracking/trackers.py"},
    "huggingface_hub": {"train/card.py", "train/memory/sizes.py"},
    "deepspeed": {"train/parallel/engine.py"},
    "accelerate": {"model/trunk/stored.py"},
    "peft": {"model/adapters.py"},
    "vllm": {"llm/engines/vllm.py", "model/serving.py"},
    "openai": {"llm/engines/client.py", "llm/engines/endpoint.py", "llm/engines/batch.py"},
    "tenacity": {"llm/engines/client.py", "llm/engines/endpoint.py", "llm/engines/batch.py"},
    "hydra": {"core/command.py", "train/cli.py", "eval/cli.py", "synth/cli.py"},
    "omegaconf": {"core/command.py", "core/help.py", "train/cli.py", "eval/cli.py", "synth/cli.py"},
    "matplotlib": {"core/tracking/curves.py", "eval/rewrite/plot.py", "synth/report/plots.py"},
    "faiss": {"retrieval/ann/shards.py"},
    "mteb": {"eval/benchmarks/mteb_adapter.py"},
    "sentence_transformers": set(),
}
# What cli.py, config.py and all they import at module level must do without, so that --help is instant.
SLOW_TO_IMPORT = {"torch", "transformers", "numpy", "datasets", "pyarrow", "scipy", "hydra", "wandb", "bm25s",
                  "openai", "vllm"}  # fmt: skip

# What every command line imports before it prints its help.
AT_EVERY_START = ("core/command.py", "core/errors.py", "core/fields.py", "core/help.py")

MAX_FUNCTION_LINES = 60


@cache
def nodes(tree: ast.Module) -> list[ast.AST]:
    """Return all nodes of a module: a dozen rules walk the same trees."""
    return list(ast.walk(tree))


@cache
def imports(tree: ast.Module) -> list[tuple[str, bool]]:
    return list(find_imports(tree))


def find_imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Yield (dotted name, whether at module level) of everything that a module imports.

    `from x import y` counts as x.y, so that `from reasonir import runs` is reasonir.core.run_folder.
    """
    inside = {id(node) for f in nodes(tree) if isinstance(f, FUNCTION) for node in ast.walk(f)}
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in inside
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield f"{base}.{alias.name}", id(node) not in inside


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def folder_of(file: str) -> str:
    return file.rpartition("/")[0]


def file_of(name: str) -> str | None:
    """Return the file that a dotted name of the package means; None for other packages and for the package itself."""
    parts = name.split(".")
    if parts[0] != "reasonir":
        return None
    for length in range(len(parts), 1, -1):
        path = "/".join(parts[1:length])
        if f"{path}.py" in TREES:
            return f"{path}.py"
        if f"{path}/__init__.py" in TREES:
            return f"{path}/__init__.py"
    return None


def tier(folder: str) -> int:
    return next(i for i, folders in enumerate(TIERS) if folder in folders)


def stage_of(folder: str) -> str | None:
    top = folder.partition("/")[0]
    return top if top in STAGES else None


def check_who_imports_whom(file: str, tree: ast.Module) -> Iterator[str]:
    own = folder_of(file)
    for name, _ in imports(tree):
        if name.startswith("."):
            yield f"{file}: relative import {name}"
        other_file = file_of(name)
        if other_file is None or own == "":
            continue
        other = folder_of(other_file)
        if Path(other_file).name == "cli.py" and Path(file).name != "__main__.py":
            yield f"{file}: imports a cli ({name})"
        if other == own or (file, other) in DOORS:
            continue
        stages = {stage_of(own), stage_of(other)} - {None}
        if len(stages) == 2:
            yield f"{file}: stages meet in files, not in imports ({name})"
        elif other_file in OPTIONS_OF_A_STAGE and own.startswith(f"{other}/"):
            continue
        elif tier(other) >= tier(own):
            yield f"{file}: {own} may not import {other} ({name})"


def check_heavy_imports(file: str, tree: ast.Module) -> Iterator[str]:
    for name, _ in imports(tree):
        package = name.split(".")[0]
        constant_only = name == "omegaconf.MISSING" and file.endswith("config.py")
        if package in HEAVY and file not in HEAVY[package] and not constant_only:
            yield f"{file}: {package} lives in {' and '.join(sorted(HEAVY[package])) or 'no room'}"


def check_light_command_line(file: str, tree: ast.Module) -> Iterator[str]:
    if not file.endswith(("cli.py", "config.py")) and file not in (*AT_EVERY_START, "__init__.py"):
        return
    for name, at_module_level in imports(tree):
        if at_module_level and name.split(".")[0] in SLOW_TO_IMPORT:
            yield f"{file}: imports {name} at module level, --help waits for it"


def check_signatures(file: str, tree: ast.Module) -> Iterator[str]:
    for function in (node for node in nodes(tree) if isinstance(node, FUNCTION)):
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
    for function in (node for node in nodes(tree) if isinstance(node, FUNCTION)):
        lines = function.end_lineno - function.lineno + 1
        if ast.get_docstring(function):
            lines -= function.body[0].end_lineno - function.body[0].lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"{file}:{function.lineno}: {function.name} has {lines} lines"


def check_names(file: str, tree: ast.Module) -> Iterator[str]:
    if Path(file).stem in ("utils", "util", "helpers", "common", "misc"):
        yield f"{file}: name a room by what it does"
    for node in nodes(tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Handler", "Base", "Helper")):
            yield f"{file}:{node.lineno}: class {node.name} says too little"


def configuration_classes() -> set[str]:
    """Return the names of the option classes: the dataclasses of all config.py files and of those beside them."""
    return {
        node.name
        for file, tree in TREES.items()
        if file.endswith("config.py")
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
    }


def arguments_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    spec = function.args
    return [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]


def takes_configuration(function: ast.FunctionDef | ast.AsyncFunctionDef, classes: set[str]) -> list[str]:
    """Return the names of the parameters that are annotated with a class of options."""
    return [
        argument.arg
        for argument in arguments_of(function)
        if argument.annotation is not None
        and any(isinstance(node, ast.Name) and node.id in classes for node in ast.walk(argument.annotation))
    ]


def check_options_stop_at_the_door(file: str, tree: ast.Module) -> Iterator[str]:
    if file.endswith(("config.py", "cli.py")) or file in MAIN_PATHS:
        return
    for function in (node for node in nodes(tree) if isinstance(node, FUNCTION)):
        if takes_configuration(function, OPTIONS) and (file, function.name) not in TAKES_A_CONFIGURATION:
            yield f"{file}:{function.lineno}: {function.name} takes a whole configuration; give it what it reads"


def check_options_stay_as_resolved(file: str, tree: ast.Module) -> Iterator[str]:
    for function in (node for node in nodes(tree) if isinstance(node, FUNCTION)):
        # In the model room `config` is transformers' own description of a model.
        named = {*takes_configuration(function, OPTIONS), *(() if file.startswith("model/") else ("config",))}
        for node in ast.walk(function):
            if not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)):
                continue
            owner = node.value
            while isinstance(owner, ast.Attribute):
                owner = owner.value
            if isinstance(owner, ast.Name) and owner.id in named:
                yield f"{file}:{node.lineno}: assigns {ast.unparse(node)}; dataclasses.replace makes a resolved copy"


CHECKS: list[Callable[[str, ast.Module], Iterator[str]]] = [
    check_who_imports_whom,
    check_heavy_imports,
    check_light_command_line,
    check_signatures,
    check_docstrings,
    check_sizes,
    check_names,
    check_options_stop_at_the_door,
    check_options_stay_as_resolved,
]
FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
TEXTS = {file: (PACKAGE / file).read_text(encoding="utf-8") for file in FILES}
TREES = {file: ast.parse(text) for file, text in TEXTS.items()}
OPTIONS = configuration_classes()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_package_keeps_the_rule(check: Callable[[str, ast.Module], Iterator[str]]) -> None:
    assert len(FILES) > 25
    broken = [problem for file in FILES for problem in check(file, TREES[file])]
    assert not broken, "\n".join(broken)


def test_every_folder_has_a_tier_and_few_files() -> None:
    folders = Counter(folder_of(file) for file in FILES if "/" in file)
    assert set(folders) == set().union(*TIERS)
    assert {folder: files for folder, files in folders.items() if files > MAX_FILES} == {}


def test_no_prefix_is_shared_by_three_files_of_a_folder() -> None:
    prefixes = Counter((folder_of(file), Path(file).stem.partition("_")[0]) for file in FILES if "/" in file)
    assert {key: files for key, files in prefixes.items() if files >= 3 and key[1]} == {}


def test_modules_import_in_no_circle() -> None:
    graph = {
        file: {other for name, _ in imports(TREES[file]) if (other := file_of(name)) not in (None, file)}
        for file in FILES
    }
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())
    list(TopologicalSorter(graph).static_order())  # raises CycleError and names the circle


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for file, tree in TREES.items():
        yield from ((file, node) for node in nodes(tree) if isinstance(node, FUNCTION))


def test_few_functions_take_a_whole_configuration() -> None:
    takers = [
        f"{file}: {function.name}"
        for file, function in functions()
        if not file.endswith(("config.py", "cli.py")) and takes_configuration(function, OPTIONS)
    ]
    assert 10 < len(takers) <= MOST_TAKE_A_CONFIGURATION, "\n".join(takers)
    allowed = {(file, function.name) for file, function in functions() if takes_configuration(function, OPTIONS)}
    assert set(TAKES_A_CONFIGURATION) <= allowed, "an exception that no function needs any more"


def documents_its_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether an `Args:` block of the docstring names every parameter."""
    text = ast.get_docstring(function) or ""
    named = [argument.arg for argument in arguments_of(function) if argument.arg not in ("self", "cls")]
    return "Args:" in text and all(re.search(rf"^\s*\**{name}\b.*:", text, re.MULTILINE) for name in named)


def test_public_functions_document_their_parameters() -> None:
    public = [
        (file, function)
        for file, function in functions()
        if not function.name.startswith("_")
        and len([a for a in arguments_of(function) if a.arg not in ("self", "cls")]) >= 3
        and ast.get_docstring(function)
    ]
    bare = [f"{file}: {function.name}" for file, function in public if not documents_its_parameters(function)]
    assert len(public) > 50
    assert len(bare) <= 0.2 * len(public), f"{len(bare)} of {len(public)}\n" + "\n".join(bare)


def test_comments_say_why() -> None:
    lines = [line.strip() for text in TEXTS.values() for line in text.splitlines()]
    comments = [line for line in lines if line.startswith("# ")]
    assert len(comments) >= 0.03 * len(lines), f"{len(comments)} of {len(lines)}"


LONG = "def f() -> None:\n    '''Doc.'''\n" + "    pass\n" * (MAX_FUNCTION_LINES + 1)

BAD = [
    (check_who_imports_whom, "core/files.py", "from reasonir.data.rows import read_rows"),
    (check_who_imports_whom, "core/files.py", "from reasonir.data import rows"),
    (check_who_imports_whom, "core/files.py", "def f():\n    import reasonir.model.encoder"),
    (check_who_imports_whom, "data/rows.py", "from reasonir.text.words import words"),
    (check_who_imports_whom, "retrieval/top_k.py", "from reasonir.retrieval.ann.search import Index"),
    (check_who_imports_whom, "model/encoder.py", "from reasonir.train.config import TrainConfig"),
    (check_who_imports_whom, "model/trunk/linear.py", "from reasonir.model.encoder import Encoder"),
    (check_who_imports_whom, "train/loop.py", "from reasonir.eval.scores.results import Results"),
    (check_who_imports_whom, "train/loop.py", "from reasonir import eval"),
    (check_who_imports_whom, "train/data/batches.py", "from reasonir.train.loop import train"),
    (check_who_imports_whom, "train/data/batches.py", "from reasonir.train.parallel.ranks import start"),
    (check_who_imports_whom, "retrieval/metrics.py", "from reasonir.eval.benchmarks.config import BrightConfig"),
    (check_who_imports_whom, "eval/rerank/rerank.py", "from reasonir.eval.rewrite.config import RewritingConfig"),
    (check_who_imports_whom, "eval/benchmarks/evaluate.py", "from reasonir.train.config import TrainConfig"),
    (check_who_imports_whom, "train/loop.py", "from reasonir.train.cli import main"),
    (check_who_imports_whom, "train/loop.py", "from reasonir.train import cli"),
    (check_who_imports_whom, "train/loop.py", "from . import data"),
    (check_who_imports_whom, "synth/gates/text.py", "from reasonir.synth.recipes.query import ask"),
    (check_heavy_imports, "eval/retrieve.py", "import pytrec_eval"),
    (check_heavy_imports, "train/loop.py", "def f():\n    import wandb"),
    (check_heavy_imports, "train/step.py", "from accelerate import Accelerator"),
    (check_heavy_imports, "train/loop.py", "import deepspeed.ops"),
    (check_heavy_imports, "eval/rerank.py", "from vllm import LLM"),
    (check_heavy_imports, "train/config.py", "from omegaconf import OmegaConf"),
    (check_heavy_imports, "train/loop.py", "from omegaconf import MISSING"),
    (check_heavy_imports, "core/run_folder.py", "import hydra"),
    (check_light_command_line, "train/cli.py", "import torch.nn"),
    (check_light_command_line, "eval/config.py", "from transformers import AutoModel"),
    (check_light_command_line, "core/command.py", "if True:\n    import numpy"),
    (check_signatures, "a.py", "def f(x) -> int: ..."),
    (check_signatures, "a.py", "def f(x: int): ..."),
    (check_signatures, "a.py", "def f(*parts, y: int) -> int: ..."),
    (check_signatures, "a.py", "class A:\n    async def f(self, *, x) -> int: ..."),
    (check_docstrings, "a.py", "x = 1"),
    (check_docstrings, "a.py", "'''Module.'''\ndef f() -> int: ..."),
    (check_docstrings, "a.py", "'''Module.'''\nclass A: ..."),
    (check_docstrings, "a.py", "'''Module.'''\nclass A:\n    '''A.'''\n    def f(self) -> int: ..."),
    (check_sizes, "a.py", LONG),
    (check_options_stop_at_the_door, "train/step.py", "def f(config: TrainConfig) -> int: ..."),
    (
        check_options_stop_at_the_door,
        "train/step.py",
        "class A:\n    def f(self, *, c: TrainConfig | None) -> int: ...",
    ),
    (check_options_stay_as_resolved, "train/loop.py", "def f(config: int) -> None:\n    config.data.resume = True"),
    (check_options_stay_as_resolved, "train/loop.py", "def f(o: TrainConfig) -> None:\n    o.steps += 1"),
    (check_names, "utils.py", ""),
    (check_names, "a.py", "class BatchManager: ..."),
]

GOOD = [
    (check_who_imports_whom, "core/run_folder.py", "from reasonir import __version__"),
    (check_who_imports_whom, "core/run_folder.py", "from reasonir.core.command import to_yaml"),
    (check_who_imports_whom, "model/tiny.py", "from reasonir.model.templates import Template"),
    (check_who_imports_whom, "train/__main__.py", "from reasonir.train.cli import main"),
    (check_who_imports_whom, "train/data/sources.py", "from reasonir.train.config import SourceConfig"),
    (check_who_imports_whom, "llm/__init__.py", "from reasonir.llm.engines.batch import BatchGenerator"),
    (check_who_imports_whom, "synth/corpus/mine.py", "from reasonir.model import Encoder"),
    (check_heavy_imports, "retrieval/metrics.py", "import pytrec_eval"),
    (check_heavy_imports, "eval/config.py", "from omegaconf import MISSING"),
    (check_light_command_line, "train/cli.py", "def f():\n    import torch"),
    (check_docstrings, "__init__.py", ""),
    (check_options_stop_at_the_door, "train/config.py", "def f(config: TrainConfig) -> int: ..."),
    (check_options_stop_at_the_door, "train/step.py", "def f(config: PretrainedConfig) -> int: ..."),
    (check_options_stay_as_resolved, "train/loop.py", "def f(config: TrainConfig) -> None:\n    steps = config.steps"),
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
