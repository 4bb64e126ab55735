"""Rewriting queries before they are searched with, top to bottom: `rewrite_queries` is the main path.

The paper's protocol (arXiv 2504.20595) with any language model: line breaks dropped, sampled at temperature 0.8 and
top_p 0.8, a target length that is both in the prompt and the limit of the answer. Invariant: every query of every task
gets a text that is not empty. Where no answer is accepted, the query stays as it was and is counted. All files follow
from completions.jsonl, so that the same command continues after any kill and ends with the same bytes.
"""

import dataclasses
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import under, write_json, write_jsonl
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.data.bright import examples_file, list_bright_tasks, read_bright_queries
from reasonir.data.collections import Query
from reasonir.data.rewritings import Rewriting
from reasonir.eval.rewrite.config import REWRITE_MAY_DIFFER, RewritingConfig, short_source
from reasonir.llm import Completion, Request, open_generator
from reasonir.llm.attempts import SERVER_ERROR, Rejection, Trail, ask_until_accepted
from reasonir.llm.conversations import Conversation, hold_conversations
from reasonir.llm.echoes import only_repeats
from reasonir.llm.prompts import (
    REWRITE_VARIABLES,
    Prompt,
    describe_prompts,
    draw_number,
    load_prompt,
    rewrite_values,
    start_with_prompts,
)
from reasonir.llm.refusals import refusal_phrase, without_thoughts
from reasonir.llm.text_gates import TextGates
from reasonir.text.control_characters import restore_backslashes, stray_character
from reasonir.text.language import script_of
from reasonir.text.lengths import Counter, cut_estimated, measure, open_counter


@dataclass(slots=True)
class Rewrite:
    """One query at one length, once. text: the accepted answer, or "". cut: the target length ended it."""

    task: str
    query: Query
    rewriting: Rewriting
    text: str = ""
    cut: bool = False
    trail: Trail = field(default_factory=Trail)


def rewrite_queries(config: RewritingConfig) -> None:
    """Ask for every rewriting, write the files and the table of lengths."""
    # 1 everything that can be refused is read before the folder is made
    root = f"hub:{config.data.hub}" if config.data.dir is None else config.data.dir
    tasks = config.tasks or list_bright_tasks(root)
    queries = {task: read_queries(root, task) for task in tasks}
    counter = open_counter(config.tokenizer)
    prompt = load_prompt("rewrite", config.prompts, REWRITE_VARIABLES, "text")
    if prompt.schema is not None:
        raise UserError(f"prompts={config.prompts}: rewrite.yaml has a `schema`; a rewriting is plain text, remove it")
    path = config.output_dir or str(Path("outputs") / "eval" / f"rewrite-{short_source(config.data)}-{config.name}")
    folder = RunFolder(path, dataclasses.replace(config, output_dir=path), resume=True, ignored=REWRITE_MAY_DIFFER)
    start_with_prompts(folder, [prompt])

    # 2 the questions
    rewrites = plan(queries, config.name, config.length_tokens or [None], config.samples)
    generator = config.generator
    writer = RewriteWriter(
        prompt, generator.temperature, generator.top_p, generator.max_new_tokens, generator.max_attempts,
        generator.retry_temperature_step, config.seed, generator.thinking_tokens,
    )  # fmt: skip
    with (
        closing(open_generator(generator, folder.path / "completions.jsonl")) as model,
        closing(Progress("rewrite", len(rewrites), "queries")) as progress,
    ):
        hold_conversations(model, rewrites, writer.converse, lambda rewrite, outcome: progress.update(1))

    # 3 the files, the lengths, the manifest
    write_files(folder.path, rewrites, config.append)
    lengths = describe_lengths(rewrites, queries, counter, config.append)
    write_json(folder.path / "lengths.json", lengths)
    counts = count_rewrites(rewrites)
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


def plan(
    queries: Mapping[str, Sequence[Query]], name: str, lengths: Sequence[int | None], samples: int
) -> list[Rewrite]:
    """Return what is to be written: by length, sample, task, query.

    Args:
        queries: Of each task.
        name: Of the rewriting, which begins the names of its files.
        lengths: Target lengths in tokens; None sets no target.
        samples: Rewritings of each query and length.
    """
    rewritings = [Rewriting.named(name, tokens, sample) for tokens in lengths for sample in range(1, samples + 1)]
    return [
        Rewrite(task, query, rewriting)
        for rewriting in rewritings
        for task, of_task in queries.items()
        for query in of_task
    ]


