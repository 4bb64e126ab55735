"""A conversation as the tokens that a model reads: the tokenizer's chat template, with the opening of the answer.

Invariant: `chat_tokens` is the prompt of the engine in this process, and of any server that runs the same tokenizer.
"""

from collections.abc import Sequence
from typing import Any

from reasonir.llm.records import Message

PLAIN_TURN, PLAIN_OPENING = "{role}: {content}\n\n", "assistant:"
"""Form of a turn, and of the opening of the answer, for a tokenizer that has no chat template."""


def chat_text(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Return the prompt as a text; a template has written its special tokens into it."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    if not getattr(tokenizer, "chat_template", None):
        return "".join(PLAIN_TURN.format(**turn) for turn in turns) + PLAIN_OPENING
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def chat_tokens(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Return the prompt as token ids."""
    plain = not getattr(tokenizer, "chat_template", None)
    return list(tokenizer.encode(chat_text(tokenizer, messages), add_special_tokens=plain))
