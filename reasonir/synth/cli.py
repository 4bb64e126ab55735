"""`reasonir-synth recipe=NAME` and `python -m reasonir.synth`: one configuration and one function per recipe."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from reasonir.core.command import run_command
from reasonir.core.help import show_page
from reasonir.synth import config as options


# Each function imports its recipe itself: no heavy package may load before --help is printed.
def _write(config: options.WritingConfig) -> None:
    from reasonir.synth.pipeline import obey_sigterm, write_rows

    obey_sigterm()
    write_rows(config)


def _merge(config: options.MergeConfig) -> None:
    from reasonir.synth.merge import merge_shards

    merge_shards(config)


def _split(config: options.SplitConfig) -> None:
    from reasonir.synth.corpus.split import split_rows

    split_rows(config)


def _filter(config: options.FilterConfig) -> None:
    from reasonir.synth.corpus.filter import filter_corpus

    filter_corpus(config)


def _mine(config: options.MineConfig) -> None:
    from reasonir.synth.corpus.mine import mine_negatives

    mine_negatives(config)


RECIPES: dict[str, tuple[type, Callable[[Any], None]]] = {
    "filter": (options.FilterConfig, _filter),
    "hq": (options.QueryConfig, _write),
    "eq": (options.QueryConfig, _write),
    "vl": (options.VariedLengthConfig, _write),
    "negatives": (options.NegativesConfig, _write),
    "mine": (options.MineConfig, _mine),
    "rewrite": (options.RewriteConfig, _write),
    "merge": (options.MergeConfig, _merge),
    "split": (options.SplitConfig, _split),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe that `recipe=NAME` chooses, with Hydra overrides from the rest."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Read before Hydra sees the arguments: the recipe decides which options there are.
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith("recipe=")]
    if not chosen and any(argument in ("--help", "-h") for argument in arguments):
        show_page(_overview())
        sys.exit(0)
    # Hydra would take the last of two recipes as the value of an option, with the options of the first.
    if len(chosen) != 1 or chosen[0] not in RECIPES:
        said = f"unknown recipe {chosen[0]!r}" if len(chosen) == 1 else f"{len(chosen)} recipes given"
        print(f"reasonir-synth: error: {said}; recipe= one of {', '.join(RECIPES)}", file=sys.stderr)
        sys.exit(2)
    schema, run = RECIPES[chosen[0]]
    spelled_out = [_spell_out(argument) for argument in arguments]
    run_command("reasonir-synth", f"synth/{chosen[0]}", schema, run, spelled_out)


def _spell_out(argument: str) -> str:
    """Return judge=true as judge.enabled=true, any other argument as it is."""
    name, sign, value = argument.partition("=")
    return f"judge.enabled={value}" if sign and name == "judge" else argument


def _overview() -> str:
    lines = ["usage: reasonir-synth recipe=NAME [option=value ...]", "", "recipes:"]
    lines += [f"  {name:10} {(schema.__doc__ or '').strip()}" for name, (schema, _) in RECIPES.items()]
    return "\n".join([*lines, "", "reasonir-synth recipe=NAME --help lists a recipe's options."])
