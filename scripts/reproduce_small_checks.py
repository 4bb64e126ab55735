"""What must hold after `reproduce.sh scale=small`: relations that some dozens of items allow, each with its interval.

No stored figures: another model or another corpus gives other numbers, and the same relations. Functions import what
they need: a plan prints the relations alone, and the imports take 2 s.
"""

import json
from collections.abc import Callable
from pathlib import Path

from reproduce_tiny_checks import rows

ACCEPTED = 0.3
"""Share of the passages that must end in an easy query."""
LOOP = 0.3
"""Share of repeated runs of words from which a text is a loop."""
Measure = Callable[[Path], tuple[str, bool]]


def items_end_once(folder: Path) -> tuple[str, bool]:
    """Every item of every recipe ends as a row or as a final rejection."""
    said, good = [], True
    for recipe in ("eq", "hq", "vl"):
        counts = json.loads((folder / f"synth/{recipe}/manifest.json").read_text(encoding="utf-8"))["counts"]
        ends = [row["id"] for row in rows(folder / f"synth/{recipe}/data.jsonl")]
        ends += [row["id"] for row in rows(folder / f"synth/{recipe}/rejections.jsonl") if row["final"]]
        good &= len(ends) == len(set(ends)) == counts["in"] > 0
        said.append(f"{recipe} {counts['accepted']} of {counts['in']}")
    return ", ".join(said), good


def enough_accepted(folder: Path) -> tuple[str, bool]:
    """The share of passages with an easy query, with Wilson's 95 % interval."""
    from reasonir.eval.scores.significance import wilson_interval

    counts = json.loads((folder / "synth/eq/manifest.json").read_text(encoding="utf-8"))["counts"]
    share = counts["accepted"] / counts["in"]
    low, high = wilson_interval(share, counts["in"], 0.95)
    return f"{share:.2f} ({low:.2f} to {high:.2f})", low > ACCEPTED


def nothing_copied(folder: Path) -> tuple[str, bool]:
    """No accepted query is a placeholder or a heading, or speaks of a passage that its reader has not seen."""
    from reasonir.llm.echoes import is_placeholder
    from reasonir.synth.gates.text import heading_form, source_mention

    queries = [row["query"][1] for recipe in ("eq", "hq") for row in rows(folder / f"synth/{recipe}/data.jsonl")]
    bad = [query for query in queries if is_placeholder(query) or heading_form(query) or source_mention(query)]
    return f"{len(bad)} of {len(queries)}", not bad and bool(queries)


def loss_falls(run: str) -> Measure:
    """Return the check that the mean loss of the last third lies below that of the first, with Welch's interval."""

    def measure(folder: Path) -> tuple[str, bool]:
        import numpy as np

        losses = np.array([row["train/loss_nats"] for row in rows(folder / f"train/{run}/metrics.jsonl")])
        first, last = np.array_split(losses, 3)[0], np.array_split(losses, 3)[-1]
        change = last.mean() - first.mean()
        half = 1.96 * np.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last))
        return f"{change:+.2f} nats ({change - half:+.2f} to {change + half:+.2f})", bool(change + half < 0)

    return measure


def difference(first: str, second: str, must: Callable[[float, float], bool]) -> Measure:
    """Return the check of a difference of nDCG@10 between two results, by the ends of its 95 % bootstrap interval."""

    def measure(folder: Path) -> tuple[str, bool]:
        import numpy as np

        from reasonir.eval.scores.results import read_results
        from reasonir.eval.scores.significance import bootstrap_interval

        ours, theirs = (next(iter(read_results(folder / name).values())).per_query() for name in (first, second))
        change = np.array([ours[query]["ndcg_at_10"] - theirs[query]["ndcg_at_10"] for query in theirs])
        interval = bootstrap_interval([change], 0.95, 10_000, True, np.random.default_rng(0)) or (0.0, 0.0)
        return f"{change.mean():+.3f} ({interval[0]:+.3f} to {interval[1]:+.3f})", must(*interval)

    return measure


