"""Builds a Llama of a few million parameters and its tokenizer: every step of a decoder on a laptop, without downloads.

Invariant: the same texts and seed give the same tokenizer and the same weights.
"""

from collections.abc import Iterable
from typing import Any

import torch

from reasonir.model.encoder import Encoder
from reasonir.model.folders import build_template
from reasonir.model.presets import PRESETS, Preset
from reasonir.model.trunk.attention import PACKED_ATTENTION, register
from reasonir.model.trunk.bidirectional import ask_for_attention, prepare_trunk

# Ten times the usual 0.02. With 0.02 an untrained model gives all texts nearly the same embedding, and the contrastive
# loss stays at chance for hundreds of steps (docs/log.md, 2026-11-21).
EMBEDDING_STD = 0.2
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"


def build_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Any:
    """Learn a byte-level BPE from `texts`. It encodes every string and puts BOS in front, as Llama 3's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token=EOS)


def build_tiny(
    texts: Iterable[str],
    *,
    vocabulary_size: int = 8_192,
    hidden_size: int = 256,
    intermediate_size: int = 704,
    layers: int = 4,
    heads: int = 8,
    key_value_heads: int = 4,
    max_positions: int = 8_192,
    seed: int = 0,
    preset: Preset = PRESETS["reasonir"],
) -> Encoder:
    """Build a randomly initialised Llama whose tokenizer is learned from `texts`.

    Args:
        texts: The tokenizer's training texts.
        vocabulary_size: Largest number of tokens that the tokenizer learns.
        hidden_size: Embedding dimension, a multiple of `heads`.
        intermediate_size: Channels of the gated unit.
        layers: Number of transformer layers.
        heads: Query heads of a layer.
        key_value_heads: Key and value heads of a layer; divides `heads`.
        max_positions: Longest input in tokens.
        seed: The weights are drawn from it.
        preset: How it embeds.

    Returns:
        An `Encoder` on the CPU in float32.
    """
    from transformers import AutoModel, LlamaConfig

    register()
    tokenizer = build_tokenizer(texts, vocabulary_size)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=max_positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        # torch gives the padding token's embedding no gradient, and packed texts have no padding.
        pad_token_id=None,
    )
    # transformers reads `is_causal` by itself: the saved folder needs no code of its own (docs/deviations.md).
    ask_for_attention(config, preset.attention)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = AutoModel.from_config(config, attn_implementation=PACKED_ATTENTION, dtype=torch.float32)
        torch.nn.init.normal_(trunk.get_input_embeddings().weight, std=EMBEDDING_STD)
    prepare_trunk(trunk, "model=tiny", preset.attention)
    return Encoder(
        trunk,
        tokenizer,
        build_template(tokenizer, preset),
        fingerprint=f"tiny:{seed}",
        pooling=preset.pooling,
        query_instruction=preset.query_instruction,
    )
