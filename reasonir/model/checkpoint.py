"""Model folders: loading any supported layout, writing one that everybody loads.

Invariant: a folder appears complete or not at all (written beside, then renamed), and says by itself how its
texts are formed (`reasonir.json`), that it attends in both directions (`config.json`: `is_causal: false`) and how
sentence-transformers pools it.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from reasonir.model.bidirectional import is_decoder, load_config, load_trunk
from reasonir.schema import UserError
from reasonir.templates import Template, TemplateStyle, prompt

CARD_FILE = "reasonir.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
SENTENCE_TRANSFORMERS_MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def load_encoder(path: str, *, dtype: torch.dtype | None, device: str | None, template: str) -> Any:
    """Load a model folder or hub id as an `Encoder` (see `Encoder.from_pretrained`)."""
    from transformers.utils import logging

    from reasonir.model.encoder import Encoder

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype is None and device == "cpu":
        dtype = torch.float32
    path = str(Path(path).expanduser()) if path.startswith("~") else path
    check_sentence_transformers_layout(Path(path))
    config = load_config(path)
    tokenizer = load_tokenizer(path)
    trunk = load_trunk(path, config, dtype).to(device)
    style = choose_style(path, trunk.config, template)
    declared = declared_max_tokens(Path(path))
    return Encoder(trunk, tokenizer, Template(tokenizer, style), fingerprint(path, trunk), declared)


def load_tokenizer(path: str) -> Any:
    """Load the tokenizer of a model folder or hub id."""
    from transformers import AutoTokenizer

    folder = Path(path)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"model.path={path}: the folder has no tokenizer (none of {', '.join(TOKENIZER_FILES)})")
    try:
        return AutoTokenizer.from_pretrained(path.removeprefix("hub:"), trust_remote_code=False)
    except Exception as error:  # a broken tokenizer.json raises whatever the tokenizers library likes
        raise UserError(f"model.path={path}: the tokenizer cannot be loaded: {str(error).splitlines()[0]}") from error


def choose_style(path: str, config: Any, template: str) -> TemplateStyle:
    """Return the text form: as asked, else as the folder says, else by the kind of model."""
    if template != "auto":
        return TemplateStyle(template)
    card = Path(path) / CARD_FILE
    if card.is_file():
        return TemplateStyle(json.loads(card.read_text(encoding="utf-8"))["template"])
    return TemplateStyle.reasonir if is_decoder(config) else TemplateStyle.plain


def check_sentence_transformers_layout(folder: Path) -> None:
    """Refuse a sentence-transformers folder whose modules are not transformer, mean pooling, normalisation."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return
    for module in json.loads(modules.read_text(encoding="utf-8")):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UserError(f"model.path={folder}: module {kind} of modules.json is not supported")
        if kind == "Pooling":
            pooling = json.loads((folder / module["path"] / "config.json").read_text(encoding="utf-8"))
            modes = {name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True}
            mode = pooling.get("pooling_mode", "mean")
            if modes - {"pooling_mode_mean_tokens"} or mode not in ("mean", ["mean"]):
                raise UserError(f"model.path={folder}: pooling {sorted(modes) or mode} is not supported, only mean")


def declared_max_tokens(folder: Path) -> int | None:
    """Return the input length that a sentence-transformers folder was made for, if it is one."""
    file = folder / "sentence_bert_config.json"
    if not file.is_file():
        return None
    return json.loads(file.read_text(encoding="utf-8")).get("max_seq_length")


def fingerprint(path: str, trunk: Any) -> str:
    """Return a name for the weights by content: file hashes of a folder, the commit of a hub id."""
    folder = Path(path)
    if not folder.is_dir():
        return f"{path}@{getattr(trunk.config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".bin") or file.name == "config.json":
            with file.open("rb") as stream:
                digest.update(f"{file.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def save_encoder(encoder: Any, path: str, *, query_instruction: str = "", max_tokens: int = 2048) -> None:
    """Write the encoder as a model folder, replacing an older one of the same name.

    Args:
        query_instruction: becomes sentence-transformers' "query" prompt.
        max_tokens: becomes sentence-transformers' `max_seq_length`.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    target = Path(path)
    scratch = target.with_name(f".{target.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    encoder.trunk.save_pretrained(scratch)
    encoder.tokenizer.save_pretrained(scratch)
    style = encoder.template.style
    _write_json(scratch / CARD_FILE, {"format": 1, "template": str(style), "query_instruction": query_instruction})
    limit = min(max_tokens, encoder.max_positions or max_tokens)
    _write_sentence_transformers(scratch, encoder, query_instruction, limit)
    replace_folder(scratch, target)


def replace_folder(scratch: Path, target: Path) -> None:
    """Put a finished folder in place of `target`; a crash in between leaves one of the two whole."""
    if target.exists():
        retired = target.with_name(f".{target.name}.old")
        shutil.rmtree(retired, ignore_errors=True)
        os.replace(target, retired)
        os.replace(scratch, target)
        shutil.rmtree(retired)
    else:
        os.replace(scratch, target)


def _write_sentence_transformers(folder: Path, encoder: Any, query_instruction: str, max_tokens: int) -> None:
    style, tokenizer = encoder.template.style, encoder.tokenizer
    begin = ""
    if style is TemplateStyle.reasonir and tokenizer.bos_token_id is not None:
        adds_bos = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        begin = "" if adds_bos else tokenizer.bos_token
    prompts = {side: begin + prompt(style, text) for side, text in (("query", query_instruction), ("document", ""))}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(SENTENCE_TRANSFORMERS_MODULES)
    ]
    _write_json(folder / "modules.json", modules)
    pooling = {
        "word_embedding_dimension": encoder.dimension,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "include_prompt": False,
    }
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    _write_json(folder / "2_Normalize" / "config.json", {})
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    settings = {
        "prompts": prompts,
        "default_prompt_name": "document" if prompts["document"] else None,
        "similarity_fn_name": "cosine",
    }
    _write_json(folder / "config_sentence_transformers.json", settings)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
