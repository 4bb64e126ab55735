"""`reasonir-eval card`: what was measured of a model, written into the card that training left beside its weights.

Invariant: every score in a card was computed with the weights beside it.
"""

import json
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE
from reasonir.eval.benchmarks.config import CardConfig
from reasonir.eval.scores.results import macro_average, read_results
from reasonir.model.card import CARD_FILE, CONTAMINATION, EVALUATION, replace_section
from reasonir.model.folders import weights_digest
from reasonir.text.markdown import markdown_table


def write_measurements(config: CardConfig) -> None:
    """Replace the card's evaluation table, its statement on contamination, or both."""
    card = Path(config.model.path) / CARD_FILE
    if not card.is_file():
        raise UserError(f"{card}: no such file; model.path=FOLDER is one that training wrote")
    bodies = {}
    if config.results:
        bodies[EVALUATION] = describe_results(config)
    if config.contamination is not None:
        bodies[CONTAMINATION] = describe_overlap(Path(config.contamination))
    for name, body in bodies.items():
        replace_section(card, name, body)
        print(f"{name}\n\n{body}\n")
    print(f"written into {card}")


def describe_results(config: CardConfig) -> str:
    """Return a table of every task and folder, each with the options that its scores depend on.

    Raises:
        UserError: a folder that is no finished evaluation, one of other weights, or one without the metric.
    """
    weights = weights_digest(Path(config.model.path))
    rows, columns = [], dict.fromkeys(["average"])
    for folder in map(Path, config.results):
        tasks = {name: task.mean for name, task in read_results(folder).items()}
        measured = read_json(folder / MANIFEST_FILE).get("model_fingerprint") or ""
        if not measured.startswith(weights):
            raise UserError(
                f"results={folder} were not measured with the weights of model.path={config.model.path}; leave it out"
            )
        if any(config.metric not in mean for mean in tasks.values()):
            raise UserError(
                f"metric={config.metric} is not in results={folder}; there are {', '.join(next(iter(tasks.values())))}"
            )
        columns |= dict.fromkeys(tasks)
        rows.append((describe_options(folder), {**tasks, "average": macro_average(tasks)}))
    cells = [
        [label, *(f"{100 * means[name][config.metric]:.1f}" if name in means else "" for name in columns)]
        for label, means in rows
    ]
    return f"{config.metric}, in points.\n\n{markdown_table(['evaluation', *columns], cells, compact=True)}"


def describe_options(folder: Path) -> str:
    """Return the options of an evaluation that its scores depend on."""
    import yaml

    options = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    data = options["data"]
    parts = [data.get("hub") or Path(data["dir"]).name]
    names = ("retriever", "queries", "split", "long", "instruction", "query_max_tokens", "document_max_tokens")
    parts += [f"{name}={options[name]}" for name in names if name in options]
    return ", ".join(parts)


def describe_overlap(folder: Path) -> str:
    """Return the statement of a contamination report, with the evaluation and the training files it is about."""
    report = read_json(folder / "contamination.json")
    files = ", ".join(f"{Path(source).name} ({rows:,} rows)" for source, rows in report["rows"]["by_source"].items())
    return f"{report['statement']}\n\nCompared: {Path(report['evaluation']).name} with {files}."


def read_json(file: Path) -> Any:
    """Read a file that a finished command left.

    Raises:
        UserError: it is not there, or not ours.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; is its command finished?") from error
    except ValueError as error:
        raise UserError(f"{file}: broken JSON: {error}") from error
