"""Sizes that cannot fit are refused when a run is planned, before a weight is loaded."""

from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.train import cli
from reasonir.train.prepare import require_rank, require_rows


def test_a_batch_holds_no_row_twice() -> None:
    require_rows([4, 8], 8)
    with pytest.raises(UserError, match=r"^global_batch_queries=9 is more than the 8 rows; give 8 or fewer$"):
        require_rows([4, 9], 8)


def test_a_rank_is_within_the_width() -> None:
    require_rank(32, 32)
    with pytest.raises(UserError, match=r"^lora.rank=33 is above the model's width of 32$"):
        require_rank(33, 32)


@pytest.mark.seconds(10)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["data=vl", "global_batch_queries=99999999"], "is more than the 244970 rows; give 244970 or fewer"),
        (["data=vl", "model=tiny", "lora=lora", "lora.rank=100000"], "lora.rank=100000 is above the model's width of"),
    ],
)
def test_a_plan_refuses_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REASONIR_DATA", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        cli.main(["output_dir=out", "dry_run=true", *options])
    assert ended.value.code == 2 and not list(tmp_path.iterdir())
    assert (said := capsys.readouterr().err).count("\n") == 1 and expected in said
