"""Three ways to ask about a query's documents. Each is a conversation that ends in the documents' scores.

Invariant: what is asked depends on the query, its documents and earlier answers, never on time, so that a log of
answers replays it. Whatever goes wrong is counted. Leaves to `llm/conversations.py` how many queries are open at once.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from reasonir.core.errors import UserError
from reasonir.eval.rerank.answers import (
    DIGITS,
    LARGEST_GRADE,
    PHRASE,
    expected_score,
    read_grades,
    read_permutation,
    read_score,
)
from reasonir.eval.rerank.config import Method, RerankSettings, Scoring
from reasonir.eval.rerank.places import Shown, ranks_of
from reasonir.llm import Completion, Message, Request
from reasonir.llm.context import Context
from reasonir.llm.conversations import Conversation
from reasonir.llm.engines.chat_api import NO_LOGPROBS
from reasonir.llm.prompts import Prompt


@dataclass(slots=True)
class Reranked:
    """What the answers about one query say.

    scores: by document, in [0, 1], or -1 for an answer that cannot be read. counts: of the answers, by what happened.
    missing: for scoring=expected, the probability of everything but the digits seen, one entry an answer. shown: what
    each list of documents was given, for listwise and groupwise answers that could be read.
    """

    scores: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    missing: list[float] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)


def count_questions(settings: RerankSettings, documents: int) -> int:
    """Return the questions that a query with so many documents takes."""
    if settings.method is Method.pointwise:
        return documents * settings.samples
    if settings.method is Method.listwise:
        return sum(1 for _ in windows(documents, settings.window, settings.step))
    return settings.rounds * -(-documents // settings.group_size)


class Reranker:
    """Asks about the documents of one task."""

    def __init__(self, settings: RerankSettings, prompt: Prompt, context: Context) -> None:
        self.settings, self._prompt, self._context = settings, prompt, context
        self._logprobs_seen = False

    def converse(self, name: str, query: str, documents: Mapping[str, str]) -> Conversation[Reranked]:
        """Return the conversation about one query.

        Args:
            name: The query's id, which with the seed fixes the groups.
            query: Its text.
            documents: Texts by id, in the order of the run, best first.
        """
        if self.settings.method is Method.pointwise:
            return self._pointwise(query, documents)
        if self.settings.method is Method.listwise:
            return self._listwise(query, documents)
        return self._groupwise(name, query, documents)

    def _pointwise(self, query: str, documents: Mapping[str, str]) -> Conversation[Reranked]:
        """Grade each document by itself, as the paper does (arXiv 2504.20595)."""
        settings, result = self.settings, Reranked()
        requests = [
            replace(request, seed=settings.seed + sample) if settings.scoring is Scoring.raw else request
            for request in (self._request(query, [text], result.counts) for text in documents.values())
            for sample in range(settings.samples)
        ]
        # All in one turn, because no question depends on another's answer.
        answers = iter((yield requests))
        for document in documents:
            scores = [self._score(next(answers), result) for _ in range(settings.samples)]
            result.scores[document] = math.fsum(scores) / settings.samples
        return result

    def _score(self, answer: Completion, result: Reranked) -> float:
        _count_tokens(answer, result.counts)
        if self.settings.scoring is Scoring.expected:
            self._require_logprobs(answer)
        if not answer.answered:
            result.counts["failed"] += 1
            # Not -1: no answer came that could be unreadable, and the same command asks again.
            return 0.0
        if self.settings.scoring is Scoring.raw:
            return read_score(answer.text, result.counts)
        found = expected_score(answer.logprobs[0] if answer.logprobs else ())
        result.missing.append(found.missing)
        result.counts["no_digit"] += found.score is None
        result.counts["digits_absent"] += found.absent > 0
        return found.score or 0.0

    def _require_logprobs(self, answer: Completion) -> None:
        """Refuse a server whose answers have no log-probabilities; one answer among others may lack them."""
        lacks = answer.error == NO_LOGPROBS or (answer.finish in ("stop", "length") and not answer.logprobs)
        self._logprobs_seen = self._logprobs_seen or bool(answer.logprobs)
        if lacks and not self._logprobs_seen:
            raise UserError(
                "scoring=expected needs log-probabilities, and this server gives none; take a server or model that "
                "does, generator=vllm, or scoring=raw"
            )

    def _listwise(self, query: str, documents: Mapping[str, str]) -> Conversation[Reranked]:
        """Have windows put in order, from the bottom of the ranking to its top, as RankGPT does (arXiv 2304.09542).

        The score is the final place: 1 for the first of n documents, 1/n for the last.
        """
        result, order = Reranked(), list(documents)
        for start, end in windows(len(order), self.settings.window, self.settings.step):
            shown = order[start:end]
            # One by one, because a window holds the best documents of the window below.
            (answer,) = yield [self._request(query, [documents[name] for name in shown], result.counts)]
            if self._answered(answer, result.counts):
                counts: Counter[str] = Counter()
                places = read_permutation(answer.text, len(shown), counts)
                order[start:end] = [shown[i] for i in places]
                result.counts.update(counts)
                if not counts["unparsable"]:
                    ranks = ranks_of(places, len(shown) - counts["missing_documents"])
                    result.shown.append(list(zip(shown, ranks, strict=True)))
        # Places, not answers, make the score: a window that could not be read kept its order.
        result.scores = {name: (len(order) - place) / len(order) for place, name in enumerate(order)}
        return result

    def _groupwise(self, name: str, query: str, documents: Mapping[str, str]) -> Conversation[Reranked]:
        """Have groups graded side by side, 0 to 10, as GroupRank does (arXiv 2511.11653), with an untrained model.

        Each round shuffles the documents and deals every one of them into exactly one of several groups of nearly equal
        size. A document's score is its mean grade over the rounds that gave one, divided by 10; 0 where none did.
        """
        result, groups = Reranked(), []
        for number in range(self.settings.rounds):
            order = list(documents)
            # By the query's id and the round: groups must be the same after a kill, in whatever order queries are open.
            random.Random(f"{self.settings.seed}:{name}:{number}").shuffle(order)
            count = -(-len(order) // self.settings.group_size)
            groups += [order[first::count] for first in range(count)]
        grades: dict[str, list[float]] = {document: [] for document in documents}
        answers = yield [
            self._request(query, [documents[document] for document in group], result.counts) for group in groups
        ]
        for group, answer in zip(groups, answers, strict=True):
            if self._answered(answer, result.counts):
                given = read_grades(answer.text, len(group), result.counts)
                # Places as shown: a document without a grade would shift those behind it.
                if len(given) == len(group):
                    result.shown.append([(group[place], LARGEST_GRADE * given[place]) for place in range(len(group))])
                for place, grade in given.items():
                    grades[group[place]].append(grade)
        result.scores = {name: math.fsum(found) / len(found) if found else 0.0 for name, found in grades.items()}
        return result

    def _answered(self, answer: Completion, counts: Counter[str]) -> bool:
        _count_tokens(answer, counts)
        counts["failed"] += not answer.answered
        return answer.answered

    def _request(self, query: str, documents: list[str], counts: Counter[str]) -> Request:
        settings, single = self.settings, self.settings.method is Method.pointwise

        def render(question: str, texts: list[str]) -> tuple[Message, ...]:
            values = {"document": texts[0], "scoring": settings.scoring.value, "phrase": PHRASE}
            return self._prompt.messages({"query": question, **(values if single else {"documents": texts})})

        expected = settings.scoring is Scoring.expected
        return Request(
            id="",
            messages=self._context.fit(render, query, documents, counts),
            # An expected score reads the distribution itself, which sampling would not change.
            temperature=0.0 if expected else settings.temperature,
            top_p=1.0 if expected else settings.top_p,
            max_new_tokens=settings.answer_tokens,
            seed=None if expected else settings.seed,
            choices=DIGITS if expected else (),
        )


# Names that the turns of a method's prompt may use.
VARIABLES = {
    Method.pointwise: ("query", "document", "scoring", "phrase"),
    Method.listwise: ("query", "documents"),
    Method.groupwise: ("query", "documents"),
}


def _count_tokens(answer: Completion, counts: Counter[str]) -> None:
    tokens = answer.input_tokens + answer.output_tokens
    counts["answers"] += 1
    counts["input_tokens"] += answer.input_tokens
    counts["output_tokens"] += answer.output_tokens
    counts["token_pairs"] += tokens * (tokens + 1) // 2


def windows(length: int, window: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of windows over a ranking, from the bottom up; none where there is nothing to order.

    Args:
        length: Documents of the ranking.
        window: Documents of a window, at most.
        step: Places that a window lies above the one before it.
    """
    end = length
    while end > 1:
        start = max(0, end - window)
        yield start, end
        if start == 0:
            return
        end -= step