@dataclass(frozen=True, slots=True)
class RewriteWriter:
    """What all questions share: the prompt, and how an answer is drawn."""

    prompt: Prompt
    temperature: float
    top_p: float
    max_new_tokens: int
    max_attempts: int
    retry_temperature_step: float
    seed: int
    thinking_tokens: int | None = None

    def converse(self, rewrite: Rewrite) -> Conversation[None]:
        """Ask until an answer is accepted, and put it into `rewrite`."""
        wanted = rewrite.rewriting.length_tokens or None

        # Samples and attempts differ by the seed alone; a length stands in the prompt and is the request's limit.
        def seed_of(attempt: int) -> int:
            names = (rewrite.task, rewrite.query.id, rewrite.rewriting.sample, attempt)
            return draw_number(self.seed, "rewrite", *names)

        def read(completion: Completion, attempt: int) -> tuple[str, bool] | Rejection:
            text = without_thoughts(completion.text).encode("utf-8", "replace").decode("utf-8")
            text = restore_backslashes(text)
            # With tokens of their own for thoughts, a short thinker has more left than the target length.
            whole, text = text, cut_estimated(text, wanted) if wanted and self.thinking_tokens else text
            rejection = what_is_wrong(text, completion.finish, rewrite.query.text, wanted, self.prompt.own_texts())
            return rejection or (text, completion.finish == "length" or len(text) < len(whole))

        request = Request(
            id="",
            messages=self.prompt.messages(rewrite_values(rewrite.query.text, wanted)),
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=wanted or self.max_new_tokens,
        )
        limits = self.max_attempts, self.retry_temperature_step
        found = yield from ask_until_accepted(self.prompt, request, seed_of, read, *limits, rewrite.trail)
        if not isinstance(found, Rejection):
            rewrite.text, rewrite.cut = found


# The limits of synthesis (configs/synth/writing.yaml), which real queries and documents keep. Refusals are looked for
# before, and the language is the query's.
GATES = TextGates(
    language=False, refusals=False, boilerplate=True, echo_words=6, mixed_scripts=True, max_gibberish=0.15,
    max_repetition=0.3,
)  # fmt: skip


def what_is_wrong(
    text: str, finish: str, query: str, length_tokens: int | None, prompt: Sequence[str] = ()
) -> Rejection | None:
    """Return why an answer is not accepted; None for one that is.

    An answer that a target length cut off is accepted, because the length is the answer's limit in the paper too. One
    that was cut off without a target is not: it ran on and on.

    Args:
        text: The answer without its thoughts.
        finish: How the answer ended, as in `Completion`.
        query: The query that was to be rewritten.
        length_tokens: The target length; None for none.
        prompt: The prompt's own texts, which an answer must not repeat.
    """
    phrase = refusal_phrase(text)
    # Before the empty text: a filter that declines may leave none.
    if finish == "refusal" or phrase:
        detail = f"It declines ({(phrase or text[:60])!r}); nothing but a search is made with it."
        return Rejection("refusal", detail)
    if not text:
        return Rejection("empty", "It was empty, or ended within its thoughts; be shorter.")
    if only_repeats(text, query):
        return Rejection("unchanged", "It is the query itself.")
    if finish == "length" and not length_tokens:
        return Rejection("cut_off", "It was too long and was cut off before its end; be shorter.")
    if stray := stray_character(text):
        return Rejection("control_character", f"It holds the character {stray}; write plain text.")
    # A query in Russian may be thought through in Russian, and in English too.
    if script_of(text) not in ("LATIN", "", script_of(query)):
        return Rejection("language", "It is in another script than the query; write in the query's language.")
    return GATES.check_text(text, "text", prompt, (query,))


def final_text(rewrite: Rewrite, append: bool) -> str:
    """Return what is searched with; the query as it was where no answer was accepted."""
    if not rewrite.text:
        return rewrite.query.text
    return f"{rewrite.query.text}\n\n{rewrite.text}" if append else rewrite.text


