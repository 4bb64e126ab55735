"""Turns instruction and text into the encoder's token ids: one place for training, evaluation and export.

Invariants: every text has a token, an empty one too. Mean pooling leaves out the first `prefix_tokens` tokens of a
text, and truncation never cuts them.

Styles:
    reasonir    BOS + "<|user|>\\n" + instruction + "\\n<|embed|>\\n" + text, or BOS + "<|embed|>\\n" + text. The tags
                are plain text; BOS is the tokenizer's own (GritLM's hard-coded "<s>" is wrong for Llama). The text
                attends to everything before it, and the mean leaves that out. arXiv 2504.20595, release 0aac962.
                Where the last token is pooled, the tokenizer's own end token closes the text.
    plain       The tokenizer's special tokens around "instruction text", as sentence-transformers feeds BERT-like
                encoders. Without an instruction the mean includes every token, [CLS] and [SEP] too; with one it leaves
                out [CLS] and the instruction (sentence-transformers' `include_prompt=False`).
    e5_mistral  The tokenizer's special tokens around "Instruct: instruction\\nQuery: text"; a text without an
                instruction gets neither word. arXiv 2401.00368.
    qwen3       As e5_mistral, without the space after "Query:". arXiv 2506.05176.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.core.stamp import digest_of


class TemplateStyle(StrEnum):
    """Which text form a model was trained with."""

    reasonir = "reasonir"
    plain = "plain"
    e5_mistral = "e5_mistral"
    qwen3 = "qwen3"


# Strings before and after an instruction; the text follows.
_AROUND_INSTRUCTION = {
    TemplateStyle.reasonir: ("<|user|>\n", "\n<|embed|>\n"),
    TemplateStyle.plain: ("", " "),
    TemplateStyle.e5_mistral: ("Instruct: ", "\nQuery: "),
    TemplateStyle.qwen3: ("Instruct: ", "\nQuery:"),
}


LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """One text ready for the encoder.

    ids: int32 (L,), L >= 1. prefix_tokens: leading ids that a mean leaves out. truncated: whether the text was cut.
    """

    ids: np.ndarray
    prefix_tokens: int
    truncated: bool


def list_texts(texts: Iterable[str], name: str) -> list[str]:
    """Return texts as a list.

    Args:
        texts: From a caller; tables with gaps give NaN and None.
        name: Of the argument, for messages.

    Raises:
        TypeError: Something is no text; the message says where.
        UserError: A text is none that UTF-8 can write.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"{name}: give a list of texts, not {type(texts).__name__}")
    listed = list(texts)
    for place, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{place}] is {text!r:.40}, a {type(text).__name__}; give texts only")
        if not text.isascii() and LONE_SURROGATE.search(text):
            raise UserError(f"{name}[{place}] holds half a surrogate pair, which no tokenizer reads; take it out")
    return listed


def prompt(style: TemplateStyle, instruction: str) -> str:
    """Return the string before the text, without BOS or [CLS]."""
    instruction = instruction.strip()
    before, after = _AROUND_INSTRUCTION[style]
    if instruction:
        return f"{before}{instruction}{after}"
    return "<|embed|>\n" if style is TemplateStyle.reasonir else ""


def instruction_of(style: TemplateStyle, written: str) -> str | None:
    """Return the instruction for which `prompt` gives the string `written`; None if no instruction does."""
    if written == prompt(style, ""):
        return ""
    before, after = _AROUND_INSTRUCTION[style]
    instruction = written.removeprefix(before).removesuffix(after)
    return instruction if prompt(style, instruction) == written else None


