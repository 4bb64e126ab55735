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
from reasonir.core.files import write_json, write_jsonl, write_text
from reasonir.core.processes import world_size
from reasonir.core.run_folder import RunFolder
from reasonir.data.rewritings import read_rewritten_file
from reasonir.data.trec import Run
from reasonir.eval.rag.accuracy import hit_rates, judge
from reasonir.eval.rag.config import (
    MAY_DIFFER,
    QUESTION,
    REASONING,
    WITH_OPTIONS,
    ChoicesConfig,
    GpqaConfig,
    MmluConfig,
    PromptForm,
    RagConfig,
    resolve,
    title_of,
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
from reasonir.llm.context import open_context
from reasonir.llm.prompts import Prompt, describe_prompts, load_prompt, start_with_prompts
from reasonir.llm.refusals import without_thoughts
from reasonir.retrieval.config import Retriever
from reasonir.retrieval.ranking import open_searcher
from reasonir.retrieval.sharding import give_back_gpu

DEEPEST = 10
"""Passages that are ranked at least, for the hit rates."""


def answer_questions(config: RagConfig) -> None:
    """Ask the reader closed book and with passages, write every answer, judge, compare."""
    _refuse_ranks()
    config = resolve(config)

    # 1 everything that can be refused is read before the first question is paid for
    questions = _read_questions(config)
    prompt = load_prompt(f"rag_{config.prompt_form}", config.prompts, VARIABLES, "text", retried=False)
    rewritten = _read_search_texts(config.queries_file, questions) if config.queries_file else {}
    dense = config.retriever is Retriever.dense
    store = open_store(config.datastore, dense=dense) if config.datastore is not None else None
    folder = RunFolder(str(config.output_dir), config, resume=True, ignored=MAY_DIFFER)
    reader = _open_reader(config, prompt, folder.path)
    start_with_prompts(folder, [prompt])

    # 2 what the reader gets to read under each condition
    seconds, begun = {}, time.monotonic()
    conditions: dict[str, dict[str, list[str]]] = {CLOSED: {question.id: [] for question in questions}}
    retrieval, texts = None, {}
    if store is not None:
        thoughts = reader.ask(questions, conditions, {}) if config.queries == REASONING else []
        searched = rewritten or _search_texts(config.queries, questions, thoughts)
        instruction = "" if config.instruction == "none" else config.instruction
        run = store.search(open_searcher(config), searched, instruction, max(config.top, DEEPEST))
        give_back_gpu()  # to the reader: vLLM takes what is free when it starts
        ranked = {name: list(run.get(name, {})) for name in searched}
        gold = _find_gold(store, questions)
        _write_retrieved(folder.path, searched, gold, run)
        conditions |= _passages_to_read(ranked, gold if config.gold else {}, config.top)
        retrieval = hit_rates(ranked, gold, config.top, config.confidence) if gold else None
        texts = store.look_up({i for passages in conditions.values() for ids in passages.values() for i in ids})
        seconds["retrieval"] = round(time.monotonic() - begun, 3)

    # 3 ask and judge
    begun = time.monotonic()
    answers = reader.ask(questions, conditions, texts)
    seconds["reading"] = round(time.monotonic() - begun, 3)
    report = judge(questions, answers, config.confidence, config.seed)
    report |= {"title": title_of(config), "retrieval": retrieval, "counts": count_answers(answers)}
    _write_files(folder.path, questions, answers, texts, report)
    counts = {"questions": len(questions), **report["counts"], **(store.counts if store else {})}
    named = [*map(Path, config.input_files()), *([store.named] if store else [])]
    inputs = [path for path in named if path.exists()]  # a hub id is no file
    folder.finish(inputs=inputs, counts=counts, seconds=seconds, prompts=describe_prompts([prompt]))
    print(f"\n{render(report, details=False)}\nresults: {folder.path}")


def _refuse_ranks() -> None:
    if world_size() > 1:
        raise UserError("this task runs in one process; encode the datastore under torchrun (reasonir-eval encode)")


def _read_questions(config: RagConfig) -> list[Question]:
    """Read the questions that the options name."""
    if isinstance(config, MmluConfig):
        return read_mmlu(config.data.dir or f"hub:{config.data.hub}", config.split, config.subjects)
    if isinstance(config, GpqaConfig):
        return read_gpqa(config.data.file or f"hub:{config.data.hub}", config.option_seed)
    assert isinstance(config, ChoicesConfig)
    return read_choices(config.data.file, config.option_seed, config.gold_field)


def _open_reader(config: RagConfig, prompt: Prompt, folder: Path) -> Reader:
    """Measure the room for prompts; the engine itself starts with the first question."""
    return Reader(
        prompt=prompt,
        context=open_context(
            config.context_tokens,
            config.answer_tokens() + (config.generator.thinking_tokens or 0),
            config.tokenizer,
            config.generator.local_model(),
            config.generator.max_model_len,
            config.generator.chat_template_kwargs,
        ),
        folder=folder,
        generator=config.generator,
        by_letter=config.prompt_form is PromptForm.letter,
        answer_tokens=config.answer_tokens(),
        samples=config.samples,
        stop=tuple(config.stop),
        seed=config.seed,
    )


def _read_search_texts(file: str, questions: Sequence[Question]) -> dict[str, str]:
    """Return the search texts of a rewriter's file.

    Raises:
        UserError: a question without one, or an empty one.
    """
    rows = read_rewritten_file(Path(file))
    for question in questions:
        line, text = rows.get(question.id, (0, None))
        if not isinstance(text, str) or not text.strip():
            where = f"{file}:{line}" if line else file
            raise UserError(f"{where}: question {question.id!r} needs a `query` that is not empty")
    return {question.id: str(rows[question.id][1]) for question in questions}


def _search_texts(queries: str, questions: Sequence[Question], thoughts: Sequence[Answer]) -> dict[str, str]:
    """Return what is searched with for each question: itself, its options too, or the reader's reasoning."""
    if queries == QUESTION:
        return {question.id: question.text for question in questions}
    texts = {question.id: with_options(question.text, question.options) for question in questions}
    if queries == WITH_OPTIONS:
        return texts
    known = {question.id: question for question in questions}
    reasoning = {a.id: _without_answer(a.text, known[a.id]) for a in thoughts if a.sample == 1}
    empty = sum(not text for text in reasoning.values())
    if empty:
        print(f"{empty} questions are searched with themselves: their closed-book answers hold no reasoning")
    return {name: reasoning[name] or texts[name] for name in texts}


def _without_answer(text: str, question: Question) -> str:
    """Return a closed-book answer without the lines by which, read alone, it would choose an option."""
    lines = without_thoughts(text).split("\n")
    return "\n".join(line for line in lines if not read_answer(line, question).letter).strip()


def _find_gold(store: Store, questions: Sequence[Question]) -> dict[str, list[str]]:
    """Return the gold passages of each question that has any in the datastore; the others are counted."""
    found = store.find_gold({name for question in questions for name in question.gold})
    gold = {q.id: list(dict.fromkeys(p for name in q.gold for p in found.get(name, []))) for q in questions if q.gold}
    lost = sum(not passages for passages in gold.values())
    if lost:
        print(f"{lost} questions name gold that the datastore does not hold; they have no hit rate")
        store.counts["questions_without_gold_in_datastore"] = lost
    return {name: passages for name, passages in gold.items() if passages}


def _write_retrieved(folder: Path, searched: Mapping[str, str], gold: Mapping[str, list[str]], run: Run) -> None:
    """Write retrieved.jsonl: what was searched with, the gold passages and the hits of each question."""
    rows = [
        {"id": name, "query": query, "gold": gold.get(name, []),
         "hits": [{"id": hit, "score": score} for hit, score in run.get(name, {}).items()]}
        for name, query in searched.items()
    ]  # fmt: skip
    write_jsonl(folder / RETRIEVED_FILE, rows)


def _passages_to_read(
    ranked: Mapping[str, Sequence[str]], gold: Mapping[str, list[str]], top: int
) -> dict[str, dict[str, list[str]]]:
    """Return the passages of each condition with passages, by question: the first hits, and gold where there is any."""
    given = {RETRIEVED: {name: list(hits[:top]) for name, hits in ranked.items()}}
    if gold:
        given[GOLD] = {name: _gold_first(ranked[name], passages) for name, passages in gold.items()}
    return given


def _gold_first(ranked: Sequence[str], gold: Sequence[str]) -> list[str]:
    """Return the gold passages: those that were found in the order found, then the rest as they stand."""
    found = [name for name in ranked if name in set(gold)]
    return [*found, *(name for name in gold if name not in set(found))]


def _write_files(
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
    write_text(folder / "results.md", render(report, details=True))
