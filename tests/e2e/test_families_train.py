"""Architectures that cannot be packed, or that name their sizes in their own way, train from the command."""

import json

import pytest

from reasonir.train.cli import main
from tests.kit.families import write_family
from tests.kit.texts import training_rows, write_rows

# transformers' own DeBERTa, when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.mark.parametrize(
    "name",
    [
        "mpnet",
        "deberta-v2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("t5", "gpt2", "gemma3", "falcon")),
    ],
)
@pytest.mark.seconds(20)
def test_a_family_with_random_weights_trains_a_step(tmp_path, name, capsys):
    folder = write_family(tmp_path / "base", name)
    rows = write_rows(tmp_path / "rows.jsonl", training_rows(8))
    with pytest.raises(SystemExit) as left:
        main([
            f"output_dir={tmp_path}/run", f"model.path={folder}", f"data.files=[{rows}]", "max_steps=2",
            "precision=fp32", "global_batch_queries=4", "query_max_tokens=60", "document_max_tokens=60",
            "chunk_tokens=300", "learning_rate=0.01",
        ])  # fmt: skip
    assert not left.value.code, capsys.readouterr().err
    first, second = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert second["train/loss_nats"] > 0 and first["train/grad_norm"] > 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
