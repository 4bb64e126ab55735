"""The token cache with several builders: one builds, finished stores stay, and processes give the same bytes."""

import errno
import fcntl
import os
import platform
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reasonir.core.errors import UserError
from reasonir.core.files import write_jsonl
from reasonir.model.templates import Template, TemplateStyle
from reasonir.model.tiny import build_tokenizer
from reasonir.train.data.token_store import TokenStore, open_token_store
from tests.kit.texts import SENTENCES, training_rows


class LetterTemplate:
    """One token a letter, slowly."""

    fingerprint = "letters"

    def encode(self, pairs: list[tuple[str, str]], max_tokens: int) -> list[SimpleNamespace]:
        time.sleep(0.2)
        return [
            SimpleNamespace(
                ids=np.array([ord(c) for c in text], np.int32)[:max_tokens], prefix_tokens=0, truncated=False
            )
            for _, text in pairs
        ]


@pytest.fixture
def rows(tmp_path: Path) -> str:
    write_jsonl(tmp_path / "rows.jsonl", training_rows(24))
    return str(tmp_path / "rows.jsonl")


def open_store(rows: str, cache: Path, **more: Any) -> TokenStore:
    return open_token_store(rows, None, LetterTemplate(), 40, 40, cache, **more)


def inode(cache: Path, store: TokenStore) -> int:
    return (cache / "tokens" / store.key / "tokens.bin").stat().st_ino


def test_of_many_builders_one_builds_and_the_others_wait(
    rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, built, stores = tmp_path / "cache", [], []

    def build() -> None:
        stores.append(open_store(rows, cache, on_progress=built.append))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 4 and built == [24]
    assert len({store.tokens_flat.tobytes() for store in stores}) == 1
    assert f"{rows}: another process tokenises it; waiting" in capsys.readouterr().err


def test_without_locks_a_finished_store_is_never_replaced(
    rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes, or two containers, on a file system that knows no locks: the second one ends after the first."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(os, "getpid", lambda: 57)  # containers count their processes from 1
    cache = tmp_path / "cache"
    first: list[TokenStore] = []
    mapped: list[int] = []

    def build_meanwhile(_: int) -> None:
        first.append(open_store(rows, cache))
        mapped.append(inode(cache, first[0]))

    second = open_store(rows, cache, on_progress=build_meanwhile)
    assert mapped == [inode(cache, second)], "what the first job has mapped lies there as before"
    assert second.tokens_flat.tolist() == first[0].tokens_flat.tolist()
    assert not list((cache / "tokens").glob("*.partial")), "the second builder's folder is gone"


def test_what_killed_builders_left_goes_where_it_is_ours(rows: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = open_store(rows, cache)
    store_folder = cache / "tokens" / store.key
    (store_folder / "meta.json").unlink()
    left = [cache / "tokens" / f".{store.key}.{host}.0a1b2c3d.partial" for host in (platform.node(), "elsewhere")]
    for folder in left:
        folder.mkdir()
    open_store(rows, cache)
    assert [folder.exists() for folder in left] == [False, True]


@pytest.mark.slow  # four new interpreters
def test_processes_write_the_bytes_of_one_and_name_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasonir.train.data.token_store.ROWS_PER_BATCH", 3)
    template = Template(build_tokenizer(SENTENCES, 300), TemplateStyle.reasonir)
    write_jsonl(tmp_path / "rows.jsonl", training_rows(25))
    stores = [
        open_token_store(str(tmp_path / "rows.jsonl"), None, template, 80, 80, tmp_path / f"{n}", processes=n)
        for n in (1, 2)
    ]
    folders = [tmp_path / str(n) / "tokens" / stores[0].key for n in (1, 2)]
    names = sorted(path.name for path in folders[0].iterdir())
    assert len(names) > 10
    assert [(folders[0] / name).read_bytes() for name in names] == [(folders[1] / name).read_bytes() for name in names]
    long = [*training_rows(7), {"query": ["one two three " * 30, "text"], "pos": [["", "p"]]}]
    write_jsonl(tmp_path / "long.jsonl", long)
    with pytest.raises(UserError, match=r"long\.jsonl:8: the instruction and its tags take"):
        open_token_store(str(tmp_path / "long.jsonl"), None, template, 80, 80, tmp_path / "2", processes=2)


@pytest.mark.parametrize("place", range(20))
def test_a_flipped_byte_is_tokenised_again(
    rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: int
) -> None:
    store = open_store(rows, tmp_path / "cache")
    folder = tmp_path / "cache" / "tokens" / store.key
    whole, tokens = {file.name: file.read_bytes() for file in folder.iterdir()}, store.tokens_flat.tobytes()
    file = folder / sorted(whole)[place % len(whole)]
    damaged = bytearray(whole[file.name])
    damaged[place * len(damaged) // 20] ^= 1
    file.write_bytes(damaged)
    built: list[int] = []
    again = open_store(rows, tmp_path / "cache", on_progress=built.append)
    if built:  # else it was white space of meta.json, or the name of its checksum
        assert "its tokens in" in capsys.readouterr().err
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole
    else:
        assert file.name == "meta.json"
    assert again.tokens_flat.tobytes() == tokens


def test_what_a_killed_builder_of_another_file_left_goes(rows: str, tmp_path: Path) -> None:
    store = open_store(rows, tmp_path / "cache")
    left = tmp_path / "cache" / "tokens" / f".{store.key}.{platform.node()}.0a1b2c3d.partial"
    left.mkdir()
    write_jsonl(tmp_path / "other.jsonl", training_rows(5))
    open_store(str(tmp_path / "other.jsonl"), tmp_path / "cache")
    assert not left.exists()
