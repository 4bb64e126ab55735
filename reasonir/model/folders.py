"""Model folders: loading any supported layout, writing one that everybody loads.

Invariant: a folder appears complete or not at all (written beside, then renamed), and says by itself how its
texts are formed and pooled (`reasonir.json`), whether it attends in both directions (`config.json`: `is_causal`) and
how sentence-transformers pools it.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, TypedDict

import torch

from reasonir.core.errors import UserError
from reasonir.model.pooling import Pooling
from reasonir.model.presets import PRESETS, Preset
from reasonir.model.sentence_transformers import (
    MODULES_FILE,
    PRESET_FILE,
    PROMPTS_FILE,
    card_of,
    choose_preset,
    read_json,
)
from reasonir.model.templates import Template, TemplateStyle, special_tokens, whole_text_backend
from reasonir.model.trunk.bidirectional import load_config, load_trunk

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
SENTENCE_TRANSFORMERS_MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


class EncoderParts(TypedDict):
    """The arguments of `Encoder`, read from a model folder."""

    trunk: Any
    tokenizer: Any
    template: Template
    fingerprint: str
    declared_max_tokens: int | None
    pooling: Pooling
    query_instruction: str


def load_parts(path: str, *, dtype: torch.dtype | None, device: str | None, template: str) -> EncoderParts:
    """Load what an `Encoder` consists of from a model folder or hub id.

    Args:
        path: A model folder of any supported layout, or a hub id.
        dtype: Of the weights; None is float32 on a CPU and the checkpoint's own dtype elsewhere.
        device: Where the weights go; None is "cuda" where there is one, else "cpu".
        template: "auto" or the name of a preset.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype is None and device == "cpu":
        dtype = torch.float32
    path = str(Path(path).expanduser()) if path.startswith("~") else path
    config = load_config(path)
    preset = choose_preset(path, config, template)
    tokenizer, form = load_template(path, preset)
    trunk = load_trunk(path, config, dtype, preset.attention).to(device)
    return EncoderParts(
        trunk=trunk,
        tokenizer=tokenizer,
        template=form,
        fingerprint=fingerprint(path, trunk, preset),
        declared_max_tokens=declared_max_tokens(path),
        pooling=preset.pooling,
        query_instruction=preset.query_instruction,
    )


def load_template(path: str, preset: Preset) -> tuple[Any, Template]:
    """Load the tokenizer of a model folder or hub id, and form texts with it as the preset says."""
    tokenizer = load_tokenizer(path)
    if preset.end_token:
        append_end_token(path, tokenizer)
    prompts, pooled = preset.document_prompt, preset.pools_prompt
    return tokenizer, Template(tokenizer, preset.style, document_prompt=prompts, pools_prompt=pooled)


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


def append_end_token(path: str, tokenizer: Any) -> None:
    """Make a tokenizer end every text in EOS, here and in the folders it is saved to, unless it ends texts by itself.

    Raises:
        UserError: it has no EOS, or begins texts in a way that its library cannot write together with an end.
    """
    head, tail = special_tokens(whole_text_backend(tokenizer))
    if tail:
        return
    if tokenizer.eos_token_id is None or head not in ([], [tokenizer.bos_token_id]):
        raise UserError(f"model.path={path}: the tokenizer cannot be made to end texts in EOS; give it an eos_token")
    tokenizer.add_bos_token = bool(head)
    tokenizer.add_eos_token = True
    for name in ("add_bos_token", "add_eos_token"):  # what a saved folder says of them overrules its tokenizer.json
        if name in tokenizer.init_kwargs:
            tokenizer.init_kwargs[name] = getattr(tokenizer, name)


def declared_max_tokens(path: str) -> int | None:
    """Return the input length that a sentence-transformers folder was made for, if it is one."""
    return (read_json(path, "sentence_bert_config.json") or {}).get("max_seq_length")


def fingerprint(path: str, trunk: Any, preset: Preset) -> str:
    """Return a name for what turns texts into embeddings: weights by content, and every other pooling or attention.

    Weights: file hashes of a folder, the commit of a hub id. They stand alone for masked means of bidirectional states;
    what else a preset asks for is hashed behind them. The template has a fingerprint of its own as well.
    """
    asked = dataclasses.replace(preset, style=TemplateStyle.plain, query_instruction="", end_token=False)
    suffix = "" if asked == PRESETS["plain"] else f"-{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}"
    if not Path(path).is_dir():
        return f"{path}@{getattr(trunk.config, '_commit_hash', None)}{suffix}"
    return f"{weights_digest(Path(path))}{suffix}"


def weights_digest(folder: Path) -> str:
    """Return the sha256 over weights and config.json of a model folder: how its fingerprint begins."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".bin") or file.name == "config.json":
            with file.open("rb") as stream:
                digest.update(f"{file.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def save_encoder(encoder: Any, path: str, *, query_instruction: str | None = None, max_tokens: int = 2048) -> None:
    """Write the encoder as a model folder, replacing an older one of the same name.

    Args:
        query_instruction: becomes sentence-transformers' "query" prompt; default the encoder's own.
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
    preset = encoder.preset
    if query_instruction is not None:
        preset = dataclasses.replace(preset, query_instruction=query_instruction)
    _write_json(scratch / PRESET_FILE, card_of(preset))
    limit = min(max_tokens, encoder.max_positions or max_tokens)
    _write_sentence_transformers(scratch, encoder, preset, limit)
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


def _write_sentence_transformers(folder: Path, encoder: Any, preset: Preset, max_tokens: int) -> None:
    template, tokenizer = encoder.template, encoder.tokenizer
    begin = ""
    if preset.style is TemplateStyle.reasonir and tokenizer.bos_token_id is not None:
        adds_bos = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        begin = "" if adds_bos else tokenizer.bos_token
    sides = {"query": preset.query_instruction, "document": ""}
    prompts = {side: begin + template.prompt(instruction) for side, instruction in sides.items()}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(SENTENCE_TRANSFORMERS_MODULES)
    ]
    _write_json(folder / MODULES_FILE, modules)
    pooling = {
        "word_embedding_dimension": encoder.dimension,
        "pooling_mode_cls_token": preset.pooling is Pooling.cls,
        "pooling_mode_mean_tokens": preset.pooling is Pooling.mean,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_lasttoken": preset.pooling is Pooling.last,
        "include_prompt": preset.pools_prompt or preset.pooling is not Pooling.mean,
    }
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    _write_json(folder / "2_Normalize" / "config.json", {})
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    settings = {
        "prompts": prompts,
        "default_prompt_name": "document" if prompts["document"] else None,
        "similarity_fn_name": "cosine",
    }
    _write_json(folder / PROMPTS_FILE, settings)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
