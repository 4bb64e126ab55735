"""Folders of answers for the tests of their page: what mmlu, gpqa and multiple_choice write, texts made up."""

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from reasonir.core.files import write_json
from reasonir.eval.scores.significance import mcnemar, wilson_interval
from tests.kit.report_folders import SYLLABLES
from tests.kit.texts import write_rows

GROUPS = {
    "humanities": ("philosophy", "world_religions", "formal_logic"),
    "other": ("anatomy", "nutrition", "virology"),
    "social_sciences": ("econometrics", "sociology", "high_school_government_and_politics"),
    "stem": ("college_physics", "machine_learning", "astronomy"),
}
SUBJECTS = [(group, subject) for group, subjects in GROUPS.items() for subject in subjects]
CONDITIONS = {"closed_book": 0.5, "retrieved": 0.65, "gold_passages": 0.8}
"""Condition to the chance that an answer is right."""
TOP, HITS = 3, 10


def write_answers_folder(
    folder: Path,
    count: int = 300,
    conditions: Sequence[str] = tuple(CONDITIONS),
    samples: int = 1,
    gold: bool = True,
    words: int = 120,
    texts: Sequence[str] = (),
) -> Path:
    """Write a finished folder. words: of an answer, at most. texts: put into the first questions, wherever text is."""
    draw, vocabulary = random.Random(11), _vocabulary()

    def text(length: int) -> str:
        return " ".join(draw.choices(vocabulary, k=length))

    questions, retrieved, answers, passages = [], [], [], {}
    for number in range(count):
        group, subject = SUBJECTS[number % len(SUBJECTS)]
        own = texts[number] if number < len(texts) else ""
        name, options = f"{subject}-{number}{own}", [own + text(4) for _ in range(4)]
        question = {"id": name, "text": own or text(40), "options": options, "answer": draw.choice("ABCD")}
        question |= {"subject": own or subject, "group": group, "gold": [], "order": [0, 1, 2, 3]}
        questions.append(question)
        hits = [f"{own}page-{draw.randrange(10_000)}_{hit}" for hit in range(HITS)]
        good = [draw.choice(hits[:TOP]) if draw.random() < 0.5 else draw.choice((hits[7], f"page-{number}_far"))]
        has_gold = gold and number % 5 > 0
        query = "\n".join([str(question["text"]), *(f"{a}. {b}" for a, b in zip("ABCD", options, strict=True))])
        row = {"id": name, "query": own or (query, question["text"], text(60))[number % 3], "gold": good * has_gold}
        retrieved.append({**row, "hits": [{"id": hit, "score": 0.9 - rank / 77} for rank, hit in enumerate(hits)]})
        given = {"closed_book": [], "retrieved": hits[:TOP], "gold_passages": good}
        for condition in conditions:
            if condition == "gold_passages" and not has_gold:
                continue
            passages |= {hit: own or text(100) for hit in given[condition] if hit not in passages}
            for sample in range(1, samples + 1):
                said = own or text(draw.randint(2, words))
                answers.append(_answer(question, condition, sample, given[condition], said, draw))
    folder.mkdir(parents=True)
    write_rows(folder / "questions.jsonl", questions)
    write_rows(folder / "answers.jsonl", answers)
    searched = "retrieved" in conditions
    write_rows(folder / "passages.jsonl", [{"id": i, "content": content} for i, content in sorted(passages.items())])
    if searched:
        write_rows(folder / "retrieved.jsonl", retrieved)
    report = figures(questions, answers, [row for row in retrieved if row["gold"]] if searched and gold else [])
    write_json(folder / "accuracy.json", {**report, "title": (texts or ["made-up: reader"])[0]})
    options = {"datastore": "pool" if searched else None, "retriever": "bm25", "top": TOP, "queries": "question"}
    options |= {"generator": {"model": "org/reader"}, "data": {"file": "questions.jsonl"}, "samples": samples}
    (folder / "config.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    write_json(folder / "manifest.json", {"command": ["reasonir-eval", "gpqa"], "wall_seconds": 75.3})
    return folder


@cache
def _vocabulary() -> list[str]:
    draw = random.Random(5)
    return ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(20_000)]


