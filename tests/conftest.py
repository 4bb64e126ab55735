"""What all tests share: offline hubs, a cache of their own, tiny models."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["REASONIR_CACHE"] = tempfile.mkdtemp(prefix="reasonir-test-cache-")

import pytest
import torch

from reasonir.model import Encoder
from reasonir.model.tiny import build_tiny
from tests.kit.texts import SENTENCES


@pytest.fixture
def tiny() -> Encoder:
    """A fresh two-layer Llama encoder with grouped queries, in float32 on the CPU."""
    return build_tiny(
        SENTENCES, vocabulary_size=400, hidden_size=64, intermediate_size=96, layers=2, heads=4, key_value_heads=2
    )


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)
