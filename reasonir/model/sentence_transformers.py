"""Finds the preset of a model folder or hub id from the files in it, sentence-transformers' own files among them.

Invariant: we reproduce sentence-transformers' embeddings of a folder, or raise an error that names the unsupported
setting. One exception: if the folder defines no prompts, an instruction is left out of the mean, where
sentence-transformers would include it. `presets.py` has the table of presets, `folders.py` loads and saves.
"""

import json
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.model.pooling import Pooling
from reasonir.model.presets import PRESETS, Preset, PresetOptions, preset_of_hub_id
from reasonir.model.templates import TemplateStyle, instruction_of
from reasonir.model.trunk.bidirectional import Attention, is_decoder

PRESET_FILE = "reasonir.json"
# Format 1 of `reasonir.json` named the text form only; `_preset_of_card` still reads it.
CARD_FORMAT = 2
MODULES_FILE = "modules.json"
PROMPTS_FILE = "config_sentence_transformers.json"
# By sentence-transformers' current names; older folders have pooling_mode_<name>[_token|_tokens]: true.
POOLING_MODES = {"mean": Pooling.mean, "cls": Pooling.cls, "lasttoken": Pooling.last}
# In the order in which `SentenceTransformer.encode_document` looks for them.
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


def choose_preset(path: str, config: Any, options: PresetOptions) -> Preset:
    """Return the preset of a model, with the parts that the options replace.

    The first of these decides on the preset: `options.template`, the folder's `reasonir.json`, the hub id,
    sentence-transformers' files, the kind of model.

    Args:
        path: A model folder or hub id.
        config: The model's configuration, from `load_config`.
        options: The user's.

    Raises:
        UserError: Unknown name, parts that do not fit together or the model, or a sentence-transformers folder whose
            embeddings we cannot reproduce.
    """
    preset = options.applied(_own_preset(path, config, options.template))
    if preset.attention is Attention.causal and not is_decoder(config.get_text_config()):
        raise UserError(
            f"model.path={path}: {config.model_type} is an encoder and has no causal attention; give a decoder, or "
            "model.attention=bidirectional"
        )
    return preset


def _own_preset(path: str, config: Any, template: str) -> Preset:
    modules = read_json(path, MODULES_FILE)
    # Before `template` is looked at: no preset makes up for a module that we do not run.
    if modules is not None:
        _check_modules(path, modules)
    if template != "auto":
        if template not in PRESETS:
            raise UserError(f"template={template}: no such preset; there are auto, {', '.join(PRESETS)}")
        return PRESETS[template]
    card = read_json(path, PRESET_FILE)
    if card is not None:
        return _preset_of_card(card)
    # A folder may be called like a hub id and hold another model.
    named = None if Path(path).is_dir() else preset_of_hub_id(path)
    if named is not None:
        return named
    if modules is not None:
        return _preset_of_sentence_transformers(path, config, modules)
    return PRESETS["reasonir" if is_decoder(config) else "plain"]


