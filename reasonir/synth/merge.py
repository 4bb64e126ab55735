"""Joins the folders of all shards of an input into one, as a single run would have written it.

Invariant: rows and rejections come in the order of the input. Of rows with the same query only the first is accepted.
"""

import heapq
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, read_jsonl, read_mapping
from reasonir.core.run_folder import RunFolder, require_outputs
from reasonir.llm.attempts import Rejection, Trail
from reasonir.synth.config import DATA_FILE, MAY_DIFFER, REJECTIONS_FILE, MergeConfig, parse_shard
from reasonir.synth.output import Output, position_of
from reasonir.synth.pipeline import describe, finish
from reasonir.synth.recipes.inputs import Item
from reasonir.synth.recipes.writing import Outcome
from reasonir.text.near_duplicates import DuplicateTexts

# Recipes with `Recipe.new_queries`; of a shard only the recipe's name is at hand, in config.yaml.
NEW_QUERIES = ("hq", "eq", "vl")
# Fields that `Output` adds to a rejected answer; taken off here, because `Output` adds them again.
WRITTEN_LAST = ("id", "position", "final", "input_tokens", "output_tokens")


def merge_shards(config: MergeConfig) -> None:
    """Check that the shards are complete and of one run, then join them."""
    stored = _check_shards(config.inputs)
    folder = RunFolder(config.output_dir, config, resume=True, ignored=MAY_DIFFER)
    folder.start()
    # A merge starts anew: it is fast, and a killed one has nothing to pay for again.
    for name in (DATA_FILE, REJECTIONS_FILE):
        (folder.path / name).unlink(missing_ok=True)
    unique = stored["recipe"] in NEW_QUERIES and stored["gates"]["duplicates"]
    with closing(Output(folder.path, DuplicateTexts().seen if unique else None)) as output:
        # Opens the files; there are no finished items to pass over.
        output.recover(iter(()))
        # One line of each shard is in memory at a time, however many rows there are.
        for item, outcome in heapq.merge(*map(_outcomes, config.inputs), key=lambda pair: pair[0].position):
            output.write(item, outcome)
    files = [Path(shard) / name for shard in config.inputs for name in (DATA_FILE, REJECTIONS_FILE)]
    source = stored.get("corpus") or stored.get("rows")
    finish(folder, list(map(str, files)), output.counts(), merged=stored["recipe"], source=source)
    if config.report:
        describe(folder.path, config.report_model)


def _check_shards(inputs: list[str]) -> dict[str, Any]:
    """Return the stored options of the first shard.

    Raises:
        UserError: A shard is unfinished, missing, given twice or of another run.
    """
    if not inputs:
        raise UserError("inputs is empty: give inputs=[DIR0,DIR1,…], the folder of every shard")
    stored: list[dict[str, Any]] = []
    for folder in map(Path, inputs):
        if not (folder / CONFIG_FILE).is_file():
            raise UserError(f"inputs: {folder} is no output folder of reasonir-synth")
        if not (folder / MANIFEST_FILE).is_file():
            raise UserError(f"inputs: {folder} is not finished; run its command again")
        require_outputs(folder)
        stored.append(read_mapping(folder / CONFIG_FILE))
    # Shards may have been written by several servers, so that the generator's options need not be the same.
    ignored = {"shard", *(name for name in MAY_DIFFER if "." not in name), "generator"}
    for shard, options in zip(inputs, stored, strict=True):
        different = [name for name in options if name not in ignored and options[name] != stored[0].get(name)]
        if different:
            raise UserError(f"inputs: {shard} was made with another {different[0]} than {inputs[0]}")
    parts = [parse_shard(str(options.get("shard", "0/1"))) for options in stored]
    # The first shard says how many there are; a shard of another division then fails the comparison.
    count = parts[0][1]
    if sorted(parts) != [(part, count) for part in range(count)]:
        given = ", ".join(f"{part}/{of}" for part, of in parts)
        raise UserError(f"inputs: all shards 0/{count} to {count - 1}/{count} are needed once each; given: {given}")
    return stored[0]


def _outcomes(shard: str) -> Iterator[tuple[Item, Outcome]]:
    """Yield a shard's items in order, with their outcomes."""
    lines = (_lines(Path(shard) / name) for name in (REJECTIONS_FILE, DATA_FILE))
    trail = Trail()
    # The merge is stable: of one item the rejected answers come before the row, as in `lines`.
    for row in heapq.merge(*lines, key=position_of):
        accepted = "provenance" in row
        ending = row["provenance"] if accepted else row
        if not accepted:
            trail.rejected.append({name: value for name, value in row.items() if name not in WRITTEN_LAST})
        # An item's last line has the tokens of all its attempts.
        if accepted or row["final"]:
            trail.input_tokens, trail.output_tokens = ending["input_tokens"], ending["output_tokens"]
            rejection = None if accepted else Rejection(row["reason"], row["detail"])
            yield Item(str(row["id"]), position_of(row)), Outcome(trail, row if accepted else None, rejection)
            trail = Trail()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for _, row in read_jsonl(path) if path.stat().st_size else ():
            yield row