def not_below(low: float, high: float) -> bool:
    """Whether an interval reaches 0 or lies above it: some forty queries show differences of ten points and more."""
    return high >= 0


def shown(low: float, high: float) -> bool:
    """Accept any interval: the line is there to be read."""
    return True


def rewritings_are_text(folder: Path) -> tuple[str, bool]:
    """Every query is there once, rewritten or as it was; nothing that is searched with runs in a loop."""
    from reasonir.text.noise import repetition

    counts = json.loads((folder / "rewrites/manifest.json").read_text(encoding="utf-8"))["counts"]
    (task,) = (folder / "texts/benchmark").iterdir()
    asked = {row["id"]: row["query"] for row in rows(task / "examples.jsonl")}
    written = {row["id"]: row["query"] for row in rows(folder / f"rewrites/{task.name}/small_128.jsonl")}
    loops = sum(repetition(text) > LOOP for name, text in written.items() if text != asked.get(name))
    kept = sum(counts["kept_original"].values())
    return (
        f"{len(written) - kept} of {len(asked)} rewritten, {loops} loops",
        written.keys() == asked.keys() and not loops,
    )


def same_documents(folder: Path) -> tuple[str, bool]:
    """Reranking keeps each query's documents."""
    from reasonir.eval.scores.results import read_results

    before, after = (next(iter(read_results(folder / name).values())).run() for name in ("bright/trained", "reranked"))
    same = sum(before[query].keys() == after[query].keys() for query in before)
    moved = sum(max(before[q], key=before[q].__getitem__) != max(after[q], key=after[q].__getitem__) for q in before)
    return f"{same} of {len(before)} queries, {moved} with another first", same == len(before) > 0


def questions_answered(folder: Path) -> tuple[str, bool]:
    """Every question has an answer on record in each condition; accuracies with Wilson's 95 % intervals."""
    from reasonir.eval.scores.significance import wilson_interval

    answers = rows(folder / "questions/answers.jsonl")
    asked = {row["id"] for row in rows(folder / "texts/questions.jsonl")}
    said, good = [], True
    for condition in sorted({row["condition"] for row in answers}):
        here = [row for row in answers if row["condition"] == condition]
        share = sum(row["correct"] for row in here) / len(here)
        low, high = wilson_interval(share, len(here), 0.95)
        good &= {row["id"] for row in here} == asked and len(here) == len(asked)
        said.append(f"{condition} {share:.2f} ({low:.2f} to {high:.2f})")
    return ", ".join(said), good and len(said) == 2


RELATIONS: tuple[tuple[str, str, str, Measure], ...] = (
    ("synth", "every item ends once", "all", items_end_once),
    ("synth", "share of passages with an easy query", f"above {ACCEPTED}", enough_accepted),
    ("synth", "placeholders, headings, talk of the passage among accepted queries", "0", nothing_copied),
    ("train", "loss falls, last third less first", "below 0", loss_falls("eq")),
    ("bright", "held-out queries: trained less untrained, nDCG@10", "not below 0",
     difference("bright/trained", "bright/untrained", not_below)),
    ("bright", "BENCHMARK: trained less untrained, nDCG@10", "not below 0",
     difference("bright/task_trained", "bright/task_untrained", not_below)),
    ("rewrite", "every query once, no loop is searched with", "all, 0", rewritings_are_text),
    ("rewrite", "BM25: rewritten less original queries, nDCG@10", "any; the interval tells",
     difference("bright/task_rewritten_bm25", "bright/task_bm25", shown)),
    ("rerank", "the same documents", "all", same_documents),
    ("rag", "every question answered, closed book and with a passage", "all", questions_answered),
    ("ablations", "loss falls without mined negatives", "below 0", loss_falls("plain")),
    ("ablations", "held-out queries: with less without mined negatives, nDCG@10", "any; the interval tells",
     difference("bright/trained", "bright/plain", shown)),
)  # fmt: skip
"""Step, what must hold, what is expected, and the measure."""