def read_json(path: str, name: str) -> Any:
    """Return a JSON file of a model folder or hub id, or None where it has no such file.

    Without a network, a hub id has the files that were downloaded before.

    Raises:
        UserError: The hub does not answer, or the file is not JSON.
    """
    if Path(path).is_dir():
        found: str | None = str(Path(path) / name) if (Path(path) / name).is_file() else None
    else:
        from transformers.utils import cached_file

        try:
            found = cached_file(path.removeprefix("hub:"), name, _raise_exceptions_for_missing_entries=False)
        except OSError as error:  # a network error must not read as "the model has no such file"
            raise UserError(f"model.path={path}: {name} cannot be read: {str(error).splitlines()[0]}") from error
    if found is None:
        return None
    try:
        return json.loads(Path(found).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.path={path}: {name} is not JSON: {error}") from error


def card_of(preset: Preset) -> dict[str, Any]:
    """Return the content of `reasonir.json` for a preset."""
    return {
        "format": CARD_FORMAT,
        "template": str(preset.style),
        "pooling": str(preset.pooling),
        "attention": str(preset.attention),
        "query_instruction": preset.query_instruction,
        "document_prompt": preset.document_prompt,
        "pools_prompt": preset.pools_prompt,
    }


def _preset_of_card(card: dict[str, Any]) -> Preset:
    """Read both formats. The defaults are what format 1 implied: a masked mean of bidirectional states."""
    return Preset(
        TemplateStyle(card["template"]),
        Pooling(card.get("pooling", "mean")),
        Attention(card.get("attention", "bidirectional")),
        query_instruction=card.get("query_instruction", ""),
        document_prompt=card.get("document_prompt", ""),
        pools_prompt=card.get("pools_prompt", False),
    )


def _check_modules(path: str, modules: list[dict[str, Any]]) -> None:
    for module in modules:
        kind = module["type"].rsplit(".", 1)[-1]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UserError(f"model.path={path}: module {kind} of modules.json is not supported")


def _preset_of_sentence_transformers(path: str, config: Any, modules: list[dict[str, Any]]) -> Preset:
    place = next((m["path"] for m in modules if m["type"].endswith("Pooling")), None)
    settings = {} if place is None else read_json(path, f"{place}/config.json") or {}
    pooling = _pooling(path, settings)
    include_prompt = settings.get("include_prompt")
    if pooling is Pooling.cls and include_prompt is False:
        raise UserError(f"model.path={path}: pooling cls with include_prompt=false is not supported")
    prompts = {
        name: text for name, text in ((read_json(path, PROMPTS_FILE) or {}).get("prompts") or {}).items() if text
    }
    # The exception of the module's docstring: a model without prompts was not trained with an instruction in its mean.
    if include_prompt is None:
        include_prompt = bool(prompts) or pooling is not Pooling.mean
    begin = _begin_token(path)
    without_begin = {name: text.removeprefix(begin) for name, text in prompts.items()}
    style = _style(without_begin)
    # Our own export writes it where the tokenizer adds none by itself; this style begins every text with it anyway.
    if style is TemplateStyle.reasonir:
        prompts = without_begin
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if name in prompts), "")
    return Preset(
        style,
        pooling,
        _attention(config, pooling),
        query_instruction=_query_instruction(path, style, prompts.get("query", "")),
        document_prompt="" if instruction_of(style, document) == "" else document,
        pools_prompt=bool(include_prompt),
    )


def _pooling(path: str, settings: dict[str, Any]) -> Pooling:
    stated = settings.get("pooling_mode")
    modes = [stated] if isinstance(stated, str) else list(stated or ())
    if not modes:
        legacy = (name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True)
        modes = [name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for name in legacy]
    # sentence-transformers' own default.
    modes = modes or ["mean"]
    if len(modes) > 1 or modes[0] not in POOLING_MODES:
        there = ", ".join(POOLING_MODES)
        raise UserError(f"model.path={path}: pooling {' + '.join(modes)} is not supported; there are {there}")
    return POOLING_MODES[modes[0]]


def _attention(config: Any, pooling: Pooling) -> Attention:
    """Return the attention that sentence-transformers would give the model."""
    if not is_decoder(config):
        return Attention.bidirectional
    # sentence-transformers runs a decoder causally unless its config.json has `is_causal: false`, or code of its own
    # changes the attention. We never run such code: with mean pooling we take it to be bidirectional, as GritLM's is.
    own_code = hasattr(config, "auto_map") and pooling is Pooling.mean
    causal = getattr(config, "is_causal", not own_code)
    return Attention.causal if causal else Attention.bidirectional


def _begin_token(path: str) -> str:
    token = (read_json(path, "tokenizer_config.json") or {}).get("bos_token") or ""
    return token["content"] if isinstance(token, dict) else token


def _style(prompts: dict[str, str]) -> TemplateStyle:
    marked = (TemplateStyle.reasonir, TemplateStyle.e5_mistral, TemplateStyle.qwen3)
    fitting = (style for text in prompts.values() for style in marked if instruction_of(style, text) is not None)
    return next(fitting, TemplateStyle.plain)


def _query_instruction(path: str, style: TemplateStyle, written: str) -> str:
    if not written:
        return ""
    instruction = instruction_of(style, written)
    if instruction is None:
        raise UserError(
            f"model.path={path}: the query prompt {written!r} of {PROMPTS_FILE} fits no text form; choose one by "
            f"template={'|'.join(PRESETS)}"
        )
    return instruction
