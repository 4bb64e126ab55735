"""A prompt as the tokens that a model reads, how long it may be, and how its documents are cut to fit.

Invariants: `chat_tokens` is the prompt of the engine in this process, and of any server that runs the same tokenizer. A
prompt that `Context.fit` returns has at most `tokens` tokens, counted by the tokenizer or the estimate, and every cut
is counted. A caller that leaves documents out instead of cutting them asks `Context.holds`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonir.core.errors import UserError
from reasonir.llm.records import Message
from reasonir.text.lengths import SAFE_BYTES, estimate_tokens

# Estimated tokens that a chat template puts around a turn.
TOKENS_PER_TURN = 16
# Form of a turn, and of the opening of the answer, for a tokenizer that has no chat template.
PLAIN_TURN, PLAIN_OPENING = "{role}: {content}\n\n", "assistant:"
# Turns a query and documents into a prompt.
Render = Callable[[str, list[str]], tuple[Message, ...]]


def chat_text(tokenizer: Any, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> str:
    """Return the prompt as a text; a chat template has written its special tokens into it.

    Args:
        tokenizer: Of the model, with or without a chat template.
        messages: The conversation.
        variables: Further variables of the template (generator.chat_template_kwargs).
    """
    turns = [{"role": message.role, "content": message.content} for message in messages]
    if not getattr(tokenizer, "chat_template", None):
        return "".join(PLAIN_TURN.format(**turn) for turn in turns) + PLAIN_OPENING
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **(variables or {})))


def chat_tokens(tokenizer: Any, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> list[int]:
    """Return the prompt as token ids.

    Args:
        tokenizer: As for `chat_text`.
        messages: As for `chat_text`.
        variables: As for `chat_text`.
    """
    # A chat template has written the special tokens already; the tokenizer would put its own in front once more.
    plain = not getattr(tokenizer, "chat_template", None)
    return list(tokenizer.encode(chat_text(tokenizer, messages, variables), add_special_tokens=plain))


@dataclass(frozen=True, slots=True)
class Context:
    """The room that prompts have.

    tokens: of a prompt, without its answer. tokenizer: counts; None estimates. variables: of its chat template.
    """

    tokens: int
    tokenizer: Any | None = None
    variables: Mapping[str, Any] | None = None

    def fit(self, render: Render, query: str, documents: list[str], counts: Counter[str]) -> tuple[Message, ...]:
        """Return the prompt, its documents cut where it would be too long.

        All documents are cut to one length, the largest that fits; shorter ones stay whole. A query that takes more
        than half of the room is first cut to that half.

        Args:
            render: Makes the prompt of a query and documents.
            query: Its text.
            documents: Their texts.
            counts: Takes `queries_cut` and `documents_cut`.
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
        # Below one token a document the question would be about texts that are not there.
        while room >= len(documents):
            share = largest_share(lengths, room)
            short = [text if n <= share else self.cut(text, share) for text, n in zip(documents, lengths, strict=True)]
            messages = render(query, short)
            # Where two texts meet, tokens join or split, so that the parts may add up to more than was reckoned.
            excess = self._count(messages) - self.tokens
            if excess <= 0:
                counts["documents_cut"] += sum(n > share for n in lengths)
                return messages
            room -= excess
        raise UserError(
            f"context_tokens leaves {self.tokens} tokens for a prompt, too few for {len(documents)} documents: raise "
            "it, or lower generator.max_new_tokens, window or group_size"
        )

    def length(self, text: str) -> int:
        """Return the number of tokens of a text on its own."""
        if self.tokenizer is None:
            return estimate_tokens(len(text.encode()), SAFE_BYTES)
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def cut(self, text: str, tokens: int) -> str:
        """Return the longest beginning of a text with at most so many tokens."""
        if tokens <= 0:
            return ""
        if self.tokenizer is None:
            return text.encode()[: tokens * SAFE_BYTES].decode(errors="ignore")
        # A slow tokenizer gives no offsets: the text is made of its tokens again, where white space may change.
        if not self.tokenizer.is_fast:
            return str(self.tokenizer.decode(self.tokenizer.encode(text, add_special_tokens=False)[:tokens]))
        ends = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return text[: ends[min(tokens, len(ends)) - 1][1]] if ends else text

    def holds(self, messages: tuple[Message, ...]) -> bool:
        """Return whether a prompt fits."""
        # A token has at least one byte, so that most prompts need no tokenizing. 1: a special token in front.
        if (
            self.tokenizer is not None
            and len(chat_text(self.tokenizer, messages, self.variables).encode()) < self.tokens
        ):
            return True
        return self._count(messages) <= self.tokens

    def _count(self, messages: tuple[Message, ...]) -> int:
        if self.tokenizer is None:
            return sum(self.length(message.content) + TOKENS_PER_TURN for message in messages)
        return len(chat_tokens(self.tokenizer, messages, self.variables))


def open_context(
    context_tokens: int, answer_tokens: int, tokenizer: str | None, local_model: str | None, max_model_len: int | None,
    variables: Mapping[str, Any] | None = None,
) -> Context:  # fmt: skip
    """Return the room that prompts have beside their answers.

    Args:
        context_tokens: Tokens of prompt and answer together that the caller wants.
        answer_tokens: Tokens of the longest answer.
        tokenizer: Folder or hub id; None is the local model's own, else the estimate.
        local_model: Folder or hub id of a model that runs in this process; None where a server answers.
        max_model_len: The engine's own limit of prompt and answer; None for none.
        variables: Further variables of the chat template.
    Raises:
        UserError: no room is left.
    """
    tokenizer = tokenizer or local_model
    limits = (context_tokens, max_model_len, longest_input(local_model) if local_model else None)
    room = min(limit for limit in limits if limit is not None) - answer_tokens
    if room <= 0:
        raise UserError(f"context_tokens={context_tokens} leaves no room beside {answer_tokens} tokens")
    return Context(room, load_tokenizer(tokenizer) if tokenizer else None, variables)


def longest_input(path: str) -> int | None:
    """Return the longest input that a model's config.json declares; None where transformers does not know the model."""
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
    """Return a tokenizer of transformers that does not warn of long texts."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"tokenizer={path} does not load: {' '.join(str(error).split())[:300]}") from error
    tokenizer.model_max_length = 10**9
    return tokenizer
