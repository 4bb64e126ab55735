"""SmolLM2-135M-Instruct, where `make test-slow` (or `python scripts/smollm2.py .venv/smollm2`) has written it."""

import sys
from pathlib import Path

import pytest

MODEL = Path(sys.prefix) / "smollm2"
needs_smollm2 = pytest.mark.skipif(
    not MODEL.is_dir(), reason="needs scripts/smollm2.py (make test-slow writes its model)"
)
