"""The bi-encoder: texts in, unit vectors out; training, evaluation and export run the same forward pass.

Invariant: embeddings come back in input order and do not depend on how the texts were packed.
Elsewhere: `folders.py` loads and saves, `templates.py` writes instruction and text as tokens, `packing.py` packs.

Letters: B texts of a packed stream, T its tokens, D embedding dimension, N texts of a call.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from reasonir.core.errors import UserError
from reasonir.core.prefetch import prefetch
from reasonir.model.folders import LONGEST_INPUT, load_parts, save_encoder
from reasonir.model.packing import PackedTexts, token_budget_chunks
from reasonir.model.pooling import Pooling, pool
from reasonir.model.presets import Preset, PresetOptions
from reasonir.model.templates import Template, TokenizedText, list_texts
from reasonir.model.trunk.bidirectional import attention_of, forward_packed
from reasonir.model.trunk.stored import StoredWeights

# Texts that are tokenised and sorted by length together; bounds the memory that token ids take.
TEXTS_PER_BLOCK = 16_384
# What transformers' architectures call a table of learned positions: BERT's, GPT-2's, OPT's.
POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")
# Tokens of one forward pass, by device type; scripts/bench_encode.py measures others.
DEFAULT_CHUNK_TOKENS = {"cpu": 4_096, "cuda": 65_536}


class Encoder(torch.nn.Module):
    """A trunk of transformers, its text template and its pooling (see `reasonir.model.presets`)."""

    def __init__(
        self,
        trunk: Any,
        tokenizer: Any,
        template: Template,
        fingerprint: str = "",
        declared_max_tokens: int | None = None,
        *,
        pooling: Pooling = Pooling.mean,
        query_instruction: str = "",
        stored: StoredWeights | None = None,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.query_instruction = query_instruction
        self.declared_max_tokens = declared_max_tokens
        self.trunk = trunk
        # Where the weights are to be read from, while the trunk has none.
        self.stored = stored
        self.tokenizer = tokenizer
        self.template = template
        self.fingerprint = fingerprint
        self.truncated_texts = 0
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        *,
        dtype: torch.dtype | None = None,
        device: str | None = None,
        template: str = "auto",
        attention: str = "auto",
        pooling: str = "auto",
        pool_instruction: bool | None = None,
        in_shards: bool = False,
        four_bits: bool = False,
    ) -> "Encoder":
        """Load a folder or hub id. Code that comes with the weights is never run.

        Args:
            path: A transformers, sentence-transformers or reasonir model folder, or a hub id.
            dtype: Dtype of the weights; None is float32 on a CPU and the checkpoint's own on CUDA.
            device: None is "cuda" where there is one, else "cpu".
            template: Name of a preset: reasonir, gritlm, e5_mistral, qwen3, plain, bge or e5. "auto" takes the
                preset that the folder or a known hub id names, else reasonir for decoders and plain for encoders.
            attention: "bidirectional" or "causal"; "auto" is what the preset says.
            pooling: "mean", "last" (texts then end in the tokenizer's end token) or "cls"; "auto" as above.
            pool_instruction: Whether a mean includes the tokens before the text; None is what the preset says.
            in_shards: For an engine of `reasonir.train`, which reads the weights itself: the trunk has none.
            four_bits: Hold the matrices of linear layers in four bits (NF4, through bitsandbytes).

        Raises:
            UserError: The folder is unreadable, weights or tokenizer are missing, the options do not fit together, or
                the leak probe fails.
        """
        options = PresetOptions(template, attention, pooling, pool_instruction)
        return cls(
            **load_parts(path, dtype=dtype, device=device, options=options, in_shards=in_shards, four_bits=four_bits)
        )

    def save_pretrained(self, path: str) -> None:
        """Write, atomically, a folder that this class, transformers and SentenceTransformer load."""
        save_encoder(self, path)

    @property
    def preset(self) -> Preset:
        """How this encoder writes, attends and pools; a saved folder records the same."""
        return Preset(
            self.template.style,
            self.pooling,
            attention_of(self.trunk.config),
            query_instruction=self.query_instruction,
            document_prompt=self.template.document_prompt,
            pools_prompt=self.template.pools_prompt,
        )

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return int(self.trunk.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.trunk.device

    @property
    def max_positions(self) -> int | None:
        """Longest input that learned position embeddings allow; None where positions are computed."""
        tables = (
            module
            for name, module in self.trunk.named_modules()
            if name.rpartition(".")[2] in POSITION_TABLES and isinstance(module, torch.nn.Embedding)
        )
        learned = next(tables, None)
        if learned is None:
            return None
        # RoBERTa's positions start behind the padding index and OPT's two later, so the table is longer than the
        # longest input.
        first = getattr(learned, "offset", 0) if learned.padding_idx is None else learned.padding_idx + 1
        return int(learned.num_embeddings) - first

    @property
    def default_max_tokens(self) -> int:
        """The limit that the model folder declares; else its number of positions, at most `LONGEST_INPUT`."""
        positions = self.max_positions or getattr(self.trunk.config, "max_position_embeddings", None) or LONGEST_INPUT
        return min(self.declared_max_tokens or LONGEST_INPUT, positions)

    def forward(self, texts: PackedTexts) -> torch.Tensor:
        """Embed packed texts: float32 (B, D), rows of length 1."""
        hidden_TD = forward_packed(self.trunk, texts.token_ids, texts.segments)
        return pool(hidden_TD, texts.lengths, texts.prefix_tokens, self.pooling)

    def encode(
        self,
        texts: str | Sequence[str],
        instruction: str | Sequence[str] = "",
        max_tokens: int = 2048,
        chunk_tokens: int | None = None,
        precision: str = "fp32",
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Embed texts. They are sorted by length for speed; the result is in input order.

        Args:
            texts: N texts, or one. [] gives no embedding, "" the one that all empty texts have.
            instruction: One for all texts, or one for each text; "" for documents.
            max_tokens: Limit of a whole input, instruction and special tokens included. A longer text loses its end
                (counted in `truncated_texts`). Learned position embeddings may lower the limit.
            chunk_tokens: Tokens of one forward pass; a longer text gets a pass of its own. None: by device.
            precision: "fp32" (the weights' own dtype) or "bf16" (autocast).
            progress: Called with the number of texts of each finished pass.

        Returns:
            float32 (N, D), L2-normalised; (D,) for a single text that is no list.

        Raises:
            TypeError: Something in the list is no text; the message says where.
            UserError: There are not as many instructions as texts, or an instruction leaves no room for a text.
        """
        if isinstance(texts, str):
            one = instruction if isinstance(instruction, str) else list(instruction)
            return self.encode([texts], one, max_tokens, chunk_tokens, precision, progress)[0]
        texts = list_texts(texts, "texts")
        listed = list_texts([instruction] * len(texts) if isinstance(instruction, str) else instruction, "instruction")
        if len(listed) != len(texts):
            raise UserError(
                f"instruction: {len(listed)} instructions for {len(texts)} texts; give one, or one for each"
            )
        pairs = list(zip(listed, texts, strict=True))
        blocks = (pairs[start : start + TEXTS_PER_BLOCK] for start in range(0, len(pairs), TEXTS_PER_BLOCK))
        output = np.empty((len(texts), self.dimension), dtype=np.float32)
        done = self.truncated_texts = 0
        for rows, truncated in self.encode_blocks(blocks, max_tokens, chunk_tokens, precision, progress):
            output[done : done + len(rows)] = rows
            done += len(rows)
            self.truncated_texts += truncated
        return output

    @torch.no_grad()
    def encode_blocks(
        self,
        blocks: Iterable[Sequence[tuple[str, str]]],
        max_tokens: int,
        chunk_tokens: int | None = None,
        precision: str = "fp32",
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Embed blocks of texts; the next block is tokenised while the current one is embedded.

        Args:
            blocks: Lists of (instruction, text) pairs.
            max_tokens: As in `encode`.
            chunk_tokens: As in `encode`.
            precision: As in `encode`.
            progress: As in `encode`.

        Yields:
            A block's embeddings as `encode` returns them, and how many of its texts were cut.
        """
        limit = min(max_tokens, self.max_positions or max_tokens)
        budget = chunk_tokens or DEFAULT_CHUNK_TOKENS.get(self.device.type, 16_384)
        trained = self.training
        self.eval()
        try:
            with closing(prefetch(lambda block: self.template.encode(block, limit), blocks)) as tokenised:
                for texts in tokenised:
                    # One autocast for all chunks: the weights are cast once.
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
                        rows = self._embed_block(texts, budget, progress)
                    yield rows, sum(text.truncated for text in texts)
        finally:
            self.train(trained)

    def _embed_block(
        self, block: list[TokenizedText], budget: int, progress: Callable[[int], None] | None
    ) -> np.ndarray:
        """Return the embeddings of a block's texts, chunk by chunk: float32 (texts, D)."""
        rows = np.empty((len(block), self.dimension), dtype=np.float32)
        # `.cpu()` waits for the GPU. It is called on a chunk only after the next chunk has been queued, so that the
        # GPU always has work.
        queued: deque[tuple[np.ndarray, torch.Tensor]] = deque()

        def fetch() -> None:
            indices, embeddings = queued.popleft()
            rows[indices] = embeddings.cpu().numpy()
            if progress is not None:
                progress(len(indices))

        for indices in token_budget_chunks([len(text.ids) for text in block], budget):
            chosen = [block[i] for i in indices]
            packed = PackedTexts.of([t.ids for t in chosen], [t.prefix_tokens for t in chosen], self.device)
            queued.append((indices, self(packed).float()))
            if len(queued) > 1:
                fetch()
        while queued:
            fetch()
        return rows
