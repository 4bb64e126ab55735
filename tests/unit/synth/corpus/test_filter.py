"""The filter: every document comes out once, with its reason; a killed run ends in the same bytes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from reasonir.core.command import validate_tree
from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl, write_jsonl
from reasonir.synth.config import FilterConfig
from reasonir.synth.corpus import filter as filters
from reasonir.synth.corpus.filter import QualityClassifier, filter_corpus
from tests.kit.models import save_classifier
from tests.kit.texts import SENTENCES

VOCABULARY = sorted({word for sentence in SENTENCES for word in sentence.split()})


def options(folder: Path, corpus: Path, **changes: Any) -> FilterConfig:
    values: dict[str, Any] = {
        "recipe": "filter", "output_dir": str(folder), "seed": 0, "debug": False, "corpus": str(corpus),
        "min_words": 5, "max_words": 60, "english": False, "near_duplicate": 0.8, "classifier": None, "label": None,
        "min_score": None, "top": None, "max_tokens": 64, "chunk_tokens": 256,
    }  # fmt: skip
    config = FilterConfig(**(values | changes))
    validate_tree(config)
    return config


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)] if path.stat().st_size else []


def filtered(folder: Path, corpus: Path, **changes: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    filter_corpus(options(folder, corpus, **changes))
    return rows_of(folder / "documents.jsonl"), rows_of(folder / "rejections.jsonl")


def sentence(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(VOCABULARY, k=words))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    draw = random.Random(0)
    rows = [{"id": f"d{n:02}", "content": sentence(draw, draw.randrange(6, 50))} for n in range(40)]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    return tmp_path / "corpus.jsonl"


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    return save_classifier(tmp_path / "classifier", ["LABEL_0"])


LONG = "the cell divides when its membrane has grown and the spindle has drawn the chromosomes apart in good order"


def test_each_reason_is_given_once_and_in_order(tmp_path: Path) -> None:
    german = "Die Zelle teilt sich, wenn ihre Membran gewachsen ist und die Spindel die Chromosomen getrennt hat."
    contents = {
        "empty": "  ", "ok": LONG, "same": f" {LONG.upper()} ", "near": f"{LONG} indeed",
        "long near copy": f"{LONG} " + " ".join(f"w{n}" for n in range(60)), "short": "a cell", "german": german,
        "other": " ".join(f"v{n}" for n in range(20)),
    }  # fmt: skip
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": i, "content": text} for i, text in contents.items()])
    kept, rejected = filtered(tmp_path / "out", tmp_path / "corpus.jsonl", english=True)
    assert kept == [{"id": i, "content": contents[i]} for i in ("ok", "other")]
    assert [(row["id"], row["reason"]) for row in rejected] == [
        ("empty", "empty"), ("same", "duplicate"), ("near", "near_duplicate"), ("long near copy", "too_long"),
        ("short", "too_short"), ("german", "not_english"),
    ]  # fmt: skip
    assert [row["value"] for row in rejected] == [0, "ok", "ok", 79, 2, german[:80]]
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts["documents"] == 8 and counts["kept"] == 2 and sum(counts.values()) == 8 + 8
    looser, _ = filtered(tmp_path / "loose", tmp_path / "corpus.jsonl", near_duplicate=0.0)
    assert [row["id"] for row in looser] == ["ok", "near", "german", "other"]


def test_a_refused_document_does_not_shadow_a_near_copy(tmp_path: Path) -> None:
    rows = [{"id": "too long", "content": f"{LONG} x y"}, {"id": "fits", "content": LONG}]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    kept, rejected = filtered(tmp_path / "out", tmp_path / "corpus.jsonl", max_words=len(LONG.split()))
    assert [row["id"] for row in kept] == ["fits"]
    assert [row["reason"] for row in rejected] == ["too_long"]


def test_bounds_belong_to_what_is_kept(tmp_path: Path) -> None:
    rows = [{"id": str(n), "content": " ".join(f"w{n}x{i}" for i in range(n))} for n in range(3, 9)]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    kept, rejected = filtered(tmp_path / "out", tmp_path / "corpus.jsonl", min_words=5, max_words=7)
    assert [row["id"] for row in kept] == ["5", "6", "7"]
    assert [row["reason"] for row in rejected] == ["too_short", "too_short", "too_long"]


def test_ids_of_several_tasks_and_titles(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_jsonl(root / "a" / "documents.jsonl", [{"id": "1", "content": LONG}])
    write_jsonl(root / "b" / "documents.jsonl", [{"id": "1", "content": "an other text altogether with the same id"}])
    kept, rejected = filtered(tmp_path / "out", root)
    assert [row["content"] for row in kept] == [LONG]
    assert [row["reason"] for row in rejected] == ["same_id"]
    write_jsonl(tmp_path / "beir" / "corpus.jsonl", [{"_id": "1", "title": "Cells", "text": LONG}])
    kept, _ = filtered(tmp_path / "titled", tmp_path / "beir")
    assert kept == [{"id": "1", "content": f"Cells {LONG}"}]


def test_scores_are_the_models_own(tmp_path: Path, corpus: Path, classifier: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    kept, rejected = filtered(tmp_path / "out", corpus, classifier=classifier)
    assert len(kept) == 40 and rejected == []
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(classifier), None
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    for row in kept[:8]:
        with torch.no_grad():
            batch = tokenizer(row["content"], truncation=True, max_length=64, return_tensors="pt")
            expected = float(model.eval()(**batch).logits[0, 0])
        assert row["score"] == pytest.approx(expected, abs=1e-4)
    assert len({row["score"] for row in kept}) > 30


def test_top_is_by_score_then_id_and_the_rest_is_told_why(
    tmp_path: Path, corpus: Path, classifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QualityClassifier, "score", lambda self, texts: [float(len(t.split()) // 12) for t in texts])
    kept, rejected = filtered(tmp_path / "out", corpus, classifier=classifier, min_score=1.0, top=9)
    every = {row["id"]: float(len(row["content"].split()) // 12) for row in rows_of(corpus)}
    best = sorted((i for i in every if every[i] >= 1), key=lambda i: (-every[i], i))
    assert len({every[i] for i in best[8:10]}) == 1, "the cut should fall among equals"
    assert {row["id"] for row in kept} == set(best[:9])
    assert [row["id"] for row in kept] == sorted(row["id"] for row in kept)  # the order of the corpus
    assert {row["id"] for row in rejected if row["reason"] == "beyond_top"} == set(best[9:])
    assert {row["id"]: row["value"] for row in rejected if row["reason"] == "low_score"} == {
        i: score for i, score in every.items() if score < 1
    }
    assert sorted(row["id"] for row in kept + rejected) == sorted(every)


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, corpus: Path, classifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "TEXTS_PER_BLOCK", 16)
    given = {"classifier": classifier, "top": 20, "min_score": -9.0}
    filtered(tmp_path / "whole", corpus, **given)
    plain, scored = QualityClassifier.score, []

    def dying(self: QualityClassifier, texts: list[str]) -> list[float]:
        if len(scored) >= 15:
            raise Killed
        scored.extend(texts)
        return plain(self, texts)

    monkeypatch.setattr(QualityClassifier, "score", dying)
    with pytest.raises(Killed):
        filtered(tmp_path / "killed", corpus, **given)
    assert not (tmp_path / "killed" / "manifest.json").exists()
    (store,) = (tmp_path / "killed" / "work").glob("scores-*.jsonl")
    whole_lines = store.read_bytes()
    assert 15 <= whole_lines.count(b"\n") < 40
    store.write_bytes(whole_lines[:-9])  # the last line was torn

    again: list[str] = []

    def counting(self: QualityClassifier, texts: list[str]) -> list[float]:
        again.extend(texts)
        return plain(self, texts)

    monkeypatch.setattr(QualityClassifier, "score", counting)
    filtered(tmp_path / "killed", corpus, **given)
    assert len(scored) + len(again) < 40 + 16  # one batch at most is computed a second time
    for name in ("documents.jsonl", "rejections.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    ids = [row["id"] for row in rows_of(store)]
    assert len(ids) == len(set(ids)) == 40

    again.clear()
    kept, _ = filtered(tmp_path / "killed", corpus, **{**given, "top": 3})  # another choice from the same scores
    assert len(kept) == 3 and again == []


def test_a_survey_cut_short_is_made_anew(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filtered(tmp_path / "whole", corpus)
    plain = filters.stream_documents

    def dying(path: str) -> Any:
        for number, document in enumerate(plain(path)):
            if number == 20:
                raise Killed
            yield document

    monkeypatch.setattr(filters, "stream_documents", dying)
    with pytest.raises(Killed):
        filtered(tmp_path / "killed", corpus)
    assert not (tmp_path / "killed" / "documents.jsonl").exists()
    monkeypatch.setattr(filters, "stream_documents", plain)
    kept, _ = filtered(tmp_path / "killed", corpus)
    assert kept == rows_of(tmp_path / "whole" / "documents.jsonl")


def test_a_changed_corpus_is_not_mixed_with_the_old_one(tmp_path: Path, corpus: Path) -> None:
    filtered(tmp_path / "out", corpus)
    write_jsonl(corpus, [{"id": "new", "content": LONG}])
    with pytest.raises(UserError, match="changed since"):
        filtered(tmp_path / "out", corpus)


def test_a_corpus_that_was_not_there_binds_nobody(tmp_path: Path, corpus: Path) -> None:
    """Typed before the corpus was made, or with a typo in its name: the same folder takes the right one."""
    for missing in ("later.jsonl", "typo.jsonl"):
        with pytest.raises(UserError, match=missing):
            filtered(tmp_path / "out", tmp_path / missing)
    (tmp_path / "later.jsonl").write_bytes(corpus.read_bytes())
    assert filtered(tmp_path / "out", tmp_path / "later.jsonl")[0]


def test_several_labels_give_the_expected_one_or_a_probability(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "many", ["poor", "fair", "good"])
    texts = ["The cell divides.", "A bridge stands on piers."]
    probability = [QualityClassifier(folder, name, 64).score(texts) for name in ("poor", "fair", "good")]
    for text in (0, 1):
        assert sum(row[text] for row in probability) == pytest.approx(1, abs=1e-5)
    expected = QualityClassifier(folder, None, 64).score(texts)
    assert expected == pytest.approx([fair + 2 * good for fair, good in zip(*probability[1:], strict=True)], abs=1e-5)
    assert expected[0] != expected[1]
    with pytest.raises(UserError, match="poor, fair, good"):
        QualityClassifier(folder, "excellent", 64)


def test_other_weights_have_another_name(tmp_path: Path) -> None:
    names = {QualityClassifier(save_classifier(tmp_path / f"c{s}", ["x"], s), None, 64).fingerprint for s in (0, 1)}
    again = QualityClassifier(str(tmp_path / "c0"), None, 64).fingerprint
    assert len(names) == 2 and again in names
    assert QualityClassifier(str(tmp_path / "c0"), None, 32).fingerprint not in names


def test_what_is_no_classifier_is_refused(tmp_path: Path, corpus: Path, tiny: Any) -> None:
    tiny.save_pretrained(str(tmp_path / "encoder"))
    with pytest.raises(UserError, match="no trained classifier"):
        filtered(tmp_path / "out", corpus, classifier=str(tmp_path / "encoder"))
    with pytest.raises(UserError, match="cannot be loaded"):
        filtered(tmp_path / "out", corpus, classifier=str(tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_nothing_left_is_a_mistake(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(UserError, match="loosen"):
        filtered(tmp_path / "out", corpus, min_words=55)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top": 5}, "classifier"),
        ({"label": "good"}, "classifier"),
        ({"classifier": "x", "top": 0}, "top"),
        ({"min_words": 70}, "max_words"),
        ({"near_duplicate": 2.0}, "near_duplicate"),
        ({"chunk_tokens": 0}, "chunk_tokens"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, corpus: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        options(tmp_path, corpus, **changes)
