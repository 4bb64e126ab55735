"""Files and folders appear complete or not at all."""

import errno
import gzip
import os
import platform
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import reasonir.core.files
from reasonir.core.errors import UserError, describe_os_error
from reasonir.core.files import (
    lock_folder,
    only_one,
    read_jsonl,
    read_mapping,
    remove_all_leftovers,
    under,
    whole_file,
    whole_folder,
    whole_path,
    write_json,
    write_jsonl,
    write_text,
)
from tests.kit.full_disk import little_room


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


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a\0b"])
def test_a_name_is_no_path(tmp_path, name):
    with pytest.raises(UserError, match="must be a name, not a path"):
        under(tmp_path, name, "tasks")


@pytest.mark.parametrize("name", ["biology", "größer", "a b", "..hidden", "v1.1", "x=y"])
def test_a_plain_name_lies_in_its_folder(tmp_path, name):
    assert under(tmp_path, name, "tasks").parent == tmp_path


def save_numbers(path):
    with path.open("wb") as stream:
        np.save(stream, np.zeros(100_000))


WRITERS = {
    "text": lambda path: path.write_text("x" * 200_000),
    "numpy": save_numbers,
    "safetensors": lambda path: save_file({"a": torch.zeros(100_000)}, path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_told_with_its_path_and_leaves_nothing(tmp_path, kind):
    """numpy tells no cause, safetensors raises an error of its own, and a write that fails knows no name."""
    for whole, name in ((whole_path, "file"), (whole_folder, "folder")):
        with little_room(50_000), pytest.raises(OSError, match=name) as caught, whole(tmp_path / name) as scratch:
            WRITERS[kind](scratch if name == "file" else scratch / "part.npy")
        line = describe_os_error(caught.value)
        assert str(tmp_path / name) in line and "same command again" in line
        assert caught.value.errno in (errno.EFBIG, errno.ENOSPC), "numpy's own sentence tells no cause"
        assert os.listdir(tmp_path) == []
    with little_room(50_000), pytest.raises(OSError, match=r"rows\.jsonl"):
        write_jsonl(tmp_path / "rows.jsonl", ({"id": "x" * 100} for _ in range(1_000)))
    assert os.listdir(tmp_path) == []


def test_a_sentence_that_quotes_the_system_stays_itself(tmp_path):
    with pytest.raises(UserError, match=r"^other: No space left on device$"), whole_file(tmp_path / "a"):
        raise UserError("other: No space left on device")


LOCKING = """
import sys, pathlib
from reasonir.core.errors import UserError
from reasonir.core.files import lock_folder
try:
    held = lock_folder(pathlib.Path(sys.argv[1]))
    print("taken")
except UserError as error:
    print(error)
"""


def other_process(folder):
    done = subprocess.run([sys.executable, "-c", LOCKING, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("network", [False, True])
def test_one_process_holds_a_folder(tmp_path, network, monkeypatch):
    if network:  # NFS locks no folder, only files that are open for writing
        plain = reasonir.core.files.lock_or_refuse

        def on_nfs(opened, refusal):
            if os.path.isdir(os.readlink(f"/proc/self/fd/{opened}")):
                raise OSError(errno.EBADF, "Bad file descriptor")
            plain(opened, refusal)

        monkeypatch.setattr(reasonir.core.files, "lock_or_refuse", on_nfs)
    first = lock_folder(tmp_path)
    # A run that failed in a notebook may still be held by its traceback.
    assert lock_folder(tmp_path) is first
    if not network:
        assert "another run writes here" in other_process(tmp_path)
        assert os.listdir(tmp_path) == [], "the lock is no file"
    first.release()
    assert other_process(tmp_path) == "taken"
    second = lock_folder(tmp_path)
    assert second is not first and not second.released


def test_a_file_system_without_locks_forbids_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert not lock_folder(tmp_path).released


def test_what_any_killed_builder_left_goes_unless_one_lives(tmp_path):
    left = tmp_path / f".a.{platform.node()}.0011.partial"
    for name in ("a", "b"):
        with suppress(UserError), only_one(tmp_path / name, ""):
            pass
        (tmp_path / f".{name}.{platform.node()}.0011.partial").mkdir()
    (tmp_path / ".a.otherhost.0022.partial").mkdir()
    with only_one(tmp_path / "b", ""):
        remove_all_leftovers(tmp_path)
    assert not left.exists()
    assert (tmp_path / f".b.{platform.node()}.0011.partial").exists(), "its builder lives"
    assert (tmp_path / ".a.otherhost.0022.partial").exists(), "another host's builder may live"


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    "content", ["[" * 5_000, "day: 2020-99-99", f"number: {'9' * 5_000}", "run: !!python/object:os.system x", BOMB]
)
def test_a_mapping_of_others_is_read_or_refused_in_one_line(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config.yaml: broken: ") as caught:
        read_mapping(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)
