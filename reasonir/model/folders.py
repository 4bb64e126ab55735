"""Model folders: loads every supported layout and writes one that transformers and sentence-transformers load too.

Invariant: a written folder appears complete or not at all. It records its text form and pooling in `reasonir.json`, the
direction of its attention in `config.json` (`is_causal`), and both again in sentence-transformers' own files.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.core.files import file_sha256, whole_folder
from reasonir.core.stamp import digest_of
from reasonir.model.pooling import Pooling
from reasonir.model.presets import PRESETS, Preset, PresetOptions
from reasonir.model.sentence_transformers import (
    MODULES_FILE,
    PRESET_FILE,
    PROMPTS_FILE,
    TRANSFORMER_FILES,
    card_of,
    choose_preset,
    read_json,
    transformer_settings,
    trunk_folder,
)
from reasonir.model.templates import Template, TemplateStyle, special_tokens, whole_text_backend
from reasonir.model.trunk.bidirectional import first_line, load_config, load_trunk
from reasonir.model.trunk.stored import open_trunk

# Tokens. The paper evaluates ReasonIR with this limit (arXiv 2504.20595).
LONGEST_INPUT = 32_768
# A folder needs one of these files to have a tokenizer that transformers can load.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
# (sub-folder, class) of modules.json, in the order in which sentence-transformers runs them.
SENTENCE_TRANSFORMERS_MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def load_parts(
    path: str,
    *,
    dtype: torch.dtype | None,
    device: str | None,
    options: PresetOptions,
    in_shards: bool = False,
    four_bits: bool = False,
) -> dict[str, Any]:
    """Load the arguments of `Encoder` from a model folder or hub id.

    Args:
        path: A model folder of any supported layout, or a hub id.
        dtype: Of the weights; None is float32 on a CPU and the checkpoint's own dtype elsewhere.
        device: Where the weights go; None is "cuda" where there is one, else "cpu".
        options: Which preset, and what replaces parts of it.
        in_shards: Leave the weights to an engine, which reads them from `stored`; where the checkpoint would
            have to be converted, they are loaded whole and `stored` is None.
        four_bits: Hold the matrices of linear layers in four bits.
    """
    _silence_transformers()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype is None and device == "cpu":
        dtype = torch.float32
    path = _without_tilde(path)
    inside = trunk_folder(path)
    config = load_config(inside)
    preset = choose_preset(path, config, options)
    tokenizer, form = load_template(path, preset)
    found = open_trunk(inside, config, preset.attention, device) if in_shards else None
    trunk, stored = found or (load_trunk(inside, config, dtype, preset.attention, four_bits).to(device), None)
    _require_embeddings(path, tokenizer, trunk)
    return {
        "trunk": trunk,
        "stored": stored,
        "tokenizer": tokenizer,
        "template": form,
        "fingerprint": fingerprint(path, trunk, preset),
        "declared_max_tokens": _declared_max_tokens(path, tokenizer),
        "pooling": preset.pooling,
        "query_instruction": preset.query_instruction,
    }


def read_template(path: str, options: PresetOptions) -> Template:
    """Return the template of a model folder or hub id without loading a weight."""
    _silence_transformers()
    path = _without_tilde(path)
    return load_template(path, choose_preset(path, load_config(trunk_folder(path)), options))[1]


def refuse_misfits(path: str | None, options: PresetOptions) -> None:
    """Refuse options that fit neither each other nor the model, before anything is loaded.

    Args:
        path: A model folder; None is a new model. A hub id is not asked here: it may be out of reach.
        options: The user's.
    """
    if path is None:
        options.of_new_model()
    elif Path(path := _without_tilde(path)).is_dir():
        choose_preset(path, load_config(trunk_folder(path)), options)


def _declared_max_tokens(path: str, tokenizer: Any) -> int | None:
    """Return the longest input that sentence-transformers' files declare; None where they declare none."""
    declared = transformer_settings(path)["max_seq_length"]
    # Since sentence-transformers 6 the tokenizer's own file holds the length.
    if declared is None and read_json(path, MODULES_FILE) is not None and tokenizer.model_max_length < LONGEST_INPUT:
        return int(tokenizer.model_max_length)
    return declared


