"""The main path of every recipe that asks a language model: items in, rows and rejections out.

Items are read as a stream; a bounded window of them is in work; outcomes are written in the order of the input.
completions.jsonl keeps every paid answer, data.jsonl and rejections.jsonl every outcome. The same command therefore
continues after any interruption and ends with the same bytes.
"""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from reasonir.core.errors import RunStopped, UserError
from reasonir.core.progress import Progress
from reasonir.core.run_folder import INPUTS_FILE, RunFolder
from reasonir.core.stamp import checksums
from reasonir.llm import open_generator
from reasonir.llm.conversations import hold_conversations
from reasonir.llm.prompts import describe_prompts, start_with_prompts
from reasonir.synth.config import (
    DATA_FILE,
    MAY_DIFFER,
    REJECTIONS_FILE,
    NegativesConfig,
    PositiveForm,
    QueryConfig,
    RelevantNegative,
    RewriteConfig,
    VariedLengthConfig,
    WritingConfig,
    parse_shard,
)
from reasonir.synth.gates.checks import Gates
from reasonir.synth.output import Output
from reasonir.synth.recipes.hard_negatives import NegativesRecipe
from reasonir.synth.recipes.inputs import Item, take_shard
from reasonir.synth.recipes.judge import Judge
from reasonir.synth.recipes.query import QueryRecipe, Recipe
from reasonir.synth.recipes.rewrite import RewriteRecipe
from reasonir.synth.recipes.varied_length import VariedLengthRecipe
from reasonir.synth.recipes.writing import Outcome, WritingSettings
from reasonir.text.near_duplicates import DuplicateTexts

# Items in work for each request in flight. A slow answer delays the writing of so many later items, not their work.
WINDOW_PER_REQUEST = 32
# Answers that are shown where a run gives up, and their length.
SAMPLES, SAMPLE_CHARACTERS = 3, 160


def _mendable(items: Iterator[Item], inputs: Path) -> Iterator[Item]:
    """Yield the items; a line that is refused will be mended, so the file's checksum is forgotten for the next run."""
    try:
        yield from items
    except UserError:
        inputs.unlink(missing_ok=True)
        raise


def write_rows(config: WritingConfig) -> None:
    """Run a recipe from its input to its report."""
    # 1 the input and the prompts are checked before a folder is made
    recipe = choose_recipe(config)
    shard = parse_shard(config.shard)
    items = _open(take_shard(recipe.items(), shard, config.limit))
    folder = RunFolder(config.output_dir, config, resume=True, ignored=MAY_DIFFER)
    made = (folder.path / name for name in (DATA_FILE, REJECTIONS_FILE))
    begun = any(file.is_file() and file.stat().st_size for file in made)
    start_with_prompts(folder, recipe.prompts, recipe.inputs, begun=begun)
    window = config.window or WINDOW_PER_REQUEST * config.generator.max_concurrency
    # For the progress bar, about right: a hash deals the items to the shards.
    total = min(recipe.total, config.limit or recipe.total) // shard[1]
    # 2 one conversation for each item
    with closing(open_generator(config.generator, folder.path / "completions.jsonl")) as generator:
        recipe.prepare(generator, folder.path)
        seen = None
        if recipe.new_queries and config.gates.duplicates:
            queries = DuplicateTexts()
            seen, recipe.is_known = queries.seen, queries.knows
        with (
            closing(Output(folder.path, seen)) as output,
            closing(Progress(config.recipe, total, "items")) as progress,
        ):
            rest = _mendable(output.recover(items), folder.path / INPUTS_FILE)
            if output.items:
                print(f"{config.recipe}: {output.items} items were done before; going on", file=sys.stderr)
            early_stop = EarlyStop(config.give_up_after, output)
            early_stop.check()

            def write(item: Item, outcome: Outcome) -> None:
                output.write(item, outcome)
                progress.update(1, f"{output.accepted} rows")
                early_stop.check(outcome)

            hold_conversations(generator, rest, recipe.converse, write, window=window)
    # 3 manifest and report
    counts = output.counts() | recipe.counts(folder.path)
    finish(folder, recipe.inputs, counts, prompts=describe_prompts(recipe.prompts))
    if config.report:
        describe(folder.path, config.report_model)


