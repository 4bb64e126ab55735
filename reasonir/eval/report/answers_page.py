"""The page of a folder of answers, top to bottom: `write_answers_page` is what `reasonir-eval report` does with one.

Invariant: every figure is accuracy.json's own; only how answers were read is counted here. `answered.py` reads the
folder and cuts the texts, `page_file.py` fills and writes the page.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE
from reasonir.eval.rag.records import ACCURACY_FILE, PASSAGES_FILE
from reasonir.eval.rag.table import NAMES, part_rows, warnings_of
from reasonir.eval.rag.table import render as render_table
from reasonir.eval.report.answered import FILES, Answered, Limits, chunk_texts, list_questions, read_folder
from reasonir.eval.report.config import ReportConfig
from reasonir.eval.report.page_file import claim_output, fill_page, pack, publish
from reasonir.eval.report.runs import command_line, duration, flatten, model_of, plural, read_manifest, read_mapping
from reasonir.eval.scores.results import RESULTS_FILE

LARGEST_PAGE_BYTES = 40_000_000
SHELL_BYTES = 300_000
"""Room for the page without its data: style, script, tables."""
SHORTEST = Limits(60, 60, 200)
"""Texts are cut no further, whatever the size."""


def holds_answers(folders: Sequence[str]) -> bool:
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


def write_answers_page(config: ReportConfig) -> None:
    """Read the answers, cut their texts so that the page stays small, write the page and its table."""
    begun = time.time()
    if config.data.dir is not None:
        raise UserError(f"data.dir={config.data.dir}: a folder of answers holds its own texts; leave data.dir away")
    output, beside = claim_output(config)
    found = read_folder(Path(config.results[0]))
    if config.names is not None:
        found.report["title"] = config.names[0]
    packed, limits, size_notes = pack_answers(found, config)
    manifest, finished = read_manifest(found.folder)
    notes = [*notes_on_folder(found, bool(manifest)), *size_notes]
    facts, options = describe_run(found, manifest, finished)
    values = {
        **figures(found),
        "notes": [*notes, *notes_on_answers(found)],
        "facts": facts,
        "options": options,
        "limits": limits,
    }
    values["answers_cut"] = sum(len(row["text"].strip()) > limits.answer for row in found.rows())
    page = fill_page("rag.html", "rag.js", packed, values)
    written = {"results.md": render_table(found.report, details=True)} if config.tables else {}
    inputs = [path for name in (*FILES, CONFIG_FILE, MANIFEST_FILE) if (path := found.folder / name).is_file()]
    counts = {"questions": len(found.questions), "answers": sum(1 for _ in found.rows())}
    counts |= {"passages": len(found.passages), "answers_cut": values["answers_cut"]}
    publish(config, output, beside, page, written, inputs, counts, begun)
    print(f"\n{render_table(found.report, details=False)}")
    for note in notes:
        print(f"note: {note}")
    asked = f"{plural(counts['questions'], 'question')}, {plural(counts['answers'], 'answer')}"
    cut = f" ({counts['answers_cut']:,} cut to {limits.answer:,} characters)" if counts["answers_cut"] else ""
    print(f"{output}: {asked}{cut}, {len(page.encode()) / 1e6:.1f} MB")


def pack_answers(found: Answered, config: ReportConfig) -> tuple[dict[str, str], Limits, list[str]]:
    """Return the data packed, by the id of its element; the limits texts were cut to; a note where the size made them.

    Texts of chunk n stand under "texts-n".
    """
    asked = Limits(config.snippet_characters, config.query_characters, config.answer_characters)
    limits = asked
    listed = pack(list_questions(found, limits))
    while True:
        chunks = [pack(chunk) for chunk in chunk_texts(found, limits)]
        room = LARGEST_PAGE_BYTES - SHELL_BYTES - len(listed)
        size = sum(map(len, chunks))
        if size <= room or limits == (smaller := _smaller(limits, 0.9 * room / size)):
            break
        limits = smaller
    notes = []
    if limits != asked:
        notes.append(
            f"To keep the page below {LARGEST_PAGE_BYTES / 1e6:.0f} MB, answers are cut to {limits.answer:,} "
            f"characters, passages to {limits.passage:,} and search queries to {limits.question:,} (asked for: "
            f"{asked.answer:,}, {asked.passage:,}, {asked.question:,}). The whole texts are in {found.folder}."
        )
    return {"data": listed, **{f"texts-{number}": chunk for number, chunk in enumerate(chunks)}}, limits, notes


def _smaller(limits: Limits, factor: float) -> Limits:
    """Return limits shrunk by a factor, but no further than SHORTEST; a limit below that stays."""
    shrunk = {
        name: min(value, max(int(value * max(factor, 0.1)), getattr(SHORTEST, name)))
        for name in Limits.__slots__
        for value in [getattr(limits, name)]
    }
    return replace(limits, **shrunk)


def notes_on_folder(found: Answered, finished: bool) -> list[str]:
    """Say what the folder lacks."""
    notes = [] if finished else [f"{found.folder} has no manifest.json: its command is not finished, or runs again."]
    texts = sum(name not in found.passages for row in found.rows() for name in row["passages"])
    if texts:
        notes.append(f"{texts:,} times an answer names a passage whose text is not in {PASSAGES_FILE}.")
    return notes


def notes_on_answers(found: Answered) -> list[str]:
    """Say what makes the figures less than they seem, as the table of results.md does."""
    return [
        f"{NAMES[condition].capitalize()}: {warning}."
        for condition in found.conditions
        for warning in warnings_of(found.report["counts"].get(condition, {}))
    ]


def describe_run(
    found: Answered, manifest: Mapping[str, Any], finished: str
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return what was asked of whom, and every option, as pairs of a name and a value."""
    options = read_mapping(found.folder / CONFIG_FILE)
    generator, data = options.get("generator") or {}, options.get("data") or {}
    searched = options.get("datastore") is not None
    retriever = options.get("retriever") if searched else None
    pairs = [
        ("Questions", data.get("dir") or data.get("file") or (f"hub {data['hub']}" if data.get("hub") else None)),
        ("Split", options.get("split")),
        ("Subjects", ", ".join(map(str, options.get("subjects") or []))),
        ("Reader", generator.get("model")),
        ("Temperature", generator.get("temperature")),
        ("Samples", options.get("samples")),
        ("Answer form", options.get("prompt_form")),
        ("Passages", options.get("datastore") if searched else "none: closed book" if options else None),
        ("Retriever", retriever),
        ("Model", model_of(options) if retriever in ("dense", "hybrid") else None),
        ("Searched with", options.get("queries") if searched else None),
        ("Instruction", options.get("instruction") if searched else None),
        ("Passages read", f"the first {options['top']}" if searched and "top" in options else None),
        ("Finished", finished),
        ("Took", duration(manifest.get("wall_seconds"))),
        ("Command", command_line(manifest.get("command"))),
        ("Folder", found.folder),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "")], flatten(options)


