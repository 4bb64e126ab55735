"""Rewriting queries before they are searched with, top to bottom: `rewrite_queries` is the main path.

The paper's protocol with any language model: line breaks dropped, sampled at temperature 0.8 and top_p 0.8, a target
length both in the prompt and as the limit of the answer (arXiv 2504.20595). Invariant: every query of every task gets
a text that is not empty; where no answer will do, its own, counted. All files follow from completions.jsonl, so that
the same command goes on after any kill and ends with the same bytes.
"""

from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import write_json, write_jsonl
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.data.bright import examples_file, list_bright_tasks, read_bright_queries
from reasonir.data.collections import Query
from reasonir.data.rewritings import Rewriting
from reasonir.eval.rewrite.config import REWRITE_MAY_DIFFER, RewritingConfig, short_source
from reasonir.llm import Completion, Generator, Message, Request, open_generator
from reasonir.llm.prompts import (
    REWRITE_VARIABLES,
    Prompt,
    describe_prompts,
    draw_number,
    keep_prompts,
    load_prompt,
    rewrite_values,
    save_prompts,
)
from reasonir.llm.refusals import refusal_phrase, without_thoughts
from reasonir.text.lengths import Counter, measure, open_counter

SERVER_ERROR = "server_error"


@dataclass(slots=True)
class Piece:
    """One query to rewrite at one length, once. text: the answer that will do. cut: the limit ended it."""

    task: str
    query: Query
    rewriting: Rewriting
    opening: tuple[Message, ...]
    messages: tuple[Message, ...] = ()
    text: str = ""
    cut: bool = False
    refused: list[dict[str, Any]] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0


def rewrite_queries(config: RewritingConfig) -> None:
    """Ask for every rewriting, ask again where an answer will not do, write the files and the table of lengths."""
    root = f"hub:{config.data.hub}" if config.data.dir is None else config.data.dir
    tasks = config.tasks or list_bright_tasks(root)
    queries = {task: read_queries(root, task) for task in tasks}
    counter = open_counter(config.tokenizer)
    prompt = load_prompt("rewrite", config.prompts, REWRITE_VARIABLES, "text")
    if prompt.schema is not None:
        raise UserError(f"prompts={config.prompts}: rewrite.yaml has a `schema`; a rewriting is plain text, remove it")
    if config.output_dir is None:
        config.output_dir = str(Path("outputs") / "eval" / f"rewrite-{short_source(config.data)}-{config.name}")
    folder = RunFolder(config.output_dir, config, resume=True, ignored=REWRITE_MAY_DIFFER)
    keep_prompts(folder.path, [prompt])
    folder.start()
    save_prompts(folder.path, [prompt])
    pieces = plan(config, prompt, queries)
    with closing(open_generator(config.generator, folder.path / "completions.jsonl")) as generator:
        ask_all(generator, pieces, prompt, config)
    write_files(folder.path, pieces, config.append)
    lengths = describe_lengths(pieces, queries, counter, config.append)
    write_json(folder.path / "lengths.json", lengths)
    counts = count_pieces(pieces)
    inputs = [examples_file(root, task) for task in tasks] if config.data.dir else []
    folder.finish(inputs=inputs, counts=counts, prompts=describe_prompts([prompt]))
    print(summary(lengths, counts, folder.path, config.name))


def read_queries(root: str, task: str) -> list[Query]:
    """Read a task's queries; one without a text cannot be rewritten."""
    queries = read_bright_queries(root, task)
    blank = next((query for query in queries if not query.text.strip()), None)
    if blank is not None:
        raise UserError(f"{root}: task {task}: query {blank.id!r} is empty; leave the task out with tasks=[...]")
    return queries


def plan(config: RewritingConfig, prompt: Prompt, queries: dict[str, list[Query]]) -> list[Piece]:
    """Return what is to be written: by length, sample, task, query."""
    return [
        Piece(task, query, rewriting, prompt.messages(rewrite_values(query.text, rewriting.length_tokens or None)))
        for rewriting in rewritings_of(config)
        for task, of_task in queries.items()
        for query in of_task
    ]