def _silence_transformers() -> None:
    """Switch the library's bars and warnings off: they would break into our own lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _without_tilde(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~") else path


def load_template(path: str, preset: Preset) -> tuple[Any, Template]:
    """Load the tokenizer of a model folder or hub id, and the preset's template around it."""
    inside = trunk_folder(path)
    tokenizer = _load_tokenizer(inside)
    if transformer_settings(path)["do_lower_case"]:
        _lower_case(tokenizer)
    # transformers 5 believes tokenizer.json, which may lack the end token that the model was trained with.
    said = read_json(inside, "tokenizer_config.json")
    if preset.style is not TemplateStyle.reasonir and isinstance(said, dict) and said.get("add_eos_token") is True:
        _append_end_token(path, tokenizer)
    return tokenizer, build_template(tokenizer, preset, path)


def build_template(tokenizer: Any, preset: Preset, path: str | None = None) -> Template:
    """Return the preset's template around a tokenizer, which it makes to end texts in EOS where the preset wants that.

    Args:
        tokenizer: A fast tokenizer of transformers; changed in place.
        preset: Text form and pooling.
        path: Where the tokenizer comes from, for messages; None is a new one.
    """
    if preset.end_token:
        _append_end_token(path, tokenizer)
    return Template(
        tokenizer,
        preset.style,
        document_prompt=preset.document_prompt,
        pools_prompt=preset.pools_prompt,
        end_token=preset.pooling is Pooling.last,
    )


def _load_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    folder = Path(path)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"model.path={path}: the folder has no tokenizer (none of {', '.join(TOKENIZER_FILES)})")
    try:
        return AutoTokenizer.from_pretrained(path.removeprefix("hub:"), trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare exceptions for a broken tokenizer.json
        raise UserError(f"model.path={path}: the tokenizer cannot be loaded: {first_line(error)}") from error


def _lower_case(tokenizer: Any) -> None:
    """Make a tokenizer lower texts before its own rules, as sentence-transformers' do_lower_case does."""
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    if not _lowers(backend):
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])


def _lowers(backend: Any) -> bool:
    """Return whether a tokenizer's first rule is to lower texts."""
    rule = json.loads(backend.to_str())["normalizer"] or {}
    first = (rule.get("normalizers") or [rule])[0]
    return first.get("type") == "Lowercase" or first.get("lowercase") is True


def _require_embeddings(path: str, tokenizer: Any, trunk: Any) -> None:
    """Refuse a tokenizer with words that the model has no embedding for; the first text with one would crash."""
    rows = trunk.get_input_embeddings().num_embeddings
    # Some published tokenizers name a token of images beyond the table of their text model, which no text becomes.
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    beyond = sorted(token for token, i in tokenizer.get_vocab().items() if i >= rows and token not in special)
    if beyond:
        raise UserError(
            f"model.path={path}: the tokenizer has {len(beyond)} tokens, such as {beyond[0]!r}, beyond the {rows} "
            "embeddings of the model; it belongs to another model, or the embeddings were not resized to it"
        )


def _append_end_token(path: str | None, tokenizer: Any) -> None:
    """Make a tokenizer end every text in EOS, in saved folders too, unless it appends an end token by itself.

    Raises:
        UserError: The tokenizer has no EOS, or begins texts in a way that its library cannot combine with an end token.
    """
    head, tail = special_tokens(whole_text_backend(tokenizer))
    if tail:
        return
    if tokenizer.eos_token_id is None or head not in ([], [tokenizer.bos_token_id]):
        raise UserError(f"model.path={path}: the tokenizer cannot be made to end texts in EOS; give it an eos_token")
    tokenizer.add_bos_token = bool(head)
    tokenizer.add_eos_token = True
    # transformers writes `init_kwargs` into tokenizer_config.json, where they overrule tokenizer.json.
    for name in ("add_bos_token", "add_eos_token"):
        if name in tokenizer.init_kwargs:
            tokenizer.init_kwargs[name] = getattr(tokenizer, name)


