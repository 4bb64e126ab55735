"""Recipe `split`, top to bottom: training rows in, rows to train on and a task to measure on out.

Invariant: documents are held out, not rows. No row about a held-out document is trained on. Which documents are held
out depends on the texts of the corpus, `test_share` and `seed` alone, so that rows of several recipes split alike. The
task's corpus is the whole corpus: held-out documents stand among those that were trained on.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import write_jsonl
from reasonir.core.run_folder import RunFolder
from reasonir.core.stamp import digest_of
from reasonir.data.collections import read_documents
from reasonir.data.training_rows import TrainingExample
from reasonir.synth.config import MAY_DIFFER, SplitConfig
from reasonir.synth.recipes.inputs import read_rows_about

TRAIN_FILE, TASK_FOLDER = "train.jsonl", "heldout"


def split_rows(config: SplitConfig) -> dict[str, int]:
    """Write train.jsonl, and heldout/ in BRIGHT's layout (documents, examples, instruction).

    Returns:
        Counts: train, heldout, both (rows with positives on both sides, which go to neither), documents_heldout.
    Raises:
        UserError: unreadable input, a side without rows, held-out rows with several instructions.
    """
    run = RunFolder(config.output_dir, config, resume=True, ignored=MAY_DIFFER)
    documents = read_documents(config.corpus)
    # Distinct texts are held out, not ids: a copy under another id must not be trained on.
    held = hold_out(documents.values(), config.test_share, config.seed)
    counts: Counter[str] = Counter(train=0, heldout=0, both=0, documents_heldout=len(held))
    train, heldout = _divide(config.rows, documents, held, counts)
    if not counts["heldout"]:
        raise UserError(
            f"no row of {config.rows} is about one of the {counts['documents_heldout']} held-out documents: raise "
            f"test_share={config.test_share:g}, take another seed, or name the corpus that the rows were made from"
        )
    if not counts["train"]:
        raise UserError(f"no row of {config.rows} is left to train on: lower test_share={config.test_share:g}")
    # The last refusal; nothing is written before it.
    instruction = _instruction(config.rows, heldout)
    run.start()
    write_jsonl(run.path / TRAIN_FILE, train)
    _write_task(run.path / TASK_FOLDER, documents, heldout, instruction)
    inputs = [path for path in (config.rows, config.corpus) if not path.startswith("hub:")]
    run.finish(inputs=inputs, counts=dict(counts))
    print(
        f"{counts['train']} rows to train on: {run.path / TRAIN_FILE}\n"
        f"{counts['heldout']} rows held out, about {counts['documents_heldout']} of {len(documents)} documents: "
        f"{run.path / TASK_FOLDER}\n{counts['both']} rows left out, which have positives on both sides"
    )
    return dict(counts)


def hold_out(texts: Collection[str], share: float, seed: int) -> set[str]:
    """Return the texts that are held out, those that a seeded hash puts first.

    Args:
        texts: Of the corpus; equal ones count once, empty ones not at all.
        share: Of the distinct texts; at least one is held out.
        seed: Of the order.
    """
    # A hash of each text, not a shuffle: a document that joins the corpus moves hardly any other.
    distinct = sorted(
        {text for text in texts if text.strip()},
        key=lambda text: digest_of([f"{seed}\n{text}"]),
    )
    return set(distinct[: max(1, round(share * len(distinct)))])


def _divide(
    source: str, documents: Mapping[str, str], held: Collection[str], counts: Counter[str]
) -> tuple[list[dict[str, Any]], list[TrainingExample]]:
    """Return the rows to train on as they stand in the file, and the held-out ones as training would read them."""
    train: list[dict[str, Any]] = []
    heldout: list[TrainingExample] = []
    for row, example in read_rows_about(source, documents):
        sides = {positive.text in held for positive in example.positives}
        if len(sides) == 2:  # in training the row would show a held-out document, in the task it would have no answer
            counts["both"] += 1
        elif sides == {True}:
            heldout.append(example)
        else:
            # As it stands in the file: ids stay ids and further fields stay.
            train.append(row)
    counts["train"], counts["heldout"] = len(train), len(heldout)
    return train, heldout


def _instruction(source: str, heldout: list[TrainingExample]) -> str:
    """Return the instruction of the held-out queries.

    Raises:
        UserError: they have several; an evaluation gives all queries of a task one.
    """
    found = list(dict.fromkeys(example.query.instruction for example in heldout))
    if len(found) > 1:
        raise UserError(
            f"{source}: held-out rows have different instructions ({found[0]!r}, {found[1]!r}), and a task has one; "
            "split the rows of each by themselves"
        )
    return found[0]


def _write_task(folder: Path, documents: Mapping[str, str], heldout: list[TrainingExample], instruction: str) -> None:
    """Write a task of BRIGHT's layout; every id whose text is a positive's is gold."""
    named: dict[str, list[str]] = {}
    for identifier, text in documents.items():
        # Equal texts are gold under every id: a search that finds the copy is right.
        named.setdefault(text, []).append(identifier)
    names = _distinct_names(heldout)
    write_jsonl(folder / "documents.jsonl", ({"id": i, "content": text} for i, text in documents.items()))
    write_jsonl(
        folder / "examples.jsonl",
        (
            {
                "id": name,
                "query": example.query.text,
                "excluded_ids": [],
                "gold_ids": [identifier for positive in example.positives for identifier in named[positive.text]],
            }
            for name, example in zip(names, heldout, strict=True)
        ),
    )
    (folder / "instruction.txt").write_text(f"{instruction}\n", encoding="utf-8")


def _distinct_names(heldout: list[TrainingExample]) -> list[str]:
    """Return the rows' ids; with the line where an id stands several times."""
    times = Counter(example.id for example in heldout)
    return [example.id if times[example.id] == 1 else f"{example.id}:{example.line}" for example in heldout]
