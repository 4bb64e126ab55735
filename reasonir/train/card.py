"""What the card of a trained model says of its training: facts of the run and its configuration.

Invariant: every number is counted by the run or written in its configuration; of a local path only its last part is
named. Leaves the card's text to `model/card.py` and what is measured later to `reasonir-eval card`.
"""

import json
from pathlib import Path

from reasonir import __version__
from reasonir.core.errors import UserError
from reasonir.core.processes import world_size
from reasonir.data.bright import list_bright_tasks
from reasonir.model.card import (
    CARD_FILE,
    CONTAMINATION,
    EVALUATION,
    describe_pooling,
    read_section,
    render_card,
    replace_section,
    section,
)
from reasonir.model.encoder import Encoder
from reasonir.model.folders import weights_digest
from reasonir.text.markdown import markdown_table
from reasonir.train.checkpoint import TrainingState
from reasonir.train.config import TrainConfig
from reasonir.train.data.sources import list_sources, report_rows
from reasonir.train.prepare import Work

SETTINGS = (
    "query_max_tokens", "document_max_tokens", "global_batch_queries", "negatives_per_query", "learning_rate",
    "embedding_learning_rate", "warmup_steps", "weight_decay", "max_gradient_norm", "temperature", "seed",
)  # fmt: skip
HUB = "hub:"
BRIGHT_ON_HUB = "xlangai/BRIGHT"


def write_card(folder: Path, config: TrainConfig, work: Work, state: TrainingState, encoder: Encoder) -> None:
    """Write README.md into the finished model's folder.

    Args:
        encoder: what was saved there; of its parameters only the number is used.
    """
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))["prompts"]
    limits = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    base = base_model(config)
    facts = {
        "title": config.push_to_hub or Path(config.output_dir).resolve().name,
        "version": __version__,
        "origin": f"from {base or Path(config.model.path).name}" if config.model.path else "from new weights",
        "dimension": encoder.dimension,
        **describe_pooling(encoder.pooling, encoder.preset.attention, encoder.preset.pools_prompt),
        "max_tokens": limits["max_seq_length"],
        "place": config.push_to_hub or ".",
        "instruction": work.batches.common_query_instruction,
        "query_prompt": prompts["query"],
        "document_prompt": prompts["document"],
        "sources": describe_sources(config, work, state.step),
        "remarks": [*report_rows(config.data, work.batches.stores), *overlaps(config)],
        "facts": describe_run(config, state, sum(p.numel() for p in encoder.parameters())),
        "settings": describe_settings(config),
        "evaluation": section(EVALUATION, "Not measured yet. To measure it and write the table here:\n\n" + command(
            "reasonir-eval bright data.hub=xlangai/BRIGHT model.path=MODEL output_dir=RESULTS",
            "reasonir-eval card model.path=MODEL results=[RESULTS]",
        )),
        "contamination": section(CONTAMINATION, "Not measured: whether texts of an evaluation stand in the training "
        "data is not known. To count them and write the statement here:\n\n" + command(
            f"reasonir-eval contamination {rows_option(config)} data.hub=xlangai/BRIGHT output_dir=OVERLAP",
            "reasonir-eval card model.path=MODEL contamination=OVERLAP",
        )),
    }  # fmt: skip
    front_matter = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["sentence-transformers", "feature-extraction", "retrieval"],
        "base_model": base,
        "license": config.model.licence,
    }
    (folder / CARD_FILE).write_text(render_card(front_matter, facts), encoding="utf-8")


def read_measurements(folder: Path) -> tuple[str, dict[str, str]] | None:
    """Return the digest of a finished model's weights and what its card says was measured of them, if there is one."""
    bodies = {name: read_section(folder / CARD_FILE, name) for name in (EVALUATION, CONTAMINATION)}
    found = {name: body for name, body in bodies.items() if body is not None}
    return (weights_digest(folder), found) if found else None


def restore_measurements(folder: Path, measured: tuple[str, dict[str, str]] | None) -> None:
    """Put measurements back into the card of a finished run that was started again, if the weights are the same."""
    if measured is not None and measured[0] == weights_digest(folder):
        for name, body in measured[1].items():
            replace_section(folder / CARD_FILE, name, body)


