"""Finds the preset of a model folder or hub id from the files in it, sentence-transformers' own files among them.

Invariant: we reproduce sentence-transformers' embeddings of a folder, or raise an error that names the unsupported
setting. One exception: if the folder defines no prompts, an instruction is left out of the mean, where
sentence-transformers would include it. `presets.py` has the table of presets, `folders.py` loads and saves.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from reasonir.core.errors import UserError
from reasonir.model.pooling import Pooling
from reasonir.model.presets import PRESETS, Preset, PresetOptions, preset_of_folder, preset_of_hub_id
from reasonir.model.templates import TemplateStyle, instruction_of
from reasonir.model.trunk.bidirectional import Attention, is_decoder

PRESET_FILE = "reasonir.json"
# Format 1 of `reasonir.json` named the text form only; `_preset_of_card` still reads it.
CARD_FORMAT = 2
MODULES_FILE = "modules.json"
PROMPTS_FILE = "config_sentence_transformers.json"
# sentence-transformers reads the first of these that is there.
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# What these files may say beside max_seq_length and do_lower_case without another embedding.
HARMLESS_VALUES: dict[str, tuple[Any, ...]] = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "tokenizer_name_or_path": (None,),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "processing_kwargs": (None, {}),
    "unpad_inputs": (None, True, False),
}
MODEL_ARGUMENTS = {"torch_dtype", "dtype", "attn_implementation", "add_pooling_layer", "use_safetensors"}
TOKENIZER_ARGUMENTS = {"model_max_length", "padding_side", "use_fast"}
HARMLESS_ARGUMENTS = {
    "model_args": MODEL_ARGUMENTS,
    "model_kwargs": MODEL_ARGUMENTS,
    "tokenizer_args": TOKENIZER_ARGUMENTS,
    "processor_kwargs": TOKENIZER_ARGUMENTS,
    "config_args": {"use_cache"},
    "config_kwargs": {"use_cache"},
}
TEXT_METHOD = {"method": "forward", "method_output_name": "last_hidden_state"}
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
    modules = _read_modules(path)
    # Before `template` is looked at: no preset makes up for a module that we do not run.
    if modules is not None:
        _check_modules(path, modules)
    if template != "auto":
        if template not in PRESETS:
            raise UserError(f"template={template}: no such preset; there are auto, {', '.join(PRESETS)}")
        return PRESETS[template]
    card = _read_object(path, PRESET_FILE)
    if card is not None:
        return _preset_of_card(path, card)
    read = None if modules is None else _preset_of_sentence_transformers(path, config, modules)
    return _known_preset(path, read) or read or PRESETS["reasonir" if is_decoder(config) else "plain"]


def _known_preset(path: str, read: Preset | None) -> Preset | None:
    """Return the preset of a known hub id, or of a folder called like a known model unless its files say otherwise.

    Args:
        path: A model folder or hub id.
        read: What sentence-transformers' files say; None where there are none.
    """
    if not Path(path).is_dir():
        return preset_of_hub_id(path)
    known = preset_of_folder(Path(path))
    # Another model may have the name: it gives itself away by a pooling or by prompts of its own.
    says_otherwise = (
        known is not None and read is not None and (read.pooling is not known.pooling or bool(_read_prompts(path)))
    )
    return None if says_otherwise else known


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
        return json.loads(Path(found).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"model.path={path}: {name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
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


def _read_object(path: str, name: str) -> dict[str, Any] | None:
    """Return a JSON file that holds an object; None where there is no such file."""
    value = read_json(path, name)
    if value is not None and not isinstance(value, dict):
        raise UserError(f"model.path={path}: {name} must hold a JSON object, it holds {type(value).__name__}")
    return value


def _preset_of_card(path: str, card: dict[str, Any]) -> Preset:
    """Read both formats. The defaults are what format 1 implied: a masked mean of bidirectional states."""
    texts = {name: card.get(name, "") for name in ("query_instruction", "document_prompt")}
    pools_prompt = card.get("pools_prompt", False)
    try:
        style = TemplateStyle(card["template"])
        pooling = Pooling(card.get("pooling", "mean"))
        attention = Attention(card.get("attention", "bidirectional"))
    except (KeyError, ValueError) as error:
        remedy = "give template=NAME without the file, or load the model with the version that wrote it"
        raise UserError(f"model.path={path}: {PRESET_FILE} is damaged or newer ({error}); {remedy}") from error
    if not all(isinstance(text, str) for text in texts.values()) or not isinstance(pools_prompt, bool):
        raise UserError(f"model.path={path}: {PRESET_FILE}: prompts must be texts and pools_prompt true or false")
    return Preset(style, pooling, attention, pools_prompt=pools_prompt, **texts)


def _read_modules(path: str) -> list[dict[str, Any]] | None:
    modules = read_json(path, MODULES_FILE)
    if modules is None:
        return None
    if not isinstance(modules, list) or not all(
        isinstance(m, dict) and isinstance(m.get("type"), str) and isinstance(m.get("path"), str) for m in modules
    ):
        raise UserError(f"model.path={path}: {MODULES_FILE} must be a list of modules, each with a type and a path")
    for place in (PurePosixPath(module["path"]) for module in modules):
        if place.is_absolute() or ".." in place.parts:
            raise UserError(f"model.path={path}: {MODULES_FILE} leads out of the folder: {str(place)!r}")
    return modules


def trunk_folder(path: str) -> str:
    """Return the folder of transformers' own files: `path`, or what modules.json names (0_Transformer/ before 2021)."""
    modules = _read_modules(path) if Path(path).is_dir() else None
    places = (module["path"] for module in modules or () if module["type"].endswith(".Transformer"))
    place = next(places, "")
    return str(Path(path) / place) if place else path


