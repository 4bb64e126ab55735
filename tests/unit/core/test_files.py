"""Files and folders appear complete or not at all."""

import gzip
import os

import pytest

from reasonir.core.files import read_jsonl, whole_file, whole_folder, whole_path, write_json, write_jsonl, write_text


class Broken(Exception):
    pass


@pytest.mark.parametrize("per_process", [False, True])
@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_the_old_one_until_the_block_has_ended(tmp_path, durable, per_process):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with whole_file(target, durable=durable, per_process=per_process) as stream:
        stream.write("größer\n")
        assert target.read_text() == "old"
        (scratch,) = tmp_path.glob(".a.txt*.partial")
        assert (scratch.name == ".a.txt.partial") != per_process
        if per_process:  # containers that share a folder have equal process ids, so chance tells them apart
            with whole_file(target, per_process=True):
                assert len(list(tmp_path.glob(".a.txt*.partial"))) == 2
            target.write_text("old")
    assert target.read_bytes() == "größer\n".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(Broken), whole_file(target, "wb") as stream:
        stream.write(b"half")
        raise Broken
    with pytest.raises(Broken), whole_path(target) as scratch:
        scratch.write_bytes(b"half")
        raise Broken
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_replaces_the_older_one_as_a_whole(tmp_path):
    target = tmp_path / "deep" / "model"
    for name in ("first", "second"):
        with whole_folder(target) as scratch:
            (scratch / name).write_text(name)
    assert os.listdir(target) == ["second"]
    with pytest.raises(Broken), whole_folder(target) as scratch:
        (scratch / "third").write_text("")
        raise Broken
    assert os.listdir(target) == ["second"]
    assert os.listdir(target.parent) == ["model"]


def test_rows_are_written_and_read_back_with_equal_bytes_each_time(tmp_path):
    rows = [{"id": "ä"}, {"id": "b", "n": [1.5]}]
    for name in ("rows.jsonl", "rows.jsonl.gz"):
        assert write_jsonl(tmp_path / "new" / name, rows) == 2
        first = (tmp_path / "new" / name).read_bytes()
        assert [row for _, row in read_jsonl(tmp_path / "new" / name)] == rows
        write_jsonl(tmp_path / "new" / name, iter(rows))
        assert (tmp_path / "new" / name).read_bytes() == first
    assert gzip.decompress(first) == (tmp_path / "new" / "rows.jsonl").read_bytes()


def test_small_files_end_as_they_should(tmp_path):
    write_text(tmp_path / "a.md", "x\n")
    write_json(tmp_path / "a.json", {"ä": 1})
    assert (tmp_path / "a.md").read_bytes() == b"x\n"
    assert (tmp_path / "a.json").read_bytes() == '{\n  "ä": 1\n}\n'.encode()
