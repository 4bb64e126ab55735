"""Tiny random checkpoints in the layouts of other makers."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import AutoModel, BertConfig, BertTokenizerFast, MistralConfig, Qwen3Config

from reasonir.model.tiny import EOS, build_tokenizer
from tests.kit.texts import INSTRUCTION, SENTENCES

SMALL = {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
DECODER = {**SMALL, "num_key_value_heads": 1, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1}
BGE = "Represent this sentence for searching relevant passages:"
LAYOUTS: dict[str, dict[str, Any]] = {
    "gritlm": {
        "config": lambda size: MistralConfig(vocab_size=size, sliding_window=None, is_causal=False, **DECODER),
        "ends": None,
        "pooling": {"pooling_mode": "mean", "include_prompt": False},
        "prompts": {"query": f"<|user|>\n{INSTRUCTION}\n<|embed|>\n", "document": "<|embed|>\n"},
    },
    "e5_mistral": {
        "config": lambda size: MistralConfig(vocab_size=size, sliding_window=12, **DECODER),
        "ends": f"<|begin_of_text|> $A {EOS}",
        "pooling": {"pooling_mode": "lasttoken"},
        "prompts": {"web_search_query": f"Instruct: {INSTRUCTION}\nQuery: "},
    },
    "qwen3": {
        "config": lambda size: Qwen3Config(vocab_size=size, head_dim=32, **DECODER),
        "ends": f"$A {EOS}",
        "pooling": {"pooling_mode": "lasttoken"},
        "prompts": {"query": f"Instruct: {INSTRUCTION}\nQuery:", "document": ""},
    },
    "bge": {
        "config": lambda size: BertConfig(vocab_size=size, max_position_embeddings=512, **SMALL),
        "pooling": {"pooling_mode": "cls"},
        "prompts": {},
    },
    "e5": {
        "config": lambda size: BertConfig(vocab_size=size, max_position_embeddings=512, **SMALL),
        "pooling": {"pooling_mode": "mean"},
        "prompts": {"query": "query: ", "passage": "passage: "},
    },
}


def write_layout(folder: Path, name: str) -> None:
    """Write a tiny random checkpoint as sentence-transformers does, and under trunk/ as transformers does."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Transformer
    from sentence_transformers.models import Pooling as TheirPooling

    layout = LAYOUTS[name]
    trunk = folder / "trunk"
    trunk.mkdir(parents=True)
    write_trunk(trunk, name)
    pooling = TheirPooling(SMALL["hidden_size"], **layout["pooling"])
    modules = [Transformer(str(trunk)), pooling, Normalize()]
    if layout.get("ends"):
        tokenizer = modules[0].tokenizer
        special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|begin_of_text|>", EOS)]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=layout["ends"], special_tokens=special
        )
        tokenizer.padding_side = "left"
    SentenceTransformer(modules=modules, prompts=layout["prompts"], device="cpu").save(str(folder))


def write_trunk(folder: Path, name: str) -> None:
    if "ends" in LAYOUTS[name]:
        tokenizer = build_tokenizer(SENTENCES, 400)
        if name == "qwen3":  # no BOS, and the bare folder's tokenizer ends texts by itself, as Qwen's does
            tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
                single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.eos_token_id)]
            )
    else:
        letters = [f"{mark}{chr(c)}" for mark in ("", "##") for c in range(97, 123)]
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", ",", ".", *letters]
        (folder / "vocab.txt").write_text("\n".join(vocabulary))
        tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(1)
    model = AutoModel.from_config(LAYOUTS[name]["config"](len(tokenizer)))
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.15)  # at 0.02 all texts are alike and a wrong token is not seen
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
