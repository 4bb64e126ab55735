"""Tiny models other than the encoder of fixtures.py, saved as their libraries save them."""

from pathlib import Path

import torch

from reasonir.model.tiny import build_tokenizer
from tests.kit.texts import SENTENCES


def save_classifier(folder: Path, labels: list[str], seed: int = 0) -> str:
    """A random Llama with a classification head, large enough in its outputs to tell texts apart."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(seed)
    tokenizer = build_tokenizer(SENTENCES, 400)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, num_labels=len(labels), initializer_range=0.5,
        id2label=dict(enumerate(labels)), label2id={name: n for n, name in enumerate(labels)},
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
