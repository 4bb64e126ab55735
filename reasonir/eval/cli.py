"""`reasonir-eval <task>`: one configuration and one function per task. Heavy imports come after --help."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from reasonir.eval import config as options
from reasonir.settings import run_command


def _bright(config: options.BrightConfig) -> None:
    from reasonir.eval.retrieve import evaluate_bright

    evaluate_bright(config)


def _beir(config: options.BeirConfig) -> None:
    from reasonir.eval.retrieve import evaluate_beir

    evaluate_beir(config)


def _score(config: options.ScoreConfig) -> None:
    from reasonir.eval.score import score_files

    score_files(config)


def _encode(config: options.EncodeConfig) -> None:
    from reasonir.eval.encode import encode_file

    encode_file(config)


TASKS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "bright": (options.BrightConfig, _bright),
    "beir": (options.BeirConfig, _beir),
    "score": (options.ScoreConfig, _score),
    "encode": (options.EncodeConfig, _encode),
}


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
    schema, run = TASKS[task]
    run_command(f"reasonir-eval {task}", f"eval/{task}", schema, run, arguments[1:])


def _overview() -> str:
    lines = ["usage: reasonir-eval <task> [option=value ...]", "", "tasks:"]
    lines += [f"  {name:8} {(schema.__doc__ or '').strip()}" for name, (schema, _) in TASKS.items()]
    return "\n".join([*lines, "", "reasonir-eval <task> --help lists a task's options."])
