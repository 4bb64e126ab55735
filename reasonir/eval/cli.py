"""`reasonir-eval <task>`: one configuration and one function per task. Heavy imports come after --help."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reasonir.core.command import run_command
from reasonir.core.help import show_page
from reasonir.eval.audit.config import CompareConfig, ContaminationConfig
from reasonir.eval.benchmarks.config import BeirConfig, BrightConfig, CardConfig, FuseConfig, ScoreConfig
from reasonir.eval.rag.config import ChoicesConfig, GpqaConfig, MmluConfig
from reasonir.eval.rag.datastore.config import DatastoreConfig
from reasonir.eval.report.config import ReportConfig
from reasonir.eval.rerank.config import RerankConfig
from reasonir.eval.rewrite.config import RewritingConfig, ScalingConfig
from reasonir.retrieval.ann.config import IndexConfig
from reasonir.retrieval.config import EncodeConfig

# Functions, not names of modules, stand in the table below, so that mypy and a search for callers find each call. Their
# imports stand inside: --help and a mistake in an option must not wait seconds for torch.


def _bright(config: BrightConfig) -> None:
    from reasonir.eval.benchmarks.evaluate import evaluate_bright

    evaluate_bright(config)


def _beir(config: BeirConfig) -> None:
    from reasonir.eval.benchmarks.evaluate import evaluate_beir

    evaluate_beir(config)


def _score(config: ScoreConfig) -> None:
    from reasonir.eval.benchmarks.score import score_files

    score_files(config)


def _fuse(config: FuseConfig) -> None:
    from reasonir.eval.benchmarks.fuse import fuse

    fuse(config)


def _rerank(config: RerankConfig) -> None:
    from reasonir.eval.rerank.rerank import rerank_run

    rerank_run(config)


# Any: three classes of options differ in their `data` alone.
def _answer_questions(config: Any) -> None:
    from reasonir.eval.rag.answer_questions import answer_questions

    answer_questions(config)


def _encode(config: EncodeConfig) -> None:
    from reasonir.eval.rag.datastore.encode import encode_file

    encode_file(config)


def _datastore(config: DatastoreConfig) -> None:
    from reasonir.eval.rag.datastore.build import build_datastore

    build_datastore(config)


def _index(config: IndexConfig) -> None:
    from reasonir.retrieval.ann.build import build_index

    build_index(config)


def _compare(config: CompareConfig) -> None:
    from reasonir.eval.audit.compare import compare_results

    compare_results(config)


def _card(config: CardConfig) -> None:
    from reasonir.eval.benchmarks.card import write_measurements

    contamination = None if config.contamination is None else Path(config.contamination)
    write_measurements(Path(config.model.path), config.results, config.metric, contamination)


def _contamination(config: ContaminationConfig) -> None:
    from reasonir.eval.audit.contamination import measure_contamination

    measure_contamination(config)


def _report(config: ReportConfig) -> None:
    from reasonir.eval.report.report import write_report

    write_report(config)


def _rewrite(config: RewritingConfig) -> None:
    from reasonir.eval.rewrite.rewrite import rewrite_queries

    rewrite_queries(config)


def _scaling(config: ScalingConfig) -> None:
    from reasonir.eval.rewrite.scaling import measure_scaling

    measure_scaling(config)


TASKS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "bright": (BrightConfig, _bright),
    "beir": (BeirConfig, _beir),
    "score": (ScoreConfig, _score),
    "fuse": (FuseConfig, _fuse),
    "rerank": (RerankConfig, _rerank),
    "mmlu": (MmluConfig, _answer_questions),
    "gpqa": (GpqaConfig, _answer_questions),
    "multiple_choice": (ChoicesConfig, _answer_questions),
    "encode": (EncodeConfig, _encode),
    "datastore": (DatastoreConfig, _datastore),
    "index": (IndexConfig, _index),
    "compare": (CompareConfig, _compare),
    "card": (CardConfig, _card),
    "contamination": (ContaminationConfig, _contamination),
    "report": (ReportConfig, _report),
    "rewrite": (RewritingConfig, _rewrite),
    "scaling": (ScalingConfig, _scaling),
}
"""Task: its options, and the function that carries it out."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the task named by the first argument with Hydra overrides from the rest."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # 2 where nothing was asked for, so that a script which forgot the task fails.
    if not arguments or arguments[0] in ("--help", "-h"):
        show_page(_overview())
        sys.exit(0 if arguments else 2)
    task = arguments[0]
    if task not in TASKS:
        print(f"reasonir-eval: error: unknown task {task!r}; one of {', '.join(TASKS)}", file=sys.stderr)
        sys.exit(2)
    schema, run = TASKS[task]
    run_command(f"reasonir-eval {task}", f"eval/{task}", schema, run, arguments[1:])


def _overview() -> str:
    # The docstrings of the option classes, so that this page and each task's own --help say the same.
    lines, width = ["usage: reasonir-eval <task> [option=value ...]", "", "tasks:"], max(map(len, TASKS))
    lines += [f"  {name:{width}}  {(schema.__doc__ or '').strip()}" for name, (schema, _) in TASKS.items()]
    return "\n".join([*lines, "", "reasonir-eval <task> --help lists a task's options."])
