"""How long a prompt may be, and how one of several documents is made to fit: they are cut, never a question left out.

Invariant: a prompt that `fit` returns has at most `tokens` tokens as counted; every cut is counted. A caller that drops
documents instead asks `holds`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reasonir.core.errors import UserError
from reasonir.llm.chat import chat_text, chat_tokens
from reasonir.llm.config import Engine, GeneratorConfig
from reasonir.llm.records import Message

BYTES_PER_TOKEN = 3
"""Estimate without a tokenizer, on the safe side: English has about 4 bytes a token, code 3, Chinese 3 to 4."""
TOKENS_PER_TURN = 16
"""Of a chat template around a turn, in that estimate."""
Render = Callable[[str, list[str]], tuple[Message, ...]]
"""From a query and documents to a conversation."""


@dataclass(frozen=True, slots=True)
class Context:
    """Room for prompts. tokens: of a prompt, without its answer. tokenizer: None estimates."""

    tokens: int
    tokenizer: Any | None = None

    def fit(self, render: Render, query: str, documents: list[str], counts: Counter[str]) -> tuple[Message, ...]:
        """Return the conversation, its documents cut where it would be too long.

        All documents are cut to one length, as long as fits; shorter ones stay whole. A query that takes more than half
        of the room is cut to that half first.

        Raises:
            UserError: the prompt's own words leave no room for documents.
        """
        messages = render(query, documents)
        if self.holds(messages):
            return messages
        room = self.tokens - self._count(render("", [""] * len(documents)))
        if self.length(query) > room // 2:
            counts["queries_cut"] += 1
            query = self.cut(query, max(room // 2, 0))
        room -= self.length(query)
        lengths = [self.length(document) for document in documents]
        while room >= len(documents):
            share = largest_share(lengths, room)
            short = [text if n <= share else self.cut(text, share) for text, n in zip(documents, lengths, strict=True)]
            messages = render(query, short)
            excess = self._count(messages) - self.tokens  # tokens join and part where texts meet
            if excess <= 0:
                counts["documents_cut"] += sum(n > share for n in lengths)
                return messages
            room -= excess
        raise UserError(
            f"context_tokens leaves {self.tokens} tokens for a prompt, too few for {len(documents)} documents: raise "
            "it, or lower generator.max_new_tokens, window or group_size"
        )

    def length(self, text: str) -> int:
        """Return the tokens of a text on its own."""
        if self.tokenizer is None:
            return -(-len(text.encode()) // BYTES_PER_TOKEN)
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def cut(self, text: str, tokens: int) -> str:
        """Return the beginning of a text that has at most so many tokens."""
        if tokens <= 0:
            return ""
        if self.tokenizer is None:
            return text.encode()[: tokens * BYTES_PER_TOKEN].decode(errors="ignore")
        if not self.tokenizer.is_fast:
            return str(self.tokenizer.decode(self.tokenizer.encode(text, add_special_tokens=False)[:tokens]))
        ends = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return text[: ends[min(tokens, len(ends)) - 1][1]] if ends else text

    def holds(self, messages: tuple[Message, ...]) -> bool:
        """Say whether a conversation fits."""
        if self.tokenizer is not None:  # bytes are an upper bound; most prompts need no tokenizing
            size = len(chat_text(self.tokenizer, messages).encode()) + 1  # a special token in front
            if size <= self.tokens:
                return True
        return self._count(messages) <= self.tokens

    def _count(self, messages: tuple[Message, ...]) -> int:
        if self.tokenizer is None:
            return sum(self.length(message.content) + TOKENS_PER_TURN for message in messages)
        return len(chat_tokens(self.tokenizer, messages))


def open_context(
    generator: GeneratorConfig,
    context_tokens: int,
    answer_tokens: int,
    tokenizer: str | None,
) -> Context:
    """Return the room that prompts have beside their answers.

    Args:
        tokenizer: folder or hub id; None is the model's own for vllm, else the estimate.
    Raises:
        UserError: no room is left.
    """
    in_process = generator.engine is Engine.vllm
    tokenizer = tokenizer or (generator.model if in_process else None)
    limits = (context_tokens, generator.max_model_len, longest_input(generator.model) if in_process else None)
    room = min(limit for limit in limits if limit is not None) - answer_tokens
    if room <= 0:
        raise UserError(f"context_tokens={context_tokens} leaves no room beside {answer_tokens} tokens")
    return Context(room, load_tokenizer(tokenizer) if tokenizer else None)


def longest_input(path: str) -> int | None:
    """Return the positions that a model's config.json declares; None where transformers does not know it."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError):
        return None
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def largest_share(lengths: Sequence[int], room: int) -> int:
    """Return the largest whole s for which the sum of min(length, s) is at most `room`."""
    left, parts = room, len(lengths)
    for length in sorted(lengths):
        if length * parts > left:
            return left // parts
        left, parts = left - length, parts - 1
    return max(lengths)


def load_tokenizer(path: str) -> Any:
    """Return a tokenizer of transformers; one without a length of its own, which would only warn."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"tokenizer={path} does not load: {' '.join(str(error).split())[:300]}") from error
    tokenizer.model_max_length = 10**9
    return tokenizer
