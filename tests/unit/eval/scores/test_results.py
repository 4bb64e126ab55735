"""A folder of results is read as it was written, or refused in one line."""

import json
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.core.stamp import write_stamp
from reasonir.eval.scores.results import TASK_FILES, read_results, results_checksums, write_results, write_task

FILES = ("results.json", *(f"{task}/{name}" for task in ("a", "b") for name in TASK_FILES))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    run = {f"q{n}": {f"d{m}": 1.0 / (1 + m + n) for m in range(5)} for n in range(3)}
    means = {
        task: write_task(root / task, run, {q: {gold: 1} for q in run}, "made-up").mean
        for task, gold in (("a", "d1"), ("b", "d2"))
    }
    write_results(root, means)
    return root


def test_what_was_written_is_read(folder: Path) -> None:
    assert list(read_results(folder)) == ["a", "b"]
    write_stamp(folder / "manifest.json", outputs=results_checksums(folder, [folder / "a", folder / "b"]))
    assert list(read_results(folder)) == ["a", "b"]


@pytest.mark.parametrize("place", range(20))
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_refused(folder: Path, name: str, place: int) -> None:
    write_stamp(folder / "manifest.json", outputs=results_checksums(folder, [folder / "a", folder / "b"]))
    content = bytearray((folder / name).read_bytes())
    content[place * len(content) // 20] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"not what its command wrote|not a .*json of ours|different means|lacks"):
        read_results(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("results.json", b"\xff", "not a results.json of ours"),
        ("results.json", b'{"tasks": [1]}', "must hold the means"),
        ("results.json", b'{"tasks": {"a": {"mrr": "x"}}}', "must hold the means"),
        ("results.json", b'{"tasks": {"a": {"mrr": NaN}}}', "must hold the means"),
        ("results.json", b'{"tasks": {"a": 5}}', "must hold the means"),
        ("results.json", b'{"tasks": {"../victim": {}}}', "must be a name, not a path"),
        ("results.json", b'{"tasks": {"/tmp/victim": {}}}', "must be a name, not a path"),
        ("a/metrics.json", b"garbage", "not a metrics.json of ours"),
        ("a/metrics.json", b"[]", "holds no object"),
        ("a/metrics.json", b'{"mrr": 0.9}', "different means of a"),
        ("manifest.json", b"{", "is damaged"),
    ],
)
def test_files_of_others_are_refused_in_one_line(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_results(folder)


def test_an_edited_folder_can_be_taken_as_it_is(folder: Path) -> None:
    write_stamp(folder / "manifest.json", outputs=results_checksums(folder, [folder / "a", folder / "b"]))
    rows = [json.loads(line) for line in (folder / "a" / "per_query.jsonl").read_text().splitlines()]
    (folder / "a" / "per_query.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    with pytest.raises(UserError, match=r"remove .*manifest\.json to take it as it is"):
        read_results(folder)
    (folder / "manifest.json").unlink()
    assert len(read_results(folder)["a"].per_query()) == 3
