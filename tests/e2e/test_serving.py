"""The Python of docs/serving.md, run as it stands there, gives the encoder's embeddings."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasonir.core.errors import UserError
from reasonir.model import Encoder
from reasonir.model.folders import save_encoder
from reasonir.model.serving import ServedEncoder, server_states
from tests.kit.texts import INSTRUCTION

pytestmark = pytest.mark.filterwarnings("ignore")  # sentence-transformers warns of its own renamed modules
PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
QUERY, DOCUMENT = "The pond has ice at its rim.", "Shallow water loses its heat faster than deep water."


def test_each_reader_of_the_page_gives_the_encoders_embeddings(
    tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("outputs/quickstart")
    folder.mkdir(parents=True)
    save_encoder(tiny, str(folder / "model"), query_instruction=INSTRUCTION, max_tokens=256)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    readers = [block for block in blocks if "vllm" not in block]
    assert len(readers) == 2 and len(blocks) == 3
    for block in readers:
        names: dict[str, Any] = {}
        exec(compile(block, str(PAGE), "exec"), names)
        assert np.abs(np.asarray(names["query"]) - tiny.encode([QUERY], INSTRUCTION)[0]).max() < 1e-5
        assert np.abs(np.asarray(names["document"]) - tiny.encode([DOCUMENT])[0]).max() < 1e-5


def test_states_of_tokens_are_pooled_as_the_encoder_pools_them(tiny: Encoder, tmp_path: Path) -> None:
    import torch

    from reasonir.model.trunk.attention import Segments
    from reasonir.model.trunk.bidirectional import forward_packed

    tiny.save_pretrained(str(tmp_path / "model"))

    def states(ids: list[list[int]]) -> list[np.ndarray]:
        with torch.no_grad():
            return [forward_packed(tiny.trunk, torch.tensor(row), Segments.of([len(row)])).numpy() for row in ids]

    served = ServedEncoder(str(tmp_path / "model"), states)
    texts = [f"{DOCUMENT} {i}" * (i % 5 + 1) for i in range(70)]  # more than go into one request
    for instruction in ("", INSTRUCTION):
        assert np.abs(served.encode(texts, instruction, 60) - tiny.encode(texts, instruction, 60)).max() < 1e-5
    with pytest.raises(UserError, match="token_embed"):
        ServedEncoder(str(tmp_path / "model"), lambda ids: [rows[:1] for rows in states(ids)]).encode([QUERY])
    with pytest.raises(UserError, match="cannot be reached"):
        ServedEncoder(str(tmp_path / "model"), server_states("http://127.0.0.1:9", "m")).encode([QUERY])
