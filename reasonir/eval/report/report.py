"""`reasonir-eval report`, top to bottom: one self-contained HTML page of a results folder, or of two side by side.

Rankings (`runs.py`, `query_items.py`, `ranking_sections.py`) and answers to questions (`answered.py`,
`question_items.py`, `accuracy_sections.py`) become one `Page` (`page.py`), which is written with its tables here.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasonir.core.command import to_yaml
from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, lock_folder, write_json, write_text
from reasonir.core.run_folder import build_manifest
from reasonir.eval.rag.records import ACCURACY_FILE
from reasonir.eval.rag.table import render as render_accuracy
from reasonir.eval.report.accuracy_sections import answers_page, notes_on_folder
from reasonir.eval.report.answered import read_answered
from reasonir.eval.report.config import ReportConfig
from reasonir.eval.report.page import Page, fill_page
from reasonir.eval.report.provenance import plural
from reasonir.eval.report.query_items import collect_queries
from reasonir.eval.report.question_items import Limits, pack_questions
from reasonir.eval.report.ranking_sections import input_files, rankings_page, report_table
from reasonir.eval.report.runs import open_runs, share
from reasonir.eval.scores import tables
from reasonir.eval.scores.results import RESULTS_FILE

# Tells a report's config.yaml from another command's.
OWN_OPTION = "snippet_characters:"


@dataclass(frozen=True, slots=True)
class Report:
    """A page and what goes with it. tables: content of the files beside it, by name. inputs: files read. printed,
    notes, summary: what the command says at its end."""

    page: Page
    tables: Mapping[str, str]
    inputs: Sequence[Path]
    counts: Mapping[str, int]
    printed: str
    notes: Sequence[str]
    summary: str


def write_report(config: ReportConfig) -> None:
    """Read the results, make the page, write it with its tables, options and manifest."""
    begun = time.time()
    output = Path(config.output)
    characters = Limits(config.snippet_characters, config.query_characters, config.answer_characters)
    answers = _holds_answers(config.results)
    if answers and config.data.dir is not None:
        raise UserError(f"data.dir={config.data.dir}: a folder of answers holds its own texts; leave data.dir away")
    # Before the results are read, so that a page which cannot be written is refused at once.
    beside = claim_output(output)
    if answers:
        report = _report_on_answers(Path(config.results[0]), config.names[0] if config.names else None, characters)
    else:
        report = _report_on_rankings(config.results, config.names, config.data.dir, characters)
    html = fill_page(report.page)

    # The manifest goes first and comes back last: a page without one is not finished.
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(output.parent, wait=True)
    manifest = output.parent / f"{beside}{MANIFEST_FILE}"
    manifest.unlink(missing_ok=True)
    texts = {f"{beside}{CONFIG_FILE}": to_yaml(config), output.name: html}
    texts |= {f"{beside}{name}": content for name, content in report.tables.items() if config.tables}
    for name, content in texts.items():
        write_text(output.parent / name, content)
    size = len(html.encode())
    write_json(manifest, build_manifest(report.inputs, dict(report.counts), begun, page_bytes=size))
    lock.release()

    print(f"\n{report.printed}")
    for note in report.notes:
        print(f"note: {note}")
    print(f"{output}: {report.summary}, {size / 1e6:.1f} MB")


def _holds_answers(folders: Sequence[str]) -> bool:
    """Say whether the folder holds answers to questions, instead of rankings.

    Raises:
        UserError: two folders of which one holds answers.
    """
    answers = [folder for folder in folders if _is_answers(Path(folder))]
    if answers and len(folders) > 1:
        others = [folder for folder in folders if folder not in answers]
        why = f"and {others[0]} does not" if others else "as does the other"
        raise UserError(
            f"results: {answers[0]} holds answers to questions, {why}; a page of answers shows one folder: "
            f"results=[{answers[0]}]"
        )
    return bool(answers)


def _is_answers(folder: Path) -> bool:
    return (folder / ACCURACY_FILE).is_file() and not (folder / RESULTS_FILE).is_file()


def claim_output(output: Path) -> str:
    """Refuse a page that cannot be written; return what goes before the names of the files beside it.

    A folder that another command filled keeps its config.yaml, manifest.json and results.md: ours get the page's name.
    """
    for path in (output, *output.parents):
        if path.exists() and path.is_dir() == (path == output):
            kind = "folder; name a file in it" if path == output else "file; name a folder"
            raise UserError(f"output={output}: {path} is a {kind}")
    stored = output.parent / CONFIG_FILE
    foreign = stored.exists() and OWN_OPTION not in stored.read_text(encoding="utf-8", errors="replace")
    return f"{output.stem}." if foreign else ""


def _report_on_rankings(
    folders: Sequence[str], names: Sequence[str] | None, data_dir: str | None, characters: Limits
) -> Report:
    """Make the page of one folder of rankings or of two."""
    shared = share(open_runs(folders, names))
    table = report_table(shared)
    items = collect_queries(
        shared, data_dir=data_dir, snippet_characters=characters.passage, query_characters=characters.question
    )
    page = rankings_page(shared, table, items)
    markdown = tables.to_markdown(table)
    counts = {"tasks": len(shared.queries), "queries": shared.query_count, "documents": len(items.passages.ids)}
    summary = f"{shared.query_count:,} queries of {plural(len(shared.queries), 'task')}"
    beside = {"results.md": markdown, "results.tex": tables.to_latex(table)}
    # The table that is printed says its own notes.
    notes = [note for note in page.notes if note not in table.notes]
    return Report(page, beside, input_files(shared), counts, markdown, notes, summary)


def _report_on_answers(folder: Path, name: str | None, characters: Limits) -> Report:
    """Make the page of a folder that mmlu, gpqa or multiple_choice wrote; None takes the title of accuracy.json."""
    found = read_answered(folder)
    if name is not None:
        found.report["title"] = name
    packed, limits, notes = pack_questions(found, characters)
    notes = [*notes_on_folder(found), *notes]
    # Stripped, as `cut_middle` strips before it counts.
    lengths = [len(row["text"].strip()) for row in found.rows()]
    longer = sum(length > limits.answer for length in lengths)
    page = answers_page(found, packed=packed, limits=limits, answers_cut=longer, notes=notes)
    counts = {"questions": len(found.questions), "answers": len(lengths), "passages": len(found.passages)}
    counts["answers_cut"] = longer
    lost = f" ({longer:,} cut to {limits.answer:,} characters)" if longer else ""
    summary = f"{plural(len(found.questions), 'question')}, {plural(len(lengths), 'answer')}{lost}"
    beside = {"results.md": render_accuracy(found.report, details=True)}
    return Report(page, beside, found.files(), counts, render_accuracy(found.report, details=False), notes, summary)
