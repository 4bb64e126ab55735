"""Families of models: tiny folders with random weights, and how each one runs here. docs/models.md shows this table."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonir.model.tiny import build_tokenizer
from tests.kit.texts import SENTENCES

SMALL: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
T5: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
          "image_size": 28, "patch_size": 14}  # fmt: skip
PACKED, PADDED, REFUSED = "packed", "padded", "refused"


@dataclass(frozen=True, kw_only=True)
class Family:
    """config: name of transformers' class. runs: packed, padded, or refused. models: well-known ones, for the page."""

    config: str
    runs: str = PACKED
    models: str
    more: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "llama": Family(config="LlamaConfig", models="Llama 2 to 3.3, ReasonIR, SmolLM2"),
    "mistral": Family(config="MistralConfig", models="Mistral 7B, E5-Mistral, GritLM", more={"sliding_window": 6}),
    "ministral3": Family(config="Ministral3Config", models="Ministral 3", more={"head_dim": 8}),
    "mixtral": Family(config="MixtralConfig", models="Mixtral", more={"num_local_experts": 4}),
    "qwen2": Family(config="Qwen2Config", models="Qwen2, Qwen2.5, gte-Qwen2"),
    "qwen3": Family(config="Qwen3Config", models="Qwen3, Qwen3-Embedding", more={"head_dim": 8}),
    "qwen3_moe": Family(config="Qwen3MoeConfig", models="Qwen3 30B-A3B", more={
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}),
    "gemma": Family(config="GemmaConfig", models="Gemma", more={"head_dim": 8}),
    "gemma2": Family(config="Gemma2Config", models="Gemma 2, bge-multilingual-gemma2", more={
        "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gemma3_text": Family(config="Gemma3TextConfig", models="Gemma 3 270M and 1B, EmbeddingGemma", more={
        "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gemma3": Family(config="Gemma3Config", models="Gemma 3 4B and larger: the text tower", more={
        "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "phi": Family(config="PhiConfig", models="Phi 1 to 2"),
    "phi3": Family(config="Phi3Config", models="Phi 3 to 4"),
    "gpt2": Family(config="GPT2Config", models="GPT-2", more={
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "gpt_neox": Family(config="GPTNeoXConfig", models="Pythia"),
    "opt": Family(config="OPTConfig", models="OPT", more={"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "olmo2": Family(config="Olmo2Config", models="OLMo 2"),
    "starcoder2": Family(config="Starcoder2Config", models="StarCoder2"),
    "granite": Family(config="GraniteConfig", models="Granite"),
    "smollm3": Family(config="SmolLM3Config", models="SmolLM3"),
    "glm4": Family(config="Glm4Config", models="GLM 4", more={"head_dim": 8}),
    "cohere2": Family(config="Cohere2Config", models="Command R7B"),
    "bert": Family(config="BertConfig", models="BERT, bge, e5, gte, MiniLM"),
    "roberta": Family(config="RobertaConfig", models="RoBERTa, all-distilroberta"),
    "xlm-roberta": Family(config="XLMRobertaConfig", models="XLM-R, bge-m3, multilingual-e5"),
    "distilbert": Family(config="DistilBertConfig", models="DistilBERT, msmarco-distilbert", more={
        "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    "electra": Family(config="ElectraConfig", models="ELECTRA", more={"embedding_size": 32}),
    "albert": Family(config="AlbertConfig", models="ALBERT", more={"embedding_size": 32}),
    "modernbert": Family(config="ModernBertConfig", models="ModernBERT, gte-modernbert", more={
        "local_attention": 12, "global_attn_every_n_layers": 2, "cls_token_id": 0, "sep_token_id": 1}),
    "eurobert": Family(config="EuroBertConfig", models="EuroBERT"),
    "nomic_bert": Family(config="NomicBertConfig", models="nomic-embed-text"),
    "mpnet": Family(config="MPNetConfig", runs=PADDED, models="MPNet, all-mpnet-base-v2"),
    "deberta-v2": Family(config="DebertaV2Config", runs=PADDED, models="DeBERTa v2 and v3", more={
        "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0}),
    "t5": Family(config="T5Config", runs=PADDED, models="the encoders of T5, GTR, sentence-t5, instructor", more=T5),
    "umt5": Family(config="UMT5Config", runs=PADDED, models="the encoder of UMT5", more=T5),
    "gpt_oss": Family(config="GptOssConfig", runs=PADDED, models="gpt-oss", more={
        "head_dim": 8, "num_local_experts": 4}),
    "falcon": Family(config="FalconConfig", runs=PADDED, models="Falcon"),
    "bloom": Family(config="BloomConfig", runs=PADDED, models="BLOOM", more={"n_layer": 2, "n_head": 4}),
    "qwen3_5_text": Family(config="Qwen3_5TextConfig", runs=REFUSED, models="Qwen3.5: linear attention is causal"),
    "llama4_text": Family(config="Llama4TextConfig", runs=REFUSED, models="Llama 4: attention in causal chunks"),
    "mamba": Family(config="MambaConfig", runs=REFUSED, models="Mamba: a recurrence is causal"),
}  # fmt: skip


def write_family(folder: Path, name: str) -> str:
    """Save a tiny model of a family with random weights and a tokenizer; return the folder."""
    import torch
    import transformers
    from transformers import AutoModel

    family = FAMILIES[name]
    make = getattr(transformers, family.config)
    if name == "gemma3":
        text = transformers.Gemma3TextConfig(**SMALL, **family.more)
        config = make(text_config=text, vision_config=transformers.SiglipVisionConfig(**VISION), mm_tokens_per_image=4)
    else:
        config = make(**{**SMALL, **family.more})
    torch.manual_seed(1)
    AutoModel.from_config(config).save_pretrained(folder)
    build_tokenizer(SENTENCES, 390).save_pretrained(folder)
    return str(folder)
