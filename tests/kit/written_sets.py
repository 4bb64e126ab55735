"""A small invented corpus and three sets of queries over it (hard, garbage, copies), as folders of a finished run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kit.texts import write_rows

PASSAGES_AND_HARD_QUERIES = [
    (
        "Bread rises because yeast ferments the sugars of the flour, and gluten holds the carbon dioxide that forms.",
        "What makes a baker's loaf puff up while it rests before going into an oven?",
    ),
    (
        "Honey bees dance in the dark of the hive: the angle of the waggle tells the others where the nectar lies.",
        "How do pollinating insects let their sisters know which direction flowers are in?",
    ),
    (
        "Glaciers carve valleys with a U-shaped floor, because ice scrapes the sides as well as the bottom.",
        "A hiker sees steep mountain walls around a broad flat basin. Which frozen agent shaped this landscape?",
    ),
    (
        "The kidney filters the blood and returns water to the body; little of it is lost while vasopressin is high.",
        "After a night without drinking, why is a person's urine so dark and concentrated?",
    ),
    (
        "A violin string that is made shorter by a finger vibrates faster, and the note becomes higher.",
        "Why does pressing down nearer to the bridge raise pitch on a fiddle?",
    ),
    (
        "Chess computers search millions of positions and cut off branches that cannot beat a move already found.",
        "How can a machine playing grandmasters avoid examining every possible continuation of the board game?",
    ),
    (
        "Vaccines show a harmless piece of a germ to immune cells, which remember it and answer quickly next time.",
        "Why would somebody given a jab against measles not fall ill when exposed years afterwards?",
    ),
    (
        "The moon pulls on the oceans, so that the sea stands high on the near and on the far side of the earth.",
        "What causes beach water levels to go up and down twice each day?",
    ),
    (
        "Rust is iron oxide; it needs oxygen and moisture, and salt lets the current of the reaction flow faster.",
        "Why do cars driven near coasts in winter corrode much sooner than those kept inland?",
    ),
    (
        "Roman engineers mixed volcanic ash into lime, and their harbour walls hardened under water.",
        "What ingredient let ancient Italian builders make concrete that set beneath waves?",
    ),
    (
        "When many savers withdraw at once, a bank must sell its loans at a loss and may fail though it was sound.",
        "Could a rumour alone bankrupt a healthy lender whose customers panic and ask for cash?",
    ),
    (
        "Chameleons change colour by spreading tiny crystals in their skin apart, which then reflect longer light.",
        "Through what mechanism can some lizards turn from green towards red when excited?",
    ),
]
OTHER_PASSAGES = [
    "Knitted cloth stretches because its loops can open; woven cloth holds its threads straight.",
    "A contract needs an offer, an acceptance and something given in return.",
    "Penguins keep their eggs on their feet under a fold of feathers.",
    "The printing press with movable type spread through Europe within fifty years.",
    "Sorting by merging takes time proportional to n log n in every case.",
    "Mushrooms send threads through rotting wood and digest it outside their bodies.",
    "Sails drive a boat against the wind because the keel resists the sideways force.",
    "In a sonnet fourteen lines follow a fixed pattern of rhymes.",
    "Potatoes came to Ireland from the Andes and fed a growing population.",
    "Lenses bring parallel rays together in a focus; a prism separates the colours.",
    "Soap has one end that likes water and one end that likes grease.",
    "A parliament may dismiss the government by a vote of no confidence.",
    "Cacti open their pores at night and store the acid until the day.",
    "Trains lean into curves so that passengers feel less of the sideways push.",
    "The heart of a whale beats only a few times a minute during a dive.",
    "Coral reefs bleach when warm water drives out the algae within them.",
    "Paper is made of fibres that cling together as the water drains away.",
    "Passwords are stored as salted hashes, so that a stolen list is of little use.",
    "Diamonds and graphite are both carbon; the bonds between the atoms differ.",
    "Marathon runners slow down when the glycogen of their muscles is used up.",
    "Inflation rises when more money chases the same goods.",
    "Owls hear where a mouse is because one ear sits higher than the other.",
    "Tea turns black when its leaves are bruised and left in the air.",
    "Satellites in a high orbit stay above one place of the equator.",
    "Maps of the whole globe must distort either areas or angles.",
    "Volcanoes above a sinking plate throw out ash and sticky lava.",
    "A judge may not decide a case in which a relative takes part.",
    "Clay that is fired in a kiln never becomes soft in water again.",
]
GARBAGE = [
    "What is the passage about?", "What is the main idea of the text?", "What is the answer to this question?",
    "What is the purpose of the above?", "asdf qwer zxcv lkjh poiu", "What is the topic of this passage?",
    "Explain the following.", "Question: what do you think? Answer:", "What is the passage about and why?",
    "blorp vint grask telloo wemp", "What is the author's point here?", "Please give more information on this matter.",
]  # fmt: skip
PASSAGES = [passage for passage, _ in PASSAGES_AND_HARD_QUERIES]
HARD = [query for _, query in PASSAGES_AND_HARD_QUERIES]
COPIES = [" ".join(passage.split()[:9]) for passage in PASSAGES]


def write_corpus(folder: Path) -> Path:
    """Write all passages as a corpus; return its file."""
    rows = [{"id": f"p{number}", "content": text} for number, text in enumerate([*PASSAGES, *OTHER_PASSAGES])]
    return write_rows(folder / "corpus.jsonl", rows)


def written_row(number: int, query: str, positive: str) -> dict[str, Any]:
    """Return a row as recipe=hq writes it."""
    provenance = {"recipe": "hq", "document": f"p{number}", "attempt": 1, "position": number}
    return {"id": f"p{number}", "query": ["", query], "pos": [["", positive]], "neg": [], "provenance": provenance}


def write_run(
    folder: Path, rows: Sequence[dict[str, Any]], rejections: Sequence[dict[str, Any]] = (), **options: Any
) -> Path:
    """Write a finished run of recipe=hq as far as its report reads it; return the folder.

    Args:
        folder: Is made.
        rows: data.jsonl.
        rejections: rejections.jsonl.
        options: Of config.yaml, beside recipe and seed.
    """
    folder.mkdir()
    write_rows(folder / "data.jsonl", list(rows))
    write_rows(folder / "rejections.jsonl", list(rejections))
    write_rows(folder / "completions.jsonl", [{"key": "00"}] * (len(rows) + len(rejections)))
    final = [line["reason"] for line in rejections if line["final"]]
    counts = {
        "in": len(rows) + len(final),
        "accepted": len(rows),
        "rejected": {reason: final.count(reason) for reason in sorted(set(final))},
        "tallies": {},
        "input_tokens": 300 * len(rows),
        "output_tokens": 20 * len(rows),
    }
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps({"recipe": "hq", "seed": 0} | options), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"counts": counts, "wall_seconds": 1.0}), encoding="utf-8")
    return folder
