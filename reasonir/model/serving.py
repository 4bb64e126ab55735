"""Embeddings from hidden states that a vLLM engine or server computes, pooled as `Encoder` pools them.

vLLM's own mean includes every token; the mean of ReasonIR and GritLM leaves out everything before the text. So we ask
the engine for the states of all tokens (its task token_embed) and apply our template and pooling.
Invariant: the same token ids go in and the same states are pooled as in `Encoder.encode`. The caller starts and stops
the engine.

Letters: L tokens of a text, D embedding dimension, N texts.
"""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from reasonir.core.errors import UserError
from reasonir.model.folders import load_template
from reasonir.model.pooling import pool
from reasonir.model.presets import PresetOptions
from reasonir.model.sentence_transformers import choose_preset, trunk_folder
from reasonir.model.templates import list_texts
from reasonir.model.trunk.bidirectional import load_config

# From the token ids of some texts to their states in the last layer: float32 (L, D) for each text, not normalised.
TokenStates = Callable[[list[list[int]]], list[np.ndarray]]

# Bounds the size of a reply: 32 texts of 2,048 tokens and 4,096 channels are 1 GiB in float32.
TEXTS_PER_REQUEST = 32


class ServedEncoder:
    """An encoder whose forward pass runs in vLLM; needs the model folder's small files, not its weights."""

    def __init__(self, path: str, states: TokenStates, template: str = "auto") -> None:
        """Read the configuration and tokenizer of a model folder or hub id.

        Args:
            path: The folder or hub id.
            states: Computes hidden states of the same model; from `engine_states` or `server_states`.
            template: As in `Encoder.from_pretrained`.
        """
        config = load_config(trunk_folder(path))
        preset = choose_preset(path, config, PresetOptions(template))
        _, self.template = load_template(path, preset)
        self.pooling = preset.pooling
        self.dimension = int(config.hidden_size)
        self._states = states

    def encode(self, texts: str | Sequence[str], instruction: str = "", max_tokens: int = 2048) -> np.ndarray:
        """Embed texts as `Encoder.encode` does.

        Args:
            texts: N texts, or one.
            instruction: Stands before every text; "" for documents.
            max_tokens: Limit of a whole input, instruction and special tokens included.

        Returns:
            float32 (N, D) in input order, rows of length 1; (D,) for a single text that is no list.
        """
        listed = list_texts([texts] if isinstance(texts, str) else texts, "texts")
        list_texts([instruction], "instruction")
        output = np.empty((len(listed), self.dimension), dtype=np.float32)
        for start in range(0, len(listed), TEXTS_PER_REQUEST):
            pairs = [(instruction, text) for text in listed[start : start + TEXTS_PER_REQUEST]]
            tokenized = self.template.encode(pairs, max_tokens)
            states = self._states([text.ids.tolist() for text in tokenized])
            lengths = [len(text.ids) for text in tokenized]
            # A server that was started for another task replies with one vector for each text.
            if [rows.shape for rows in states] != [(length, self.dimension) for length in lengths]:
                raise UserError("the engine gives other states than one a token; start it with task token_embed")
            output[start : start + len(pairs)] = pool(
                torch.from_numpy(np.concatenate(states)),
                torch.tensor(lengths),
                torch.tensor([text.prefix_tokens for text in tokenized]),
                self.pooling,
            ).numpy()
        return output[0] if isinstance(texts, str) else output


def engine_states(engine: Any) -> TokenStates:
    """Ask a `vllm.LLM(model, runner="pooling", pooler_config=PoolerConfig(task="token_embed"))`."""
    from vllm import PoolingParams

    def compute(ids: list[list[int]]) -> list[np.ndarray]:
        answers = engine.encode(
            [{"prompt_token_ids": row} for row in ids],
            pooling_params=PoolingParams(use_activation=False),  # vLLM's activation scales every state to length 1
            pooling_task="token_embed",
            use_tqdm=False,
        )
        return [answer.outputs.data.float().cpu().numpy() for answer in answers]

    return compute


def server_states(base_url: str, model: str, *, api_key: str = "", timeout_seconds: float = 600.0) -> TokenStates:
    """Ask `vllm serve MODEL --runner pooling --pooler-config '{"task": "token_embed"}'` over HTTP.

    Args:
        base_url: Address without a path, such as http://127.0.0.1:8000.
        model: The served name: the argument of `vllm serve`, or its --served-model-name.
        api_key: Sent as a bearer token; "" sends none.
        timeout_seconds: Longest wait for one reply.

    Raises:
        UserError: The returned function raises it if the server cannot be reached or refuses.
    """
    url = f"{base_url.rstrip('/')}/pooling"
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    # Base64 of the bytes of the numbers, which are fewer than their decimals in JSON.
    asked = {"model": model, "task": "token_embed", "use_activation": False, "encoding_format": "base64"}

    def compute(ids: list[list[int]]) -> list[np.ndarray]:
        body = json.dumps({**asked, "input": ids}).encode()
        request = urllib.request.Request(url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout_seconds) as answer:
                rows = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise UserError(f"{url}: refused ({error.code}): {error.read(500).decode(errors='replace')}") from error
        except OSError as error:
            raise UserError(f"{url}: cannot be reached: {error}") from error
        flat = [np.frombuffer(base64.b64decode(row["data"]), dtype="<f4") for row in rows]
        return [states.reshape(len(row), -1) for states, row in zip(flat, ids, strict=True)]

    return compute