class Template:
    """A tokenizer and a style; turns (instruction, text) pairs into token ids.

    Args:
        tokenizer: A fast tokenizer of transformers.
        style: The text form.
        document_prompt: Stands before texts without an instruction, in place of the style's own string.
        pools_prompt: The mean includes the tokens before the text; every `prefix_tokens` is then 0.
        end_token: Texts of the style reasonir end in the tokenizer's own end token, as those of other styles do.
    """

    def __init__(
        self,
        tokenizer: Any,
        style: TemplateStyle,
        *,
        document_prompt: str = "",
        pools_prompt: bool = False,
        end_token: bool = False,
    ) -> None:
        self._backend = whole_text_backend(tokenizer)
        self.style = style
        self.document_prompt = document_prompt
        self.pools_prompt = pools_prompt
        self._head: list[int]
        self._tail: list[int]
        if style is TemplateStyle.reasonir:
            bos = tokenizer.bos_token_id
            self._head = [bos] if bos is not None else []
            self._tail = special_tokens(self._backend)[1] if end_token else []
        else:
            self._head, self._tail = special_tokens(self._backend)
        # Of a text without any token: zeros would have no direction, and the neighbour's state is not its own.
        ids = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id, 0)
        self._blank = next(i for i in ids if i is not None)
        # The fingerprint is part of cache keys. "1" is the version of this file's rules: raise it when they change.
        description = f"{self._backend.to_str()}|{style}|{self._head}|{self._tail}|1"
        # The rule of prefixes changed for this style alone, the rule of empty texts where nothing surrounds them.
        if style is TemplateStyle.reasonir and not pools_prompt:
            description += "|2"
        if not self._head and not self._tail and not self.prompt(""):
            description += f"|{self._blank}"
        # Only where they are set, so that caches from before there were these two stay valid.
        if document_prompt or pools_prompt:
            description += f"|{document_prompt!r}|{pools_prompt}"
        self.fingerprint: str = digest_of([description])

    def prompt(self, instruction: str) -> str:
        """Return the string before a text with this instruction ("" for documents)."""
        if instruction.strip():
            return prompt(self.style, instruction)
        return self.document_prompt or prompt(self.style, "")

    def encode(self, pairs: Sequence[tuple[str, str]], max_tokens: int) -> list[TokenizedText]:
        """Tokenise (instruction, text) pairs to at most `max_tokens` ids each, cutting the text's end.

        Raises:
            UserError: An instruction leaves no room for a single token of text.
        """
        # Prompt and text are tokenised as one string: a token may hold characters of both.
        prompts = [self.prompt(instruction) for instruction, _ in pairs]
        strings = [before + text for before, (_, text) in zip(prompts, pairs, strict=True)]
        encodings = self._backend.encode_batch(strings, add_special_tokens=False)
        alone = self._lengths_alone(set(prompts))
        return [
            self._assemble(
                encoding.ids,
                # A token that crosses from the tag into the text counts as the tag's where there are as many tokens.
                min(alone[before], len(encoding.ids))
                if alone
                else _first_token_from(encoding, len(before), len(string)),
                max_tokens,
            )
            for encoding, before, string in zip(encodings, prompts, strings, strict=True)
        ]

    def _lengths_alone(self, prompts: set[str]) -> dict[str, int]:
        """Return the tokens of each prompt by itself, of a style whose prompts end in a line end; of others {}.

        So many tokens are left out by the release, GritLM and sentence-transformers. A prompt that ends in a space is
        another matter: a byte-level tokenizer makes the space part of the text's first word.
        """
        if self.style is not TemplateStyle.reasonir:
            return {}
        ordered = sorted(prompts)
        encodings = self._backend.encode_batch(ordered, add_special_tokens=False)
        return {prompt: len(encoding.ids) for prompt, encoding in zip(ordered, encodings, strict=True)}

    def _assemble(self, ids: list[int], prompt_tokens: int, max_tokens: int) -> TokenizedText:
        prefix = len(self._head) + prompt_tokens if prompt_tokens and not self.pools_prompt else 0
        room = max_tokens - len(self._head) - len(self._tail)
        # An empty document consists of its tag alone, which may fill the room.
        if prompt_tokens >= room and (prompt_tokens > room or len(ids) > prompt_tokens):
            raise UserError(
                f"the instruction and its tags take {len(self._head) + prompt_tokens} of {max_tokens} tokens and "
                "leave none for the text; shorten the instruction or raise the limit (query_max_tokens, "
                "document_max_tokens, max_tokens)"
            )
        kept = [*self._head, *ids[:room], *self._tail] or [self._blank]
        return TokenizedText(np.asarray(kept, dtype=np.int32), prefix, len(ids) > room)


def _first_token_from(encoding: Any, start: int, end: int) -> int:
    """Return the index of the first token that holds a character at or after `start`; 0 without a prompt."""
    if start == 0:
        return 0
    # A character may belong to no token, such as one that the tokenizer's normalisation drops.
    for position in range(start, end):
        token = encoding.char_to_token(position)
        if token is not None:
            return int(token)
    return len(encoding.ids)


def whole_text_backend(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer's `tokenizers` object that neither truncates nor pads."""
    from tokenizers import Tokenizer

    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"tokenizer {type(tokenizer).__name__} has no fast form (tokenizer.json); convert it first")
    # A tokenizer.json may switch on truncation and padding: all-MiniLM-L6-v2 cuts at 128 tokens.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def special_tokens(backend: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer (from `whole_text_backend`) puts before and after a single text."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise UserError("the tokenizer changes a text when it adds special tokens; such tokenizers are not supported")