def rewritings_of(config: RewritingConfig) -> list[Rewriting]:
    """Return the rewritings that the options ask for."""
    lengths: Sequence[int | None] = config.length_tokens or [None]
    return [
        Rewriting.named(config.name, tokens, sample) for tokens in lengths for sample in range(1, config.samples + 1)
    ]


def ask_all(generator: Generator, pieces: Sequence[Piece], prompt: Prompt, config: RewritingConfig) -> None:
    """Fill in the texts, in rounds: each asks again for what the one before left without, saying why."""
    waiting = list(pieces)
    for attempt in range(1, config.generator.max_attempts + 1):
        label = "rewrite" if attempt == 1 else f"rewrite, attempt {attempt}"
        with closing(Progress(label, len(waiting), "queries")) as progress:
            for completion in generator.complete(requests(waiting, attempt, config)):
                read_completion(waiting[int(completion.id)], completion, attempt, prompt)
                progress.update(1)
        waiting = [piece for piece in waiting if not piece.text and piece.refused[-1]["reason"] != SERVER_ERROR]


def requests(pieces: Sequence[Piece], attempt: int, config: RewritingConfig) -> Iterator[Request]:
    """Yield one request a piece. The seed tells samples and attempts apart."""
    for number, piece in enumerate(pieces):
        yield Request(
            id=str(number),
            messages=piece.messages or piece.opening,
            temperature=config.generator.temperature,
            top_p=config.generator.top_p,
            max_new_tokens=piece.rewriting.length_tokens or config.generator.max_new_tokens,
            seed=draw_number(config.seed, "rewrite", piece.task, piece.query.id, piece.rewriting.sample, attempt),
        )


def read_completion(piece: Piece, completion: Completion, attempt: int, prompt: Prompt) -> None:
    """Take an answer, or note why not and what to say next."""
    piece.input_tokens += completion.input_tokens
    piece.output_tokens += completion.output_tokens
    text = without_thoughts(completion.text).encode("utf-8", "replace").decode("utf-8")
    reason, detail = what_is_wrong(text, completion, piece)
    if not reason:
        piece.text, piece.cut = text, completion.finish == "length"
        return
    piece.refused.append({"attempt": attempt, "reason": reason, "detail": detail, "text": completion.text})
    piece.messages = (*piece.opening, *prompt.after_refusal(completion, detail))


def what_is_wrong(text: str, completion: Completion, piece: Piece) -> tuple[str, str]:
    """Return reason and detail of a refusal; empty ones for an answer that will do.

    An answer that a target length cut off will do: the length is the answer's limit in the paper too. One that was cut
    off without a target is not: it ran on and on.
    """
    if completion.finish == "error":
        return SERVER_ERROR, completion.error
    phrase = refusal_phrase(text)
    if completion.finish == "refusal" or phrase:
        return "refusal", f"It declines ({(phrase or text[:60])!r}); nothing but a search is made with it."
    if not text:
        return "empty", "It was empty, or ended within its thoughts; be shorter."
    if text.split() == piece.query.text.split():
        return "unchanged", "It is the query itself."
    if completion.finish == "length" and not piece.rewriting.length_tokens:
        return "cut_off", "It was too long and was cut off before its end; be shorter."
    return "", ""


def final_text(piece: Piece, append: bool) -> str:
    """Return what is searched with; the query as it was where no answer would do."""
    if not piece.text:
        return piece.query.text
    return f"{piece.query.text}\n\n{piece.text}" if append else piece.text


def write_files(folder: Path, pieces: Sequence[Piece], append: bool) -> None:
    """Write <task>/<name>.jsonl of every rewriting, and the refused answers of all."""
    files: dict[tuple[str, str], list[dict[str, str]]] = {}
    for piece in pieces:
        row = {"id": piece.query.id, "query": final_text(piece, append)}
        files.setdefault((piece.task, piece.rewriting.name), []).append(row)
    for (task, name), rows in files.items():
        write_jsonl(folder / task / f"{name}.jsonl", rows)
    refused = [
        {"task": piece.task, "name": piece.rewriting.name, "id": piece.query.id, **line}
        for piece in pieces
        for line in piece.refused
    ]
    text = [line | {"text": line["text"].encode("utf-8", "replace").decode("utf-8")} for line in refused]
    write_jsonl(folder / "refused.jsonl", text)


