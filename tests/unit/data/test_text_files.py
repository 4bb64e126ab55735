"""A folder of .txt and .md files is a corpus wherever one is read."""

from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.core.files import write_jsonl
from reasonir.data.collections import read_documents, read_lookup
from reasonir.data.training_rows import read_training_examples
from reasonir.eval.rag.datastore.sources import read_source
from reasonir.synth.recipes.inputs import read_corpus


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "physics" / ".cache").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "b.md").write_bytes("\ufeffÄther\r\n".encode())
    (folder / "physics" / "a heat.TXT").write_bytes(b"Warm air rises.")
    (folder / "empty.txt").write_bytes(b"")
    for other in ("physics/plot.png", "physics/.cache/x.txt", ".git/x.md", ".hidden.txt", "notes.py"):
        (folder / other).write_bytes(b"\xff not a document")
    return folder


EXPECTED = {"b.md": "Äther\r\n", "empty.txt": "", "physics/a heat.TXT": "Warm air rises."}


def test_a_document_is_named_by_its_path_within_the_folder(notes, monkeypatch):
    assert list(read_documents(str(notes)).items()) == list(EXPECTED.items())
    assert read_lookup(str(notes)) == EXPECTED
    assert [item.id for item in read_corpus(f"{notes}/")] == list(EXPECTED)
    monkeypatch.chdir(notes)
    assert read_documents(".") == EXPECTED


def test_one_file_is_a_corpus_of_one_document(notes):
    assert read_documents(str(notes / "b.md")) == {"b.md": "Äther\r\n"}
    for source in (notes / "b.md", notes):
        assert "Äther\r\n" in [text.text for text in read_source(str(source))]


def test_rows_look_their_ids_up_in_a_folder_of_texts(notes, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"query": "why", "pos": ["physics/a heat.TXT"]}])
    (example,) = read_training_examples(str(tmp_path / "rows.jsonl"), read_lookup(str(notes)))
    assert example.positives[0].text == "Warm air rises."


def test_files_of_rows_come_before_texts(notes):
    write_jsonl(notes / "documents.jsonl", [{"id": "row", "content": "x"}])
    assert read_documents(str(notes)) == {"row": "x"}


def test_refusals_name_the_file(notes, tmp_path):
    (notes / "physics" / "latin.txt").write_bytes("fine\nna\xefve".encode("latin-1"))
    with pytest.raises(UserError, match=r"physics/latin.txt:2: byte 0xef is not UTF-8; save it as UTF-8"):
        read_documents(str(notes))
    (notes / "physics" / "latin.txt").unlink()
    (notes / "physics" / "gone.txt").symlink_to(notes / "nowhere")
    with pytest.raises(UserError, match=r"gone.txt: cannot be read: No such file"):
        read_documents(str(notes))
    (tmp_path / "none" / "deep").mkdir(parents=True)
    with pytest.raises(UserError, match=r"none: no corpus here \(.*\.txt and \.md files\)"):
        read_documents(str(tmp_path / "none"))


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_read(notes, tmp_path):
    (notes / "again.txt").symlink_to(notes / "physics" / "secret.txt")
    (notes / "physics" / "secret.txt").write_text("inside")
    assert read_documents(str(notes))["again.txt"] == "inside"
    (tmp_path / "private.txt").write_text("outside")
    for target in (tmp_path / "private.txt", "../../private.txt"):
        (notes / "physics" / "stolen.txt").symlink_to(target)
        with pytest.raises(UserError, match=r"physics/stolen.txt is a link out of the folder; remove it"):
            read_documents(str(notes))
        (notes / "physics" / "stolen.txt").unlink()
    (tmp_path / "named.txt").symlink_to(tmp_path / "private.txt")
    assert read_documents(str(tmp_path / "named.txt")) == {"named.txt": "outside"}, "the user named this one"