class EarlyStop:
    """Stops a run whose first items all fail for one reason, before it pays for the rest."""

    def __init__(self, most: int | None, output: Output) -> None:
        """Take the number of items after which the run may stop (None: never) and the counts to look at."""
        self._most, self._output = most, output
        self._samples: list[str] = []

    def check(self, outcome: Outcome | None = None) -> None:
        """Look at the counts, with the item that has just ended; None at the start of a continued run.

        Raises:
            RunStopped: with the reason and three answers.
        """
        if self._output.accepted or self._most is None:
            return
        if outcome is not None and outcome.trail.rejected and len(self._samples) < SAMPLES:
            self._samples.append(" ".join(outcome.trail.rejected[-1]["text"].split())[:SAMPLE_CHARACTERS])
        if self._output.items >= self._most and len(self._output.rejected) == 1:
            (reason,) = self._output.rejected
            shown = "".join(f"\n  {sample}" for sample in self._samples)
            raise RunStopped(
                f"the first {self._output.items} items were all rejected for one reason, {reason}; every answer is in "
                f"rejections.jsonl. Mend the prompt, the gates or the generator, or give give_up_after=null.{shown}"
            )


def choose_recipe(config: WritingConfig) -> Recipe:
    """Return the recipe of a configuration. Below this function there are plain arguments only."""
    generator = config.generator
    settings = WritingSettings(
        recipe=config.recipe, seed=config.seed, prompts=config.prompts, gates=Gates(**asdict(config.gates)),
        worked_example=config.worked_example,
        model=generator.model, temperature=generator.temperature, top_p=generator.top_p,
        max_new_tokens=generator.max_new_tokens, max_attempts=generator.max_attempts,
        retry_temperature_step=generator.retry_temperature_step,
    )  # fmt: skip
    if isinstance(config, RewriteConfig):
        settings = replace(settings, max_new_tokens=config.length_tokens or generator.max_new_tokens)
        return RewriteRecipe(settings, config.rows, config.append, config.length_tokens)
    assert isinstance(config, QueryConfig | VariedLengthConfig | NegativesConfig)
    relabel, judge = config.judge.relevant_negative is RelevantNegative.relabel, None
    if config.judge.enabled:
        limits = {"positive_min": config.judge.positive_min, "negative_max": config.judge.negative_max}
        judge = Judge(settings, relabel=relabel, **limits)
    if isinstance(config, QueryConfig):
        is_id = config.positive is PositiveForm.id
        return QueryRecipe(settings, judge, config.corpus, is_id, config.document_max_words)
    if isinstance(config, NegativesConfig):
        given = (config.rows, config.corpus, config.negatives_per_row, config.document_max_words)
        return NegativesRecipe(settings, judge, *given)
    calls = (config.corpus, config.tasks, config.brainstorm_calls, config.tasks_per_call)
    return VariedLengthRecipe(settings, judge, *calls, config.pairs, config.query_words, config.positive_words)


def _open(items: Iterator[Item]) -> Iterator[Item]:
    """Read the first item now, so that a missing or broken input is refused before a folder is made."""
    first = list(item for _, item in zip(range(1), items, strict=False))
    return chain(first, items)


def finish(folder: RunFolder, inputs: Iterable[str], counts: dict[str, Any], **more: Any) -> None:
    """Write the manifest, print the summary.

    Args:
        folder: The run's folder.
        inputs: Files and folders that were read, for the manifest.
        counts: As `Output.counts` returns them.
        **more: Further entries of the manifest.
    """
    # A data set of the hub has no file here whose checksum could be taken.
    local = [path for path in inputs if not path.startswith("hub:")]
    folder.finish(inputs=local, counts=counts, outputs=checksums(folder.path, (DATA_FILE, REJECTIONS_FILE)), **more)
    print(_summarize(counts, folder.path))


def describe(folder: Path, model: str | None) -> None:
    """Write the report of a finished folder; `model` is its encoder."""
    # Imported late: its numpy and matplotlib are not loaded before the work is done, nor where there is no report.
    from reasonir.synth.report.page import write_report

    try:
        print(write_report(folder, model))
    except Exception as error:  # the manifest is written and the data complete: the run must not count as failed
        print(f"the report failed ({error}); the data is whole: {folder}", file=sys.stderr)


def _summarize(counts: dict[str, Any], folder: Path) -> str:
    """Return the table that is printed at the end of a run."""
    rows = [("items", counts["in"]), ("accepted", counts["accepted"])]
    rows += [(f"rejected: {reason}", count) for reason, count in counts["rejected"].items()]
    rows += [(tally.replace("_", " "), count) for tally, count in counts["tallies"].items()]
    rows += [("tokens read", counts["input_tokens"]), ("tokens written", counts["output_tokens"])]
    width = max(len(name) for name, _ in rows)
    return "\n".join([*(f"{name:{width}}  {count:>10,}" for name, count in rows), f"{folder}/data.jsonl"])


def obey_sigterm() -> None:
    """Let SIGTERM end the command as Ctrl-C does: files are closed, the status is 143."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
