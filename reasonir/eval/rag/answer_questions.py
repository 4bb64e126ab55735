"""Does a retriever make a reader better? Top to bottom: `answer_questions` is the main path of mmlu, gpqa and others.

The same questions are asked closed book, with what was retrieved in front, and with the gold passages where the data
names them. Files: questions.jsonl, retrieved.jsonl, passages.jsonl (what was put before the reader), answers.jsonl,
accuracy.json, results.md. Invariant: all of them follow from completions.jsonl and the data, so that the same command
goes on after any kill and ends with the same bytes.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import MANIFEST_FILE, read_jsonl, write_json, write_jsonl
from reasonir.core.processes import world_size
from reasonir.core.run_folder import RunFolder
from reasonir.eval.rag.accuracy import hit_rates, judge
from reasonir.eval.rag.config import (
    MAY_DIFFER,
    QUESTION,
    REASONING,
    WITH_OPTIONS,
    ChoicesConfig,
    GpqaConfig,
    MmluConfig,
    RagConfig,
    describe,
)
from reasonir.eval.rag.questions import read_choices, read_gpqa, read_mmlu
from reasonir.eval.rag.read_answer import read_answer
from reasonir.eval.rag.reader import VARIABLES, Answer, Reader, count_answers
from reasonir.eval.rag.records import (
    ACCURACY_FILE,
    ANSWERS_FILE,
    CLOSED,
    GOLD,
    PASSAGES_FILE,
    QUESTIONS_FILE,
    RETRIEVED,
    RETRIEVED_FILE,
    Question,
    with_options,
)
from reasonir.eval.rag.store import Store, open_store
from reasonir.eval.rag.table import render
from reasonir.llm.prompts import Prompt, describe_prompts, keep_prompts, load_prompt, save_prompts
from reasonir.llm.refusals import without_thoughts
from reasonir.retrieval.sharding import give_back_gpu

DEEPEST = 10
"""Passages that are ranked at least, for the hit rates."""


def answer_questions(config: RagConfig) -> None:
    """Ask the reader closed book and with passages, write every answer, judge, compare."""
    refuse_ranks()
    questions = read_questions(config)
    prompt = load_prompt(f"rag_{config.prompt_form}", config.prompts, VARIABLES, "text", retried=False)
    rewritten = read_search_texts(config, questions)
    store = open_store(config)
    folder = open_folder(config, prompt)
    reader = Reader.open(config, prompt, folder.path)
    folder.start()
    save_prompts(folder.path, [prompt])
    seconds, begun = {}, time.monotonic()
    conditions: dict[str, dict[str, list[str]]] = {CLOSED: {question.id: [] for question in questions}}
    retrieval, texts = None, {}
    if store is not None:
        thoughts = reader.ask(questions, conditions, {}) if config.queries == REASONING else []
        searched = rewritten or search_texts(config, questions, thoughts)
        retrieval, given = retrieve(config, store, questions, searched, folder.path)
        conditions |= given
        texts = store.look_up({name for passages in given.values() for ids in passages.values() for name in ids})
        seconds["retrieval"] = round(time.monotonic() - begun, 3)
    begun = time.monotonic()
    answers = reader.ask(questions, conditions, texts)
    seconds["reading"] = round(time.monotonic() - begun, 3)
    report = judge(questions, answers, config.confidence, config.seed)
    report |= {"title": title_of(config), "retrieval": retrieval, "counts": count_answers(answers)}
    write_files(folder.path, questions, answers, texts, report)
    counts = {"questions": len(questions), **report["counts"], **(store.counts if store else {})}
    folder.finish(inputs=inputs_of(config, store), counts=counts, seconds=seconds, prompts=describe_prompts([prompt]))
    print(f"\n{render(report, details=False)}\nresults: {folder.path}")


def refuse_ranks() -> None:
    """Refuse torchrun: one reader answers."""
    if world_size() > 1:
        raise UserError("this task runs in one process; encode the datastore under torchrun (reasonir-eval encode)")


def read_questions(config: RagConfig) -> list[Question]:
    """Read the questions that the options name."""
    if isinstance(config, MmluConfig):
        return read_mmlu(config.data.dir or f"hub:{config.data.hub}", config.split, config.subjects)
    if isinstance(config, GpqaConfig):
        return read_gpqa(config.data.file or f"hub:{config.data.hub}", config.option_seed)
    assert isinstance(config, ChoicesConfig)
    return read_choices(config.data.file, config.option_seed, config.gold_field)


def open_folder(config: RagConfig, prompt: Prompt) -> RunFolder:
    """Claim the output folder; nothing is written yet."""
    if config.output_dir is None:
        config.output_dir = str(Path("outputs") / "eval" / f"{describe(config)}-{Path(config.generator.model).name}")
    folder = RunFolder(config.output_dir, config, resume=True, ignored=MAY_DIFFER)
    keep_prompts(folder.path, [prompt])
    return folder


def read_search_texts(config: RagConfig, questions: Sequence[Question]) -> dict[str, str]:
    """Return the search texts of a rewriter's file; empty where none is named.

    Raises:
        UserError: a question without one, or an empty one.
    """
    if not config.queries.endswith((".jsonl", ".jsonl.gz")):
        return {}
    rows = {str(row.get("id")): (line, row.get("query")) for line, row in read_jsonl(config.queries)}
    for question in questions:
        line, text = rows.get(question.id, (0, None))
        where = f"{config.queries}:{line}" if line else config.queries
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}: question {question.id!r} needs a `query` that is not empty")
    return {question.id: str(rows[question.id][1]) for question in questions}


def search_texts(config: RagConfig, questions: Sequence[Question], thoughts: Sequence[Answer]) -> dict[str, str]:
    """Return what is searched with for each question: itself, its options too, or the reader's reasoning."""
    if config.queries == QUESTION:
        return {question.id: question.text for question in questions}
    texts = {question.id: with_options(question.text, question.options) for question in questions}
    if config.queries == WITH_OPTIONS:
        return texts
    known = {question.id: question for question in questions}
    reasoning = {a.id: without_answer(a.text, known[a.id]) for a in thoughts if a.sample == 1}
    empty = sum(not text for text in reasoning.values())
    if empty:
        print(f"{empty} questions are searched with themselves: their closed-book answers hold no reasoning")
    return {name: reasoning[name] or texts[name] for name in texts}


