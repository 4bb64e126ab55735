"""The main path of every recipe that asks a language model: items in, rows and rejections out.

Items stream in the order of the input; a bounded window of them is in work; outcomes are written in the same order.
What was paid for is in completions.jsonl, what was decided in data.jsonl and rejections.jsonl, so that the same
command goes on after any interruption and ends with the same bytes.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.llm import open_generator
from reasonir.llm.conversations import hold_conversations
from reasonir.llm.prompts import describe_prompts, keep_prompts, save_prompts
from reasonir.synth.config import (
    MAY_DIFFER,
    NegativesConfig,
    QueryConfig,
    RewriteConfig,
    VariedLengthConfig,
    WritingConfig,
    parse_shard,
)
from reasonir.synth.gates.text import DuplicateQueries
from reasonir.synth.output import Output
from reasonir.synth.recipes.hard_negatives import NegativesRecipe
from reasonir.synth.recipes.inputs import Item, take_shard
from reasonir.synth.recipes.query import QueryRecipe, Recipe
from reasonir.synth.recipes.rewrite import RewriteRecipe
from reasonir.synth.recipes.varied_length import VariedLengthRecipe
from reasonir.synth.recipes.writing import Outcome

WINDOW_PER_REQUEST = 32
"""Items in work per request in flight: one slow answer holds back the writing of so many others, not their asking."""


def write_rows(config: WritingConfig) -> None:
    """Run a recipe from its input to its report."""
    recipe = choose(config)
    items = _opened(take_shard(recipe.items(), parse_shard(config.shard), config.limit))
    folder = RunFolder(config.output_dir, config, resume=True, ignored=MAY_DIFFER)
    keep_prompts(folder.path, recipe.prompts)
    folder.start()
    save_prompts(folder.path, recipe.prompts)
    with closing(open_generator(config.generator, folder.path / "completions.jsonl")) as generator:
        recipe.prepare(generator, folder.path)
        seen = DuplicateQueries().seen if recipe.new_queries and config.gates.duplicates else None
        with closing(Output(folder.path, seen)) as output, closing(_progress(config, recipe)) as progress:
            rest = output.recover(items)
            if output.items:
                print(f"{config.recipe}: {output.items} items were done before; going on", file=sys.stderr)

            def write(item: Item, outcome: Outcome) -> None:
                output.write(item, outcome)
                progress.update(1, f"{output.accepted} rows")

            window = config.window or WINDOW_PER_REQUEST * config.generator.max_concurrency
            hold_conversations(generator, rest, recipe.steps, write, window=window)
            output.release()
    finish(folder, recipe.inputs, output.counts(), config.report, prompts=describe_prompts(recipe.prompts))


def choose(config: WritingConfig) -> Recipe:
    """Return the recipe of a configuration."""
    if isinstance(config, QueryConfig):
        return QueryRecipe(config)
    if isinstance(config, VariedLengthConfig):
        return VariedLengthRecipe(config)
    if isinstance(config, NegativesConfig):
        return NegativesRecipe(config)
    assert isinstance(config, RewriteConfig)
    return RewriteRecipe(config)


def _opened(items: Iterator[Item]) -> Iterator[Item]:
    """Read the first item now, so that a missing or broken input is refused before a folder is made."""
    first = list(item for _, item in zip(range(1), items, strict=False))
    return chain(first, items)


def _progress(config: WritingConfig, recipe: Recipe) -> Progress:
    total = min(recipe.total, config.limit or recipe.total) // parse_shard(config.shard)[1]
    return Progress(config.recipe, total, "items")


def finish(folder: RunFolder, inputs: list[str], counts: dict[str, Any], report: bool, **more: Any) -> None:
    """Write the manifest and the report, print the summary."""
    paths = [path for path in inputs if not path.startswith("hub:")]
    folder.finish(inputs=paths, counts=counts, **more)
    print(summary(counts, folder.path))
    if report:
        # A process of its own: numpy and plotting stay out of this one, and their failure leaves the data as it is.
        # -P: a folder called reasonir in the working directory is not this package.
        done = subprocess.run([sys.executable, "-P", "-m", "reasonir.synth.report", str(folder.path)], check=False)
        if done.returncode:
            print(f"the report failed; the data is whole: {folder.path}", file=sys.stderr)


def summary(counts: dict[str, Any], folder: Path) -> str:
    """Return the table that a run ends with."""
    rows = [("items", counts["in"]), ("accepted", counts["accepted"])]
    rows += [(f"rejected: {reason}", count) for reason, count in counts["rejected"].items()]
    rows += [(tally.replace("_", " "), count) for tally, count in counts["tallies"].items()]
    rows += [("tokens read", counts["input_tokens"]), ("tokens written", counts["output_tokens"])]
    width = max(len(name) for name, _ in rows)
    return "\n".join([*(f"{name:{width}}  {count:>10,}" for name, count in rows), f"{folder}/data.jsonl"])


def obey_sigterm() -> None:
    """Let SIGTERM end the command as Ctrl-C does, with status 143, files closed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
