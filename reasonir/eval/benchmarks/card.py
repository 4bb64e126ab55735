"""`reasonir-eval card`: writes measurements of a model into the card that training left beside its weights.

Invariant: every score in a card was computed with the weights beside it.
"""

import json
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, read_mapping
from reasonir.eval.scores.results import macro_average, read_results
from reasonir.model.card import CARD_FILE, CONTAMINATION, EVALUATION, replace_section
from reasonir.model.folders import weights_digest
from reasonir.text.markdown import markdown_table


def write_measurements(model: Path, results: list[str], metric: str, contamination: Path | None) -> None:
    """Replace the card's table of results, its statement on contamination, or both.

    Args:
        model: A folder that training wrote.
        results: Folders of results with its weights; [] leaves the table as it is.
        metric: Which metric of the results is shown.
        contamination: Folder of a measured overlap; None leaves the statement as it is.
    """
    card = model / CARD_FILE
    if not card.is_file():
        raise UserError(f"{card}: no such file; model.path=FOLDER is one that training wrote")
    bodies = {}
    if results:
        bodies[EVALUATION] = _results_table(model, results, metric)
    if contamination is not None:
        bodies[CONTAMINATION] = _overlap_statement(contamination)
    for name, body in bodies.items():
        replace_section(card, name, body)
        print(f"{name}\n\n{body}\n")
    print(f"written into {card}")


def _results_table(model: Path, results: list[str], metric: str) -> str:
    """Return a table of every folder of results and task, each folder with the options that its scores depend on.

    Args:
        model: The model's folder.
        results: Folders of results.
        metric: Which metric of the results is shown.
    Raises:
        UserError: a folder that is no finished evaluation, one of other weights, or one without the metric.
    """
    weights = weights_digest(model)
    # The average stands first: the tasks of several folders differ, the average is in all.
    rows, columns = [], dict.fromkeys(["average"])
    for folder in map(Path, results):
        tasks = {name: task.mean for name, task in read_results(folder).items()}
        # An encoder's fingerprint begins with the digest of its weights; BM25's results have none and are refused.
        measured = _read_json(folder / MANIFEST_FILE).get("model_fingerprint") or ""
        if not measured.startswith(weights):
            raise UserError(f"results={folder} were not measured with the weights of model.path={model}; leave it out")
        if any(metric not in mean for mean in tasks.values()):
            names = ", ".join(next(iter(tasks.values())))
            raise UserError(f"metric={metric} is not in results={folder}; there are {names}")
        columns |= dict.fromkeys(tasks)
        rows.append((_scoring_options(folder), {**tasks, "average": macro_average(tasks)}))
    cells = [
        [label, *(f"{100 * means[name][metric]:.1f}" if name in means else "" for name in columns)]
        for label, means in rows
    ]
    return f"{metric}, in points.\n\n{markdown_table(['evaluation', *columns], cells, compact=True)}"


def _scoring_options(folder: Path) -> str:
    """Return the options of an evaluation on which its scores depend, in one line."""
    options = read_mapping(folder / CONFIG_FILE)
    data = options["data"]
    parts = [data.get("hub") or Path(data["dir"]).name]
    # Options that change scores. Paths and limits of memory stay out of a public card.
    names = ("retriever", "queries", "split", "long", "instruction", "query_max_tokens", "document_max_tokens")
    parts += [f"{name}={options[name]}" for name in names if name in options]
    return ", ".join(parts)


def _overlap_statement(folder: Path) -> str:
    """Return the statement of a contamination report, with the names of the evaluation and the training files."""
    report = _read_json(folder / "contamination.json")
    files = ", ".join(f"{Path(source).name} ({rows:,} rows)" for source, rows in report["rows"]["by_source"].items())
    return f"{report['statement']}\n\nCompared: {Path(report['evaluation']).name} with {files}."


def _read_json(file: Path) -> Any:
    """Read a file that a finished command left; refuse one that is missing or broken."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; is its command finished?") from error
    except ValueError as error:
        raise UserError(f"{file}: broken JSON: {error}") from error
