"""Answer functions for `tests.kit.servers`: what a language model would say to the prompts of reasonir-synth."""

import hashlib
import json
import random
from typing import Any

from tests.kit.servers import Reply, misbehaviours

NOUNS = [
    "river",
    "stone",
    "cell",
    "light",
    "enzyme",
    "market",
    "force",
    "theorem",
    "bridge",
    "garden",
    "engine",
    "protein",
    "signal",
    "current",
    "storm",
]
VERBS = ["moves", "holds", "bends", "drives", "feeds", "blocks", "warms", "joins", "splits", "carries"]


def prose(seed: str, count: int) -> str:
    """English of its own for every seed, of `count` words at least."""
    draw = random.Random(seed)
    sentences: list[str] = []
    while sum(len(sentence.split()) for sentence in sentences) < count:
        a, b, c = (f"{draw.choice(NOUNS)} {draw.randrange(10_000)}" for _ in range(3))
        sentences.append(f"Why is it that the {a} {draw.choice(VERBS)} the {b} when we put it near the {c}?")
    return " ".join(sentences)


def name_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([body["messages"], body.get("seed")]).encode()).hexdigest()


def is_first(body: dict[str, Any]) -> bool:
    """Whether a request shows no refused answer. A prompt's worked example is an answer too, but not this item's."""
    said = [message["content"] for message in body["messages"]]
    return not any("cannot be used" in text or "was refused" in text for text in said)


def good(body: dict[str, Any], earlier: int = 0) -> str:
    """A good answer, the same whenever it is asked for."""
    name = name_of(body)
    if "response_format" not in body:
        return prose(name, 60)
    fields = body["response_format"]["json_schema"]["schema"]["properties"]
    if "score" in fields:
        return json.dumps({"reason": "as drawn", "score": int(name, 16) % 6})
    if "tasks" in fields:
        return json.dumps({"tasks": [prose(f"{name}{number}", 12) for number in range(20)]})
    # An easy query, the only answer of one field that is called so, has at most 100 words.
    words = 40 if set(fields) == {"query"} else 320
    return json.dumps(
        {field: f"Rule {name[:8]}." if field == "idea" else prose(name + field, words) for field in fields}
    )


def picky(body: dict[str, Any], earlier: int = 0) -> str:
    """Like `good`, but a third of the first attempts are too short, and some queries are all the same."""
    name = int(name_of(body), 16)
    if is_first(body) and name % 3 == 0:
        return json.dumps({"idea": "Rule 1.", "query": "Why?"})
    return json.dumps({"idea": "Rule 1.", "query": prose("the same" if name % 7 == 1 else str(name), 60)})


def distinct(body: dict[str, Any], earlier: int = 0) -> str:
    """Like `picky`, but no two queries are the same."""
    answer = picky(body)
    return answer if "Why?" in answer else json.dumps({"idea": "Rule 1.", "query": prose(name_of(body), 60)})


def uneven(body: dict[str, Any], earlier: int = 0) -> Reply:
    """`picky` at a pace of its own for every request, so that answers come in another order than questions."""
    return Reply(text=picky(body), seconds=int(name_of(body), 16) % 50 / 1000 + 0.001)


def misbehaving(body: dict[str, Any], earlier: int = 0) -> "str | Reply":
    """Goes wrong for the documents that say how (`FAULT name`), once or for good."""
    text = json.dumps(body["messages"])
    answer, first = good(body), not earlier and is_first(body)
    for fault, reply in misbehaviours(answer).items():
        if f"FAULT {fault} always" in text or (f"FAULT {fault} once" in text and first):
            return reply
    return answer