def fingerprint(path: str, trunk: Any, preset: Preset) -> str:
    """Return a name for everything but the template that turns texts into embeddings; it is part of cache keys.

    Args:
        path: Model folder (named by the hashes of its files) or hub id (named by its commit).
        trunk: The loaded model, which knows the commit.
        preset: Attention, pooling and prompts.
    """
    # The template has a fingerprint of its own, so its style and end token are left out here. Models with the default
    # preset (masked mean, bidirectional) get no suffix: caches from before there were presets stay valid.
    asked = dataclasses.replace(preset, style=TemplateStyle.plain, query_instruction="", end_token=False)
    suffix = "" if asked == PRESETS["plain"] else f"-{digest_of([repr(asked)])[:16]}"
    if not Path(path).is_dir():
        return f"{path}@{getattr(trunk.config, '_commit_hash', None)}{suffix}"
    return f"{weights_digest(Path(path))}{suffix}"


def weights_digest(folder: Path) -> str:
    """Return the sha256 over weights and config.json of a model folder; its fingerprint begins with it."""
    folder = Path(trunk_folder(str(folder)))
    files = [f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin") or f.name == "config.json"]
    # Sorted, because the digest is part of cache keys. The tokenizer is in the template's own fingerprint.
    return digest_of(f"{file.name}:{file_sha256(file)}\n" for file in sorted(files))


def save_encoder(encoder: Any, path: str, *, query_instruction: str | None = None, max_tokens: int = 2048) -> None:
    """Write the encoder as a model folder, replacing an older one of the same name.

    Args:
        encoder: An `Encoder`.
        path: The folder to write.
        query_instruction: Becomes sentence-transformers' "query" prompt; None is the encoder's own.
        max_tokens: Becomes sentence-transformers' `max_seq_length`; learned positions may lower it.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    preset = encoder.preset
    if query_instruction is not None:
        preset = dataclasses.replace(preset, query_instruction=query_instruction)
    limit = min(max_tokens, encoder.max_positions or max_tokens)
    with whole_folder(path) as folder:
        encoder.trunk.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        _write_json(folder / PRESET_FILE, card_of(preset))
        _write_sentence_transformers(folder, encoder, preset, limit)


def _write_sentence_transformers(folder: Path, encoder: Any, preset: Preset, max_tokens: int) -> None:
    """Write what sentence-transformers needs to compute the same embeddings."""
    template, tokenizer = encoder.template, encoder.tokenizer
    # Its prompts are plain strings: BOS is spelled out where the tokenizer does not add one by itself.
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
    # The older names of the options, which old and new releases of sentence-transformers read.
    pooling = {
        "word_embedding_dimension": encoder.dimension,
        "pooling_mode_cls_token": preset.pooling is Pooling.cls,
        "pooling_mode_mean_tokens": preset.pooling is Pooling.mean,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_lasttoken": preset.pooling is Pooling.last,
        # Only a mean can leave the prompt out.
        "include_prompt": preset.pools_prompt or preset.pooling is not Pooling.mean,
    }
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    _write_json(folder / "2_Normalize" / "config.json", {})
    # A class of transformers with rules of its own drops the rule at loading; "lowercase" of BERT's it keeps.
    first = (json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"] or {}).get("normalizers") or [{}]
    lowers = first[0].get("type") == "Lowercase"
    _write_json(folder / TRANSFORMER_FILES[0], {"max_seq_length": max_tokens, "do_lower_case": lowers})
    settings = {
        "prompts": prompts,
        "default_prompt_name": "document" if prompts["document"] else None,
        "similarity_fn_name": "cosine",
    }
    _write_json(folder / PROMPTS_FILE, settings)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