def without_answer(text: str, question: Question) -> str:
    """Return a closed-book answer without the lines by which, read alone, it would choose an option."""
    lines = without_thoughts(text).split("\n")
    return "\n".join(line for line in lines if not read_answer(line, question).letter).strip()


def retrieve(
    config: RagConfig, store: Store, questions: Sequence[Question], searched: Mapping[str, str], folder: Path
) -> tuple[dict[str, Any] | None, dict[str, dict[str, list[str]]]]:
    """Search for every question and write retrieved.jsonl.

    Returns:
        Hit rates (None where no question names gold), and the passages to read under each further condition.
    """
    run = store.search(config, searched, max(config.top, DEEPEST))
    give_back_gpu()
    ranked = {question.id: list(run.get(question.id, {})) for question in questions}
    found = store.find_gold({name for question in questions for name in question.gold})
    gold = {q.id: list(dict.fromkeys(p for name in q.gold for p in found.get(name, []))) for q in questions if q.gold}
    lost = sum(not passages for passages in gold.values())
    gold = {name: passages for name, passages in gold.items() if passages}
    rows = [
        {"id": name, "query": searched[name], "gold": gold.get(name, []),
         "hits": [{"id": hit, "score": run[name][hit]} for hit in hits]}
        for name, hits in ranked.items()
    ]  # fmt: skip
    write_jsonl(folder / RETRIEVED_FILE, rows)
    given = {RETRIEVED: {name: hits[: config.top] for name, hits in ranked.items()}}
    if lost:
        print(f"{lost} questions name gold that the datastore does not hold; they have no hit rate")
        store.counts["questions_without_gold_in_datastore"] = lost
    if not gold:
        return None, given
    if config.gold:
        given[GOLD] = {name: gold_first(ranked[name], passages) for name, passages in gold.items()}
    return hit_rates(ranked, gold, config.top, config.confidence), given


def gold_first(ranked: Sequence[str], gold: Sequence[str]) -> list[str]:
    """Return the gold passages: those that were found in the order found, then the rest as they stand."""
    found = [name for name in ranked if name in set(gold)]
    return [*found, *(name for name in gold if name not in set(found))]


def title_of(config: RagConfig) -> str:
    """Return what a table calls this run."""
    reader = Path(config.generator.model).name
    if config.datastore is None:
        return f"{describe(config)}: {reader}, closed book"
    dense = config.retriever.value in ("dense", "hybrid")
    retriever = Path(str(config.model.path)).name if dense else config.retriever.value
    return f"{describe(config)}: {reader}, top {config.top} of {retriever}"


def write_files(
    folder: Path,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    texts: Mapping[str, str],
    report: dict[str, Any],
) -> None:
    """Write questions, passages, answers and figures."""
    rows = ({name: getattr(question, name) for name in Question.__slots__} for question in questions)
    write_jsonl(folder / QUESTIONS_FILE, list(rows))
    write_jsonl(folder / PASSAGES_FILE, [{"id": name, "content": texts[name]} for name in sorted(texts)])
    write_jsonl(folder / ANSWERS_FILE, [answer.row() for answer in answers])
    write_json(folder / ACCURACY_FILE, report)
    (folder / "results.md").write_text(render(report, details=True), encoding="utf-8")


def inputs_of(config: RagConfig, store: Store | None) -> list[Path]:
    """Return the local files of questions, rewritten queries and passages; an encoded folder's manifest stands for it.

    The manifest holds the checksums of embeddings and passages, which would take minutes to hash again.
    """
    named = [getattr(config.data, "dir", None), getattr(config.data, "file", None)]  # type: ignore[attr-defined]
    named += [config.queries if config.queries.endswith((".jsonl", ".jsonl.gz")) else None]
    named += [config.datastore if store is None or store.encoded is None else store.encoded.folder / MANIFEST_FILE]
    return [Path(name) for name in named if name is not None and Path(name).exists()]