def write_files(folder: Path, rewrites: Sequence[Rewrite], append: bool) -> None:
    """Write <task>/<name>.jsonl of every rewriting, and the rejected answers of all to refused.jsonl.

    Args:
        folder: Of the run.
        rewrites: All of them, asked.
        append: Whether a rewriting stands behind its query instead of in its place.
    """
    files: dict[tuple[str, str], list[dict[str, str]]] = {}
    for rewrite in rewrites:
        row = {"id": rewrite.query.id, "query": final_text(rewrite, append)}
        files.setdefault((rewrite.task, rewrite.rewriting.name), []).append(row)
    for (task, name), rows in files.items():
        write_jsonl(under(under(folder, task, "tasks"), f"{name}.jsonl", "name"), rows)
    rejected = [
        {
            "task": rewrite.task,
            "name": rewrite.rewriting.name,
            "id": rewrite.query.id,
            **{name: line[name] for name in ("attempt", "reason", "detail")},
            # a server may send half of a surrogate pair, which no file holds
            "text": line["text"].encode("utf-8", "replace").decode("utf-8"),
        }
        for rewrite in rewrites
        for line in rewrite.trail.rejected
    ]
    write_jsonl(folder / "refused.jsonl", rejected)


def describe_lengths(
    rewrites: Sequence[Rewrite], queries: dict[str, list[Query]], counter: Counter, append: bool
) -> dict[str, Any]:
    """Return the measured lengths of the queries and of every rewriting, by task and of all tasks together.

    Args:
        rewrites: All of them, asked.
        queries: Of each task, as they were.
        counter: Counts tokens.
        append: Whether a rewriting stands behind its query instead of in its place.
    """
    originals = {task: [query.text for query in of_task] for task, of_task in queries.items()}
    by_name: dict[str, list[Rewrite]] = {}
    for rewrite in rewrites:
        by_name.setdefault(rewrite.rewriting.name, []).append(rewrite)

    def describe(part: Sequence[Rewrite]) -> dict[str, Any]:
        # A query that stayed as it was met no limit and must not count as one that ended within it.
        answered = [rewrite for rewrite in part if rewrite.text]
        ended = sum(not rewrite.cut for rewrite in answered)
        return {
            "queries": len(part),
            "kept_original": len(part) - len(answered),
            "ended_within_limit": ended / len(answered) if answered else None,
            **measure([final_text(rewrite, append) for rewrite in part], counter),
        }

    rewritings = {
        name: {
            "length_tokens": part[0].rewriting.length_tokens or None,
            "sample": part[0].rewriting.sample,
            "all": describe(part),
            "tasks": {task: describe([rewrite for rewrite in part if rewrite.task == task]) for task in queries},
        }
        for name, part in by_name.items()
    }
    whole = [text for texts in originals.values() for text in texts]
    original = {
        "all": {"queries": len(whole), **measure(whole, counter)},
        "tasks": {task: {"queries": len(texts), **measure(texts, counter)} for task, texts in originals.items()},
    }
    return {"tokens_by": counter.by, "original": original, "rewritings": rewritings}


def count_rewrites(rewrites: Sequence[Rewrite]) -> dict[str, Any]:
    """Return queries in, rewritten and kept by reason, and what all answers cost, over all runs of the folder."""
    # The last rejection is the reason: the ones before it were asked again.
    kept = Tally(rewrite.trail.rejected[-1]["reason"] for rewrite in rewrites if not rewrite.text)
    return {
        "in": len(rewrites),
        "rewritten": len(rewrites) - sum(kept.values()),
        "kept_original": dict(sorted(kept.items())),
        "refused_answers": dict(
            sorted(Tally(line["reason"] for rewrite in rewrites for line in rewrite.trail.rejected).items())
        ),
        "cut_at_limit": sum(rewrite.cut for rewrite in rewrites),
        "input_tokens": sum(rewrite.trail.input_tokens for rewrite in rewrites),
        "output_tokens": sum(rewrite.trail.output_tokens for rewrite in rewrites),
    }


def summary(lengths: dict[str, Any], counts: dict[str, Any], folder: Path, name: str) -> str:
    """Return the table that a run ends with.

    Args:
        lengths: What `describe_lengths` returned.
        counts: What `count_rewrites` returned.
        folder: Of the run.
        name: Of the rewriting.
    """
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
