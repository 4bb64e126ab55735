"""Three ways to ask about a query's documents, each a coroutine: it yields questions, is sent answers, ends in scores.

Invariant: what is asked depends on the query, its documents and the answers before, never on time, so that a log of
answers replays it; what went wrong is counted. Leaves how many queries are open to `rerank_interleave.py`.
"""

import math
import random
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace

from reasonir.core.errors import UserError
from reasonir.eval.rerank.answers import DIGITS, PHRASE, expected_score, read_grades, read_permutation, read_score
from reasonir.eval.rerank.config import Method, RerankConfig, Scoring
from reasonir.llm import Completion, Message, Request
from reasonir.llm.context import Context
from reasonir.llm.engines.wire import NO_LOGPROBS
from reasonir.llm.prompts import Prompt


@dataclass(slots=True)
class Reranked:
    """A query's scores by document, in [0, 1] (or -1, unparsable); counts: of its answers. missing: mass beside the
    digits, one entry an answer (scoring=expected)."""

    scores: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    missing: list[float] = field(default_factory=list)


Steps = Generator[list[Request], list[Completion], Reranked]


class Reranker:
    """Asks about the documents of one task, as the options say."""

    def __init__(self, config: RerankConfig, prompt: Prompt, context: Context) -> None:
        self._config, self._prompt, self._context = config, prompt, context
        self._logprobs_seen = False

    def steps(self, name: str, query: str, documents: Mapping[str, str]) -> Steps:
        """Return the work on one query; `documents` are texts by id, best first."""
        if self._config.method is Method.pointwise:
            return self._pointwise(query, documents)
        if self._config.method is Method.listwise:
            return self._listwise(query, documents)
        return self._groupwise(name, query, documents)

    def _pointwise(self, query: str, documents: Mapping[str, str]) -> Steps:
        """Grade each document by itself, as the paper. arXiv 2504.20595."""
        config, result = self._config, Reranked()
        requests = [
            replace(request, seed=config.seed + sample) if config.scoring is Scoring.raw else request
            for request in (self._request(query, [text], result.counts) for text in documents.values())
            for sample in range(config.samples)
        ]
        answers = iter((yield requests))
        for document in documents:
            scores = [self._score(next(answers), result) for _ in range(config.samples)]
            result.scores[document] = math.fsum(scores) / config.samples
        return result

    def _score(self, answer: Completion, result: Reranked) -> float:
        _count_tokens(answer, result.counts)
        if self._config.scoring is Scoring.expected:
            self._require_logprobs(answer)
        if answer.finish == "error":
            result.counts["failed"] += 1
            return 0.0
        if self._config.scoring is Scoring.raw:
            return read_score(answer.text, result.counts)
        score, missing = expected_score(answer.logprobs[0] if answer.logprobs else ())
        result.missing.append(missing)
        result.counts["no_digit"] += score is None
        return score or 0.0

    def _require_logprobs(self, answer: Completion) -> None:
        """Refuse a server whose answers have no log-probabilities; one answer among others may lack them."""
        lacks = answer.error == NO_LOGPROBS or (answer.finish in ("stop", "length") and not answer.logprobs)
        self._logprobs_seen = self._logprobs_seen or bool(answer.logprobs)
        if lacks and not self._logprobs_seen:
            raise UserError(
                "scoring=expected needs log-probabilities, and this server gives none; take a server or model that "
                "does, generator=vllm, or scoring=raw"
            )

    def _listwise(self, query: str, documents: Mapping[str, str]) -> Steps:
        """Let windows be put in order, from the bottom of the ranking to its top, as RankGPT. arXiv 2304.09542.

        The score is the place at the end: 1 for the first of n documents, 1/n for the last.
        """
        result, order = Reranked(), list(documents)
        for start, end in windows(len(order), self._config.window, self._config.step):
            shown = order[start:end]
            (answer,) = yield [self._request(query, [documents[name] for name in shown], result.counts)]
            if self._answered(answer, result.counts):
                order[start:end] = [shown[i] for i in read_permutation(answer.text, len(shown), result.counts)]
        result.scores = {name: (len(order) - place) / len(order) for place, name in enumerate(order)}
        return result

    def _groupwise(self, name: str, query: str, documents: Mapping[str, str]) -> Steps:
        """Let groups be graded side by side, 0 to 10, after GroupRank (arXiv 2511.11653), with an untrained model.

        Each round deals the shuffled documents out to groups of nearly equal size, every document into exactly one. The
        score is the mean grade over the rounds that gave one, divided by 10; 0 where none did.
        """
        result, groups = Reranked(), []
        for number in range(self._config.rounds):
            order = list(documents)
            random.Random(f"{self._config.seed}:{name}:{number}").shuffle(order)
            hands = -(-len(order) // self._config.group_size)
            groups += [order[first::hands] for first in range(hands)]
        grades: dict[str, list[float]] = {document: [] for document in documents}
        answers = yield [
            self._request(query, [documents[document] for document in group], result.counts) for group in groups
        ]
        for group, answer in zip(groups, answers, strict=True):
            if self._answered(answer, result.counts):
                for place, grade in read_grades(answer.text, len(group), result.counts).items():
                    grades[group[place]].append(grade)
        result.scores = {name: math.fsum(found) / len(found) if found else 0.0 for name, found in grades.items()}
        return result

    def _answered(self, answer: Completion, counts: Counter[str]) -> bool:
        _count_tokens(answer, counts)
        counts["failed"] += answer.finish == "error"
        return answer.finish != "error"

    def _request(self, query: str, documents: list[str], counts: Counter[str]) -> Request:
        config, single = self._config, self._config.method is Method.pointwise

        def render(question: str, texts: list[str]) -> tuple[Message, ...]:
            values = {"document": texts[0], "scoring": config.scoring.value, "phrase": PHRASE}
            return self._prompt.messages({"query": question, **(values if single else {"documents": texts})})

        expected = config.scoring is Scoring.expected
        return Request(
            id="",
            messages=self._context.fit(render, query, documents, counts),
            temperature=0.0 if expected else config.generator.temperature,
            top_p=1.0 if expected else config.generator.top_p,
            max_new_tokens=config.answer_tokens(),
            seed=None if expected else config.seed,
            choices=DIGITS if expected else (),
        )


VARIABLES = {
    Method.pointwise: ("query", "document", "scoring", "phrase"),
    Method.listwise: ("query", "documents"),
    Method.groupwise: ("query", "documents"),
}
"""What the prompt of a method may use."""


def _count_tokens(answer: Completion, counts: Counter[str]) -> None:
    tokens = answer.input_tokens + answer.output_tokens
    counts["answers"] += 1
    counts["input_tokens"] += answer.input_tokens
    counts["output_tokens"] += answer.output_tokens
    counts["token_pairs"] += tokens * (tokens + 1) // 2


def windows(length: int, window: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of windows over `length` places, from the bottom up; none where there is nothing to order."""
    end = length
    while end > 1:
        start = max(0, end - window)
        yield start, end
        if start == 0:
            return
        end -= step