def describe_lengths(
    pieces: Sequence[Piece], queries: dict[str, list[Query]], counter: Counter, append: bool
) -> dict[str, Any]:
    """Return the measured lengths of the queries and of every rewriting, by task and of all."""
    originals = {task: [query.text for query in of_task] for task, of_task in queries.items()}
    by_name: dict[str, list[Piece]] = {}
    for piece in pieces:
        by_name.setdefault(piece.rewriting.name, []).append(piece)

    def describe(part: Sequence[Piece]) -> dict[str, Any]:
        answered = [piece for piece in part if piece.text]
        ended = sum(not piece.cut for piece in answered)
        return {
            "queries": len(part),
            "kept_original": len(part) - len(answered),
            "ended_within_limit": ended / len(answered) if answered else None,
            **measure([final_text(piece, append) for piece in part], counter),
        }

    rewritings = {
        name: {
            "length_tokens": part[0].rewriting.length_tokens or None,
            "sample": part[0].rewriting.sample,
            "all": describe(part),
            "tasks": {task: describe([piece for piece in part if piece.task == task]) for task in queries},
        }
        for name, part in by_name.items()
    }
    whole = [text for texts in originals.values() for text in texts]
    original = {
        "all": {"queries": len(whole), **measure(whole, counter)},
        "tasks": {task: {"queries": len(texts), **measure(texts, counter)} for task, texts in originals.items()},
    }
    return {"tokens_by": counter.by, "original": original, "rewritings": rewritings}


def count_pieces(pieces: Sequence[Piece]) -> dict[str, Any]:
    """Return queries in, rewritten and kept by reason, and what all answers cost, over all runs of the folder."""
    kept = Tally(piece.refused[-1]["reason"] for piece in pieces if not piece.text)
    return {
        "in": len(pieces),
        "rewritten": len(pieces) - sum(kept.values()),
        "kept_original": dict(sorted(kept.items())),
        "refused_answers": dict(sorted(Tally(line["reason"] for p in pieces for line in p.refused).items())),
        "cut_at_limit": sum(piece.cut for piece in pieces),
        "input_tokens": sum(piece.input_tokens for piece in pieces),
        "output_tokens": sum(piece.output_tokens for piece in pieces),
    }


def summary(lengths: dict[str, Any], counts: dict[str, Any], folder: Path, name: str) -> str:
    """Return the table that a run ends with."""
    head = ["queries", "", "words", "tokens", "median", "within limit", "kept"]
    rows = [head, _row("original", lengths["original"]["all"])]
    rows += [_row(name, entry["all"]) for name, entry in lengths["rewritings"].items()]
    width = max(len(row[0]) for row in rows)
    lines = [f"{row[0]:{width}} " + " ".join(f"{cell:>12}" for cell in row[1:]) for row in rows]
    lines.append(f"tokens: {lengths['tokens_by']}; within limit: answers that ended by themselves")
    lines += [f"kept as they were, {reason}: {number}" for reason, number in counts["kept_original"].items()]
    if SERVER_ERROR in counts["kept_original"]:
        lines.append("the same command asks the failing server for those again")
    if counts["refused_answers"]:
        lines.append(f"refused answers, {sum(counts['refused_answers'].values())} in all: {folder}/refused.jsonl")
    first = next(iter(lengths["rewritings"]), name)
    return "\n".join([*lines, f"reasonir-eval bright queries={folder}/{first} measures with them"])


def _row(name: str, entry: dict[str, Any]) -> list[str]:
    numbers = [f"{entry[field]:.0f}" for field in ("words_mean", "tokens_mean", "tokens_median")]
    ended = entry.get("ended_within_limit")
    return [name, str(entry["queries"]), *numbers, "" if ended is None else f"{ended:.0%}",
            str(entry.get("kept_original", ""))]  # fmt: skip
