"""`reasonir-eval <task>`: one configuration and one function per task. Heavy imports come after --help."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from reasonir.eval import config as options
from reasonir.eval import judgement_config as judgement
from reasonir.eval.card_config import CardConfig
from reasonir.eval.fusion_config import FuseConfig
from reasonir.eval.rag import rag_config as rag
from reasonir.eval.rag.datastore_config import DatastoreConfig, IndexConfig
from reasonir.eval.report_config import ReportConfig
from reasonir.eval.rerank_config import RerankConfig
from reasonir.eval.rewrite_config import RewritingConfig, ScalingConfig
from reasonir.settings import run_command

TASKS: dict[str, tuple[type, str]] = {
    "bright": (options.BrightConfig, "retrieve.evaluate_bright"),
    "beir": (options.BeirConfig, "retrieve.evaluate_beir"),
    "score": (options.ScoreConfig, "score.score_files"),
    "fuse": (FuseConfig, "fuse.fuse"),
    "rerank": (RerankConfig, "rerank.rerank_run"),
    "mmlu": (rag.MmluConfig, "rag.reading.answer_questions"),
    "gpqa": (rag.GpqaConfig, "rag.reading.answer_questions"),
    "multiple_choice": (rag.ChoicesConfig, "rag.reading.answer_questions"),
    "encode": (options.EncodeConfig, "encode.encode_file"),
    "datastore": (DatastoreConfig, "rag.datastore.build_datastore"),
    "index": (IndexConfig, "rag.index.build_index"),
    "compare": (judgement.CompareConfig, "compare.compare_results"),
    "card": (CardConfig, "card.write_measurements"),
    "contamination": (judgement.ContaminationConfig, "contamination.measure_contamination"),
    "report": (ReportConfig, "report.write_report"),
    "rewrite": (RewritingConfig, "rewrite.rewrite_queries"),
    "scaling": (ScalingConfig, "scaling.measure_scaling"),
}
"""Task: its options, and the function (of this package) that carries it out, imported only then."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the task named by the first argument with Hydra overrides from the rest."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("--help", "-h"):
        print(_overview())
        sys.exit(0 if arguments else 2)
    task = arguments[0]
    if task not in TASKS:
        print(f"reasonir-eval: error: unknown task {task!r}; one of {', '.join(TASKS)}", file=sys.stderr)
        sys.exit(2)
    schema, place = TASKS[task]

    def run(config: Any) -> None:
        module, function = place.rsplit(".", 1)
        getattr(import_module(f"reasonir.eval.{module}"), function)(config)

    run_command(f"reasonir-eval {task}", f"eval/{task}", schema, run, arguments[1:])


def _overview() -> str:
    lines, width = ["usage: reasonir-eval <task> [option=value ...]", "", "tasks:"], max(map(len, TASKS))
    lines += [f"  {name:{width}}  {(schema.__doc__ or '').strip()}" for name, (schema, _) in TASKS.items()]
    return "\n".join([*lines, "", "reasonir-eval <task> --help lists a task's options."])