def figures(found: Answered) -> dict[str, Any]:
    """Return what stands above the list: accuracies, differences, hit rates, parts, stages."""
    report = found.report
    entries = [report["conditions"][name] for name in found.conditions]
    several = any(len(entry.get("samples", [])) > 1 for entry in entries)
    return {
        "title": report["title"],
        "confidence": f"{report['confidence']:.0%}",
        "question_count": len(found.questions),
        "conditions": [NAMES[name] for name in found.conditions],
        "entries": entries,
        "differences": [
            {**move, "words": f"{NAMES[move['b']]} − {NAMES[move['a']]}"} for move in report["differences"]
        ],
        "test": "paired randomisation test" if several else "exact McNemar test",
        "several": several,
        "retrieval": report["retrieval"],
        "groups": part_rows(entries, "groups"),
        "subjects": part_rows(entries, "subjects"),
        "stages": stage_rows(found),
    }


def stage_rows(found: Answered) -> list[tuple[str, bool, list[tuple[int, float]]]]:
    """Return (stage, whether it read a letter, counts and shares by condition), the most frequent first."""
    counts = Counter((row["stage"], bool(row["letter"]), row["condition"]) for row in found.rows())
    totals = Counter(row["condition"] for row in found.rows())
    sums: Counter[tuple[str, bool]] = Counter()
    for (stage, read, _), count in counts.items():
        sums[stage, read] += count
    ordered = sorted(sums, key=lambda key: (not key[1], -sums[key], key[0]))
    return [
        (
            stage.replace("_", " "),
            read,
            [(n := counts[stage, read, name], n / max(totals[name], 1)) for name in found.conditions],
        )
        for stage, read in ordered
    ]
