"""A second reading of accepted rows: how well does each document serve the query, 0 to 5?

Invariant: each score is asked for by itself, and the prompt does not say which document is meant to be the positive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasonir.data.training_rows import InstructedText
from reasonir.llm.attempts import SERVER_ERROR, UNANSWERED, Rejection, Trail
from reasonir.llm.conversations import Conversation
from reasonir.llm.prompts import load_prompt
from reasonir.synth.recipes.writing import Answer, Author, Outcome, WritingSettings

VARIABLES = ("instruction", "query", "document")
# A reason of some sentences and a number, with room.
MAX_NEW_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document to score. entry: as the row has it; text: as the judge reads it."""

    entry: Any
    text: str


class Judge:
    """Scores the documents of a row, and drops or relabels them by thresholds."""

    def __init__(self, settings: WritingSettings, *, positive_min: int, negative_max: int, relabel: bool) -> None:
        """Load the prompt.

        Args:
            settings: The recipe's; the judge's temperature is 0.
            positive_min: A positive with a lower score is dropped.
            negative_max: A negative with a higher score is relevant.
            relabel: Make relevant negatives positives; False drops them.
        """
        self.prompt = load_prompt("judge", settings.prompts, VARIABLES, "score", example=settings.worked_example)
        tokens = min(MAX_NEW_TOKENS, settings.max_new_tokens)
        self._author = Author(replace(settings, temperature=0.0, max_new_tokens=tokens), self.prompt)
        self._positive_min, self._negative_max, self._relabel = positive_min, negative_max, relabel

    def _review(
        self,
        query: InstructedText,
        row: dict[str, Any],
        positives: Sequence[Candidate],
        negatives: Sequence[Candidate],
        trail: Trail,
    ) -> Conversation[Rejection | None]:
        """Rewrite a row's `pos` and `neg` by the scores, or return why the row is rejected."""
        # 1 one conversation for each document
        scores: dict[str, list[int]] = {"pos": [], "neg": []}
        for side, candidates in (("pos", positives), ("neg", negatives)):
            for number, candidate in enumerate(candidates):
                score = yield from self._score(f"{row['id']}:{side}{number}", query, candidate.text, trail)
                # A document without a score rejects the row: neither threshold can be applied to it.
                if isinstance(score, Rejection):
                    return score
                scores[side].append(score)
        row["provenance"]["judge"] = scores
        # 2 thresholds
        scored = list(zip(negatives, scores["neg"], strict=True))
        kept = [c.entry for c, score in zip(positives, scores["pos"], strict=True) if score >= self._positive_min]
        relevant = [candidate.entry for candidate, score in scored if score > self._negative_max]
        row["neg"] = [candidate.entry for candidate, score in scored if score <= self._negative_max]
        if not kept:
            return Rejection("judge_positive", f"The positive scored {max(scores['pos'], default=0)} of 5.")
        row["pos"] = kept + (relevant if self._relabel else [])
        # Only a row that lost its negatives: a row of hq has none to lose.
        if relevant and not self._relabel and not row["neg"]:
            return Rejection("judge_negative", f"The negative scored {max(scores['neg'])} of 5.")
        # 3 counts for the manifest
        # The recipe may have counted a cut document there.
        tallies = row["provenance"].setdefault("tallies", {})
        moved = "negatives_relabelled" if self._relabel else "negatives_dropped"
        counts = {"positives_dropped": len(positives) - len(kept), moved: len(relevant)}
        tallies |= {tally: count for tally, count in counts.items() if count}
        return None

    def _score(self, name: str, query: InstructedText, document: str, trail: Trail) -> Conversation[int | Rejection]:
        values = {"instruction": query.instruction, "query": query.text, "document": document}
        # No further check: the prompt's schema holds the score between 0 and 5.
        answer = yield from self._author.ask(name, values, lambda fields: None, trail)
        if isinstance(answer, Answer):
            return int(answer.fields["score"])
        # What the server did keeps its name: `Output` leaves an unanswered item to the next run.
        kept = answer.reason in (SERVER_ERROR, UNANSWERED)
        return answer if kept else Rejection("judge_unreadable", answer.detail)


def finish_row(
    judge: Judge | None,
    query: InstructedText,
    row: dict[str, Any],
    positives: Sequence[Candidate],
    negatives: Sequence[Candidate],
    trail: Trail,
) -> Conversation[Outcome]:
    """Return the outcome of a written row, after a second reading if there is a judge.

    Args:
        judge: None accepts the row.
        query: The row's query.
        row: A judge changes `pos`, `neg`, and `judge` and `tallies` of its provenance.
        positives: The documents of `pos`, in order.
        negatives: The documents of `neg`, in order.
        trail: Takes the tokens and the rejected answers.
    """
    if judge is not None:
        rejection = yield from judge._review(query, row, positives, negatives, trail)
        if rejection is not None:
            return Outcome(trail, rejection=rejection)
    return Outcome(trail, row)
