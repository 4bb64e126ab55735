"""Where the real data lies; tests that read it are marked with `requires_shared_data` and `shared_data`."""

import os
from pathlib import Path

import pytest

SHARED_DATA = Path(os.environ.get("REASONIR_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
requires_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason=f"no real data at {SHARED_DATA}; set REASONIR_SHARED_DATA to its folder"
)
