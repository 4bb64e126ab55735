"""What all tests share: offline hubs, a cache of their own, one seed; the fixtures are those of tests/kit."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["REASONIR_CACHE"] = tempfile.mkdtemp(prefix="reasonir-test-cache-")

import pytest
import torch

from tests.kit.hydra_once import compose_once

compose_once()
pytest_plugins = ["tests.kit.fixtures", "tests.kit.limits"]


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)
