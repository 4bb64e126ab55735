"""Whether an artefact is finished and was made from the same input."""

import hashlib
import json
from contextlib import suppress

import pytest

from reasonir.core.errors import UserError
from reasonir.core.stamp import (
    check_same_inputs,
    checked,
    checksums,
    digest_of,
    is_sound,
    key_of,
    read_stamp,
    remove_stamp,
    sized,
    unchanged,
    write_stamp,
)


def test_a_stamp_counts_only_with_the_same_key_and_files(tmp_path):
    stamp, data = tmp_path / "stamp.json", tmp_path / "data.bin"
    assert read_stamp(stamp) is None
    data.write_bytes(b"1234")
    write_stamp(stamp, key="k", files=checksums(tmp_path, ["data.bin"]), bytes={"data.bin": 4})
    found = read_stamp(stamp, key="k")
    assert found is not None
    assert read_stamp(stamp, key="other") is None
    assert read_stamp(stamp, absent=1) is None
    assert unchanged(tmp_path, found["files"])
    assert unchanged(tmp_path, found["bytes"])
    data.write_bytes(b"1235")
    assert not unchanged(tmp_path, found["files"])
    assert unchanged(tmp_path, found["bytes"]), "a size does not tell other bytes"
    data.write_bytes(b"123")
    assert not unchanged(tmp_path, found["bytes"])
    data.unlink()
    assert not unchanged(tmp_path, found["files"])
    assert not unchanged(tmp_path, found["bytes"])
    remove_stamp(stamp)
    remove_stamp(stamp)
    assert read_stamp(stamp, key="k") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_broken_stamp_is_none(tmp_path, content):
    (tmp_path / "stamp.json").write_bytes(content)
    assert read_stamp(tmp_path / "stamp.json") is None


@pytest.mark.parametrize("files", [None, [], "a", {"a": None}])
def test_a_stamp_of_another_shape_vouches_for_nothing(tmp_path, files):
    (tmp_path / "a").write_text("")
    assert not unchanged(tmp_path, files)


def test_digests_are_plain_sha256():
    assert digest_of(["a", b"b", "\ud800"]) == hashlib.sha256(b"ab\xed\xa0\x80").hexdigest()
    assert key_of(1, "a") == hashlib.sha256(b"(1, 'a')").hexdigest()
    assert sized("ä") == b"\x02\0\0\0\0\0\0\0" + "ä".encode()
    assert digest_of(map(sized, ["ab", "c"])) != digest_of(map(sized, ["a", "bc"]))


def test_a_changed_input_is_refused_once_something_was_made_of_it(tmp_path):
    record, folder = tmp_path / "input.json", tmp_path / "corpus"
    folder.mkdir()
    (folder / "b.txt").write_text("1")
    check_same_inputs(record, [folder], begun=False, refusal="the corpus changed")
    check_same_inputs(record, [folder], begun=True, refusal="the corpus changed")
    (folder / "a.txt").write_text("2")
    with pytest.raises(UserError, match="the corpus changed"):
        check_same_inputs(record, [folder], begun=True, refusal="the corpus changed")
    check_same_inputs(record, [folder], begun=False, refusal="the corpus changed")
    check_same_inputs(record, [folder], begun=True, refusal="the corpus changed")


@pytest.mark.parametrize("byte", range(20))
def test_a_flipped_byte_of_a_stamp_or_row_is_noticed(tmp_path, byte):
    """Twenty places over the whole file: numbers, names and the checksum itself."""
    stamp = tmp_path / "stamp.json"
    write_stamp(stamp, step=1217, rate=0.25, files={"a": "00ff"}, pair=(1, 2))
    assert read_stamp(stamp) == {"step": 1217, "rate": 0.25, "files": {"a": "00ff"}, "pair": [1, 2]}
    whole = stamp.read_bytes()
    place = byte * len(whole) // 20
    damaged = bytearray(whole)
    damaged[place] ^= 1
    stamp.write_bytes(damaged)
    found = read_stamp(stamp)
    same = {"step": 1217, "rate": 0.25, "files": {"a": "00ff"}, "pair": [1, 2]}
    assert found is None or same.items() <= found.items(), "white space, or the name of the checksum"
    row = json.dumps(checked({"key": "ab", "text": "an answer", "tokens": [1, 2.5]})).encode()
    damaged = bytearray(row)
    damaged[byte * len(row) // 20] ^= 1
    with suppress(ValueError):
        found = json.loads(damaged)
        assert not is_sound(found) or found.keys() > {"key", "text", "tokens"}


def test_rows_and_stamps_of_older_versions_are_read(tmp_path):
    (tmp_path / "stamp.json").write_text('{"key": 1}')
    assert read_stamp(tmp_path / "stamp.json", key=1) == {"key": 1}
    assert is_sound({"key": 1})
