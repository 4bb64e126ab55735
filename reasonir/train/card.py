"""The card of a trained model: what it says of the training, and its upload to the hub.

Invariants: every number is counted by the run or written in its options. Of a local path the card names the last part
only. The upload leaves the folder as it is. Its token comes from the environment (HF_TOKEN) or from the machine's
login, never from an option, a file of ours or a message. `model/card.py` has the card's text; `reasonir-eval card`
adds what is measured later.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir import __version__
from reasonir.core.errors import RunStopped, UserError
from reasonir.core.files import write_text
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
from reasonir.train.data.sources import Source
from reasonir.train.prepare import Work

HUB = "hub:"
BRIGHT_ON_HUB = "xlangai/BRIGHT"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """What a finished run tells its card.

    name: owner/name on the hub, None without an upload. folder_name: of the run. base_path: the model that training
    began from, None for new weights. state: where the run ended. adapter_rank: 0 without adapters. settings: the
    options that decide what was learned.
    """

    name: str | None
    folder_name: str
    base_path: str | None
    licence: str | None
    work: Work
    state: TrainingState
    adapter_rank: int
    engine: str
    settings: dict[str, Any]


def write_card(folder: Path, encoder: Encoder, run: TrainingFacts) -> None:
    """Write README.md into the finished model's folder.

    Args:
        folder: Where the model was saved.
        encoder: The model that was saved there.
        run: What was done.
    """
    from huggingface_hub import ModelCardData

    # The saved folder, not the options, says what a reader of the card has to do.
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))["prompts"]
    limits = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    base = base_model(run.base_path)
    facts = {
        "title": run.name or run.folder_name,
        "version": __version__,
        "origin": f"from {base or Path(run.base_path).name}" if run.base_path else "from new weights",
        "dimension": encoder.dimension,
        **describe_pooling(encoder.pooling, encoder.preset.attention, encoder.preset.pools_prompt),
        "max_tokens": limits["max_seq_length"],
        "place": run.name or ".",
        "instruction": run.work.batches.common_query_instruction,
        "query_prompt": prompts["query"],
        "document_prompt": prompts["document"],
        "sources": _sources_table(run),
        "remarks": [*run.work.differences_from_published, *_overlaps(run.work.sources)],
        "facts": _run_sentence(run, sum(p.numel() for p in encoder.parameters())),
        "settings": _settings_table(run.settings),
        "evaluation": section(EVALUATION, "Not measured yet. To measure it and write the table here:\n\n" + _command(
            "reasonir-eval bright data.hub=xlangai/BRIGHT model.path=MODEL output_dir=RESULTS",
            "reasonir-eval card model.path=MODEL results=[RESULTS]",
        )),
        "contamination": section(CONTAMINATION, "Not measured: whether texts of an evaluation stand in the training "
        "data is not known. To count them and write the statement here:\n\n" + _command(
            f"reasonir-eval contamination {_rows_option(run.work.sources)} data.hub=xlangai/BRIGHT output_dir=OVERLAP",
            "reasonir-eval card model.path=MODEL contamination=OVERLAP",
        )),
    }  # fmt: skip
    # Fields that are None are left out; the hub's page is made from the rest.
    front_matter = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction",
        tags=["sentence-transformers", "feature-extraction", "retrieval"],
        base_model=base,
        license=run.licence,
    )
    write_text(folder / CARD_FILE, render_card(front_matter.to_dict(), facts))


@contextmanager
def kept_measurements(folder: Path) -> Iterator[None]:
    """Keep the measured sections of a finished model's card while model and card are written anew.

    A model of other weights does not get them back.
    """
    bodies = {name: read_section(folder / CARD_FILE, name) for name in (EVALUATION, CONTAMINATION)}
    found = {name: body for name, body in bodies.items() if body is not None}
    digest = weights_digest(folder) if found else None
    yield
    if found and digest == weights_digest(folder):
        for name, body in found.items():
            replace_section(folder / CARD_FILE, name, body)


def base_model(model_path: str | None) -> str | None:
    """Return the hub id that training began from; None for a folder and for new weights."""
    # A path that exists here is a folder, even if it looks like owner/name.
    path = (model_path or "").removeprefix(HUB)
    return path if path.count("/") == 1 and path[0] not in "/.~" and not Path(path).exists() else None


def _sources_table(run: TrainingFacts) -> str:
    """Return the table of training data."""
    rows = []
    batches = run.work.batches
    use = batches.epoch_report(run.state.step)
    for source, store, share, used in zip(run.work.sources, batches.stores, batches.shares, use, strict=True):
        instruction = store.meta["query_instruction"]
        rows.append([
            _place_name(source.name),
            _place_name(source.path),
            f"{store.rows:,}",
            f"{store.left_out + store.unusable:,}",
            f"{share:.2%}",
            f"{used['rows_drawn']:,}",
            "several" if instruction is None else instruction or "none",
            source.licence or "not given",
        ])  # fmt: skip
    header = ["source", "file", "rows", "left out", "share of batches", "rows drawn", "instruction", "licence"]
    return markdown_table(header, rows, compact=True)


def _place_name(path: str) -> str:
    """Return what a card calls a path: a hub name whole, of a local path the last part."""
    inside = path.removeprefix(HUB)
    local = not path.startswith(HUB) or Path(inside.split(":")[0]).is_dir()
    return Path(inside).name if local else inside


def _overlaps(sources: list[Source]) -> list[str]:
    """Return a line for every source whose rows are made from the documents of an evaluation."""
    lines = []
    for source in sources:
        evaluations = [_place_name(path) for path in source.documents if _is_bright(path)]
        if evaluations:
            lines.append(
                f"Rows of {_place_name(source.name)} name documents of {' and '.join(evaluations)} by id: seed "
                "documents and positives are the evaluation's own documents; training has seen parts of its corpus."
            )
    return lines


def _is_bright(path: str) -> bool:
    """Say whether a corpus is BRIGHT, or a folder in its form."""
    place = path.removeprefix(HUB)
    if not Path(place).is_dir():
        return place.split(":")[0] == BRIGHT_ON_HUB
    try:
        return bool(list_bright_tasks(place))
    except UserError:
        return False


def _run_sentence(run: TrainingFacts, parameters: int) -> str:
    """Return the sentence of what was done, on whatever data."""
    state, batches, ranks = run.state, run.work.batches, world_size()
    each = " to ".join(f"{size:,}" for size in sorted({min(batches.sizes), max(batches.sizes)}))
    drawn = sum(source["rows_drawn"] for source in batches.epoch_report(state.step))
    steps = f"{state.step:,} steps of {each} queries ({drawn:,} in all)"
    adapters = f", low-rank adapters of rank {run.adapter_rank}" if run.adapter_rank else ""
    return (
        f"{steps}, {state.tokens:,} tokens; {parameters:,} parameters in the trained model{adapters}; "
        f"{ranks} rank{'s' * (ranks > 1)} ({run.engine}), precision {state.precision}; "
        "contrastive loss (InfoNCE) over all documents of the global batch, AdamW."
    )


def _settings_table(settings: dict[str, Any]) -> str:
    """Return the table of hyper-parameters; those that are None are left out."""
    rows = [[f"`{name}`", value] for name, value in settings.items() if value is not None]
    return markdown_table(["option", "value"], rows, compact=True)


def _rows_option(sources: list[Source]) -> str:
    """Return the options that name this training data to `reasonir-eval contamination`."""
    rows = ",".join(_argument(source.path) for source in sources)
    documents = dict.fromkeys(path for source in sources for path in source.documents)
    return f"rows=[{rows}]" + (f" documents=[{','.join(map(_argument, documents))}]" if documents else "")


def _argument(path: str) -> str:
    return f"{HUB if path.startswith(HUB) else ''}{_place_name(path)}"


def _command(*lines: str) -> str:
    """Return command lines as a block."""
    return "\n".join(["```sh", *lines, "```"])


def push(folder: Path, name: str) -> None:
    """Create the repository, private, if there is none, and upload the folder in one commit.

    Args:
        folder: The finished model.
        name: owner/name on the hub, or on the hub that HF_ENDPOINT names.
    Raises:
        RunStopped: No token, no network, no permission, or whatever else keeps the upload from its end.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    # The library's bars would break into our own lines.
    disable_progress_bars()
    try:
        hub = HfApi()
        hub.create_repo(name, private=True, exist_ok=True)
        done = hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Model trained with reasonir")
    except Exception as error:  # of the hub, of the network, of the disk; the library raises many kinds
        said = " ".join(str(error).split()) or type(error).__name__
        raise RunStopped(
            f"push_to_hub={name}: the upload failed, the model is kept in {folder}: {said}; "
            "resume=true with the same options tries again"
        ) from error
    print(f"pushed {folder} to {name}: {done.oid}")
