"""`reasonir-train prepare` fills the cache that the run of the same options finds."""

from pathlib import Path

import pytest

from tests.kit import fork
from tests.kit.texts import tiny_training


def content(cache: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of every file of the cache: a store that was built again has others."""
    return {str(p.relative_to(cache)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in cache.rglob("*") if p.is_file()}


def run(*arguments: str) -> str:
    done = fork.run(["-m", "reasonir.train", *arguments], merged=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.seconds(60)  # a chain of three commands
def test_the_run_finds_what_prepare_has_tokenised(tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "run"
    options = [*tiny_training(tmp_path, 1), f"data.cache_dir={cache}"]
    said = run("prepare", *options, f"output_dir={out}", "data.processes=1")
    assert "a.jsonl: 11 rows" in said and f"the token cache of this run is complete: {cache}" in said
    assert not out.exists()
    made = content(cache)
    assert len([name for name in made if name.endswith("meta.json")]) == 2
    run(*options, f"output_dir={out}")
    assert content(cache) == made
    # A model folder: its tokenizer is read, its weights are not.
    model = out / "model"
    (model / "model.safetensors").rename(tmp_path / "weights")
    again = [*options, f"model.path={model}", "query_max_tokens=30", f"output_dir={tmp_path}/second"]
    run("prepare", *again, "data.processes=1")
    made = content(cache)
    assert len([name for name in made if name.endswith("meta.json")]) == 4
    (tmp_path / "weights").rename(model / "model.safetensors")
    run(*again)
    assert content(cache) == made