def base_model(config: TrainConfig) -> str | None:
    """Return the hub id that training began from; None for a folder and for new weights."""
    path = (config.model.path or "").removeprefix(HUB)
    return path if path.count("/") == 1 and path[0] not in "/.~" and not Path(path).exists() else None


def describe_sources(config: TrainConfig, work: Work, steps: int) -> str:
    """Return the table of training data."""
    rows = []
    sources, stores = list_sources(config.data), work.batches.stores
    used = work.batches.epoch_report(steps)
    for source, store, share, count in zip(sources, stores, work.batches.shares, used, strict=True):
        instruction = store.meta["query_instruction"]
        rows.append([
            place_name(source.name),
            place_name(source.path),
            f"{store.rows:,}",
            f"{store.left_out + store.unusable:,}",
            f"{share:.2%}",
            f"{count['rows_drawn']:,}",
            "several" if instruction is None else instruction or "none",
            source.licence or "not given",
        ])  # fmt: skip
    header = ["source", "file", "rows", "left out", "share of batches", "rows drawn", "instruction", "licence"]
    return markdown_table(header, rows, compact=True)


def place_name(path: str) -> str:
    """Return what a card calls a path: a hub name whole, of a local path the last part."""
    inside = path.removeprefix(HUB)
    local = not path.startswith(HUB) or Path(inside.split(":")[0]).is_dir()
    return Path(inside).name if local else inside


def overlaps(config: TrainConfig) -> list[str]:
    """Return a line for every source whose rows are made from the documents of an evaluation."""
    lines = []
    for source in list_sources(config.data):
        evaluations = [place_name(path) for path in source.documents if is_bright(path)]
        if evaluations:
            lines.append(
                f"Rows of {place_name(source.name)} name documents of {' and '.join(evaluations)} by id: seed "
                "documents and positives are the evaluation's own documents; training has seen parts of its corpus."
            )
    return lines


def is_bright(path: str) -> bool:
    """Say whether a corpus is BRIGHT, or a folder in its form."""
    place = path.removeprefix(HUB)
    if not Path(place).is_dir():
        return place.split(":")[0] == BRIGHT_ON_HUB
    try:
        return bool(list_bright_tasks(place))
    except UserError:
        return False


def describe_run(config: TrainConfig, state: TrainingState, parameters: int) -> str:
    """Return the sentence of what was done, whatever it was done on."""
    queries = state.step * config.global_batch_queries
    batches = f"{state.step:,} steps of {config.global_batch_queries:,} queries ({queries:,} in all)"
    adapters = f", low-rank adapters of rank {config.lora.rank}" if config.lora.rank else ""
    return (
        f"{batches}, {state.tokens:,} tokens; {parameters:,} parameters in the trained model{adapters}; "
        f"{world_size()} rank{'s' * (world_size() > 1)} ({config.parallel.engine}), precision {state.precision}; "
        "contrastive loss (InfoNCE) over all documents of the global batch, AdamW."
    )


def describe_settings(config: TrainConfig) -> str:
    """Return the table of hyper-parameters."""
    values = {name: getattr(config, name) for name in SETTINGS}
    rows = [[f"`{name}`", value] for name, value in values.items() if value is not None]
    return markdown_table(["option", "value"], rows, compact=True)


def rows_option(config: TrainConfig) -> str:
    """Return the options that name this training data to `reasonir-eval contamination`."""
    sources = list_sources(config.data)
    rows = ",".join(_argument(source.path) for source in sources)
    documents = dict.fromkeys(path for source in sources for path in source.documents)
    return f"rows=[{rows}]" + (f" documents=[{','.join(map(_argument, documents))}]" if documents else "")


def _argument(path: str) -> str:
    return f"{HUB if path.startswith(HUB) else ''}{place_name(path)}"


def command(*lines: str) -> str:
    """Return command lines as a block."""
    return "\n".join(["```sh", *lines, "```"])
