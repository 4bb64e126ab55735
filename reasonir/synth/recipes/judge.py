"""A second reading of accepted rows: how well does each document serve the query, 0 to 5?

Invariant: a score is asked for on its own, without saying which document is meant to be the positive.
"""

from dataclasses import dataclass
from typing import Any

from reasonir.data.training_rows import InstructedText
from reasonir.llm.attempts import SERVER_ERROR, Rejection, Trail
from reasonir.llm.conversations import Conversation
from reasonir.llm.prompts import load_prompt
from reasonir.synth.config import JudgeConfig, RelevantNegative, WritingConfig
from reasonir.synth.recipes.writing import Answer, Author

VARIABLES = ("instruction", "query", "document")
MAX_NEW_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document to score. entry: as it stands in the row; text: what the judge reads."""

    entry: Any
    text: str


class Judge:
    """Scores, and drops or relabels by the thresholds."""

    def __init__(self, config: WritingConfig, judge: JudgeConfig) -> None:
        self.prompt = load_prompt("judge", config.prompts, VARIABLES, "score")
        self._config = judge
        tokens = min(MAX_NEW_TOKENS, config.generator.max_new_tokens)
        self._author = Author(
            config.recipe, self.prompt, config.generator, config.seed, temperature=0.0, max_new_tokens=tokens
        )

    def review(
        self, name: str, query: InstructedText, row: dict[str, Any], pos: list[Candidate], neg: list[Candidate],
        trail: Trail,
    ) -> Conversation[Rejection | None]:  # fmt: skip
        """Score a row's documents, rewrite its `pos` and `neg` by the scores, or return why it is rejected."""
        scores: dict[str, list[int]] = {"pos": [], "neg": []}
        for side, candidates in (("pos", pos), ("neg", neg)):
            for number, candidate in enumerate(candidates):
                score = yield from self._score(f"{name}:{side}{number}", query, candidate.text, trail)
                if isinstance(score, Rejection):
                    return score
                scores[side].append(score)
        limits = self._config
        row["provenance"]["judge"] = scores
        kept = [c.entry for c, s in zip(pos, scores["pos"], strict=True) if s >= limits.positive_min]
        relevant = [c.entry for c, s in zip(neg, scores["neg"], strict=True) if s > limits.negative_max]
        row["neg"] = [c.entry for c, s in zip(neg, scores["neg"], strict=True) if s <= limits.negative_max]
        if not kept:
            return Rejection("judge_positive", f"The positive scored {max(scores['pos'], default=0)} of 5.")
        relabel = limits.relevant_negative is RelevantNegative.relabel
        row["pos"] = kept + (relevant if relabel else [])
        if relevant and not relabel and not row["neg"]:
            return Rejection("judge_negative", f"The negative scored {max(scores['neg'])} of 5.")
        tallies = row["provenance"].setdefault("tallies", {})
        for tally, count in (("positives_dropped", len(pos) - len(kept)),
                             ("negatives_relabelled" if relabel else "negatives_dropped", len(relevant))):  # fmt: skip
            if count:
                tallies[tally] = count
        return None

    def _score(self, name: str, query: InstructedText, document: str, trail: Trail) -> Conversation[int | Rejection]:
        values = {"instruction": query.instruction, "query": query.text, "document": document}
        answer = yield from self._author.ask(name, values, lambda fields: None, trail)
        if isinstance(answer, Answer):
            return int(answer.fields["score"])
        return answer if answer.reason == SERVER_ERROR else Rejection("judge_unreadable", answer.detail)