def _answer(
    question: dict[str, Any], condition: str, sample: int, passages: list[str], text: str, draw: random.Random
) -> dict[str, Any]:
    right, chance = question["answer"], draw.random()
    wrong = draw.choice([letter for letter in "ABCD" if letter != right])
    letter = right if chance < CONDITIONS[condition] else "" if chance > 0.97 else wrong
    dropped = int(len(passages) > 1 and draw.random() < 0.25)
    return {
        "id": question["id"], "condition": condition, "sample": sample, "letter": letter,
        "stage": draw.choice(("phrase", "last_line")) if letter else "none_found", "guess": "" if letter else "B",
        "correct": letter == right, "passages": passages[: len(passages) - dropped], "dropped": dropped,
        "finish": "stop", "error": "", "input_tokens": 812, "output_tokens": 96, "text": text,
    }  # fmt: skip


def figures(
    questions: list[dict[str, Any]], answers: list[dict[str, Any]], with_gold: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what accuracy.json holds, the plain way; p-values are those of the first sample."""
    names = list(dict.fromkeys(row["condition"] for row in answers))
    own = {name: [row for row in answers if row["condition"] == name] for name in names}
    shares = {name: _shares(rows) for name, rows in own.items()}
    known = {question["id"]: question for question in questions}
    conditions = {}
    for name, rows in own.items():
        samples = [mean(r["correct"] for r in rows if r["sample"] == s) for s in sorted({r["sample"] for r in rows})]
        entry: dict[str, Any] = {"all": _figures(rows), "samples": samples, "samples_interval": None}
        for kind in ("group", "subject"):
            parts = {known[row["id"]][kind] for row in rows}
            entry[f"{kind}s"] = {p: _figures([r for r in rows if known[r["id"]][kind] == p]) for p in sorted(parts)}
        conditions[name] = entry
    moves = []
    for a, b in ((a, b) for place, a in enumerate(names) for b in names[place + 1 :]):
        steps = [shares[b][i] - shares[a][i] for i in shares[a] if i in shares[b]]
        gained, lost = sum(step > 0 for step in steps), sum(step < 0 for step in steps)
        move = {"a": a, "b": b, "questions": len(steps), "difference": mean(steps), "gained": gained, "lost": lost}
        moves.append({**move, "p_value": mcnemar(gained, lost), "samples_p_values": [], "groups": {}})
    dropped = {name: sum(row["dropped"] > 0 for row in rows) for name, rows in own.items()}
    counts = {name: {"answers_with_passages_dropped": count} for name, count in dropped.items()}
    rates = {"questions": len(with_gold), "at": {str(d): _found(with_gold, d) for d in (1, 3, 5, 10) if with_gold}}
    return {"questions": len(questions), "confidence": 0.95, "conditions": conditions, "differences": moves,
            "counts": counts, "retrieval": rates if with_gold else None}  # fmt: skip


def _shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    by_question: dict[str, list[bool]] = {}
    for row in rows:
        by_question.setdefault(row["id"], []).append(row["correct"])
    return {name: mean(values) for name, values in by_question.items()}


def _figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    shares = _shares(rows)
    accuracy = mean(shares.values())
    interval = wilson_interval(accuracy, len(shares), 0.95)
    return {"questions": len(shares), "answers": len(rows), "accuracy": accuracy, "interval": interval,
            "unreadable": sum(not row["letter"] for row in rows), "accuracy_with_guesses": accuracy,
            "interval_with_guesses": interval}  # fmt: skip


def _found(rows: list[dict[str, Any]], depth: int) -> dict[str, Any]:
    hits = sum(row["gold"][0] in [hit["id"] for hit in row["hits"][:depth]] for row in rows)
    return {"hits": hits, "rate": hits / len(rows), "interval": wilson_interval(hits / len(rows), len(rows), 0.95)}