def _check_modules(path: str, modules: list[dict[str, Any]]) -> None:
    """Refuse by name what sentence-transformers would run or do and we do not."""
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    for module, kind in zip(modules, kinds, strict=True):
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UserError(f"model.path={path}: module {kind} of modules.json is not supported")
        if not module["type"].startswith("sentence_transformers."):
            raise UserError(f"model.path={path}: module {module['type']} is code of the folder's own, which is not run")
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(
            f"model.path={path}: {MODULES_FILE} runs {', '.join(kinds) or 'nothing'}; only Transformer, Pooling and "
            "then perhaps Normalize are supported"
        )
    if "Normalize" in kinds:
        for name, value in (_read_object(path, f"{modules[-1]['path']}/config.json") or {}).items():
            if name in ("module_input_name", "module_output_name") and value not in (None, "sentence_embedding"):
                raise UserError(f"model.path={path}: {name}={value} of Normalize is not supported")
    transformer_settings(path)
    settings = _read_object(path, PROMPTS_FILE) or {}
    similarity = settings.get("similarity_fn_name") or "cosine"
    # Vectors of length 1 rank alike by cosine, dot product and Euclidean distance.
    if similarity != "cosine" and ("Normalize" not in kinds or similarity not in ("dot", "euclidean")):
        why = f" without the module Normalize in {MODULES_FILE}" if "Normalize" not in kinds else ""
        raise UserError(
            f"model.path={path}: similarity_fn_name={similarity} of {PROMPTS_FILE}{why} ranks otherwise than the "
            "cosine, by which embeddings are compared here"
        )
    if settings.get("truncate_dim") is not None:
        raise UserError(
            f"model.path={path}: truncate_dim={settings['truncate_dim']} of {PROMPTS_FILE} is not supported; set it to "
            "null and cut embeddings with dimensions=N of reasonir-eval encode"
        )


def transformer_settings(path: str) -> dict[str, Any]:
    """Return what sentence-transformers' files say of the transformer: max_seq_length and do_lower_case, if anything.

    Raises:
        UserError: They ask for something that would change embeddings and is not followed.
    """
    folder = trunk_folder(path)
    found = next((said for name in TRANSFORMER_FILES if (said := _read_object(folder, name))), {})
    for name, value in found.items():
        if name in HARMLESS_ARGUMENTS:
            known = isinstance(value, dict) and value.keys() <= HARMLESS_ARGUMENTS[name] | {"trust_remote_code"}
        elif name == "modality_config":
            known = isinstance(value, dict) and value.get("text") == TEXT_METHOD
        elif name == "max_seq_length":
            known = value is None or (type(value) is int and value > 0)
        elif name == "do_lower_case":
            known = value in (None, True, False)
        else:
            known = value in HARMLESS_VALUES.get(name, ())
        if not known:
            raise UserError(f"model.path={path}: {name}={value!r} of its sentence-transformers files is not supported")
    arguments = found.get("processor_kwargs") or found.get("tokenizer_args") or {}
    return {
        "max_seq_length": arguments.get("model_max_length") or found.get("max_seq_length"),
        "do_lower_case": bool(found.get("do_lower_case")),
    }


def _read_prompts(path: str) -> dict[str, str]:
    """Return the prompts of a sentence-transformers folder by name; empty ones are left out."""
    prompts = (_read_object(path, PROMPTS_FILE) or {}).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise UserError(f"model.path={path}: prompts of {PROMPTS_FILE} must be texts by name")
    return {name: text for name, text in prompts.items() if text}


def _preset_of_sentence_transformers(path: str, config: Any, modules: list[dict[str, Any]]) -> Preset:
    place = next(m["path"] for m in modules if m["type"].endswith(".Pooling"))
    settings = _read_object(path, f"{place}/config.json") or {}
    pooling = _pooling(path, settings)
    include_prompt = settings.get("include_prompt")
    if pooling is Pooling.cls and include_prompt is False:
        raise UserError(f"model.path={path}: pooling cls with include_prompt=false is not supported")
    prompts = _read_prompts(path)
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
    modes = [str(mode) for mode in stated] if isinstance(stated, list) else [str(stated)] if stated else []
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
    token = (_read_object(trunk_folder(path), "tokenizer_config.json") or {}).get("bos_token")
    written = token.get("content") if isinstance(token, dict) else token
    return written if isinstance(written, str) else ""


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
