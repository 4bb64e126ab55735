"""Dev sets of every form of data: who answers whom, limits, instructions."""

import pytest

from reasonir.core.errors import UserError
from reasonir.model import Encoder
from reasonir.train.dev.sets import DevSet
from tests.kit.dev_runs import opened
from tests.kit.texts import SENTENCES, write_rows


def words(tiny: Encoder, dev: DevSet, place: int) -> str:
    """Return the words of a query, with what stands before them."""
    return str(tiny.tokenizer.decode(dev.queries[place].ids))


def test_a_beir_folder_takes_its_dev_split_and_the_instruction_of_training(tiny, tmp_path, beir_folder):
    (dev,) = opened(tiny, tmp_path, dir=str(beir_folder))
    assert dev.gold == [{0: 2, 1: 1}, {2: 1}]
    assert dev.document_ids == [f"d{i}" for i in range(9)]
    assert dev.available == (2, 9)
    assert "find it" in words(tiny, dev, 0) and "water in a dish" in words(tiny, dev, 0)
    assert "find it" not in words(tiny, opened(tiny, tmp_path, dir=str(beir_folder), instruction="none")[0], 0)


def test_a_relevant_document_that_the_corpus_lacks_is_left_out(tiny, tmp_path, beir_folder):
    with (beir_folder / "qrels" / "dev.tsv").open("a", encoding="utf-8") as stream:
        query = (beir_folder / "qrels" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1].split("\t")[0]
        stream.write(f"{query}\tghost\t1\n")
    (dev,) = opened(tiny, tmp_path, dir=str(beir_folder))
    assert dev.gold == [{0: 2, 1: 1}, {2: 1}]


def test_a_bright_folder_is_a_set_a_task_with_exclusions_and_its_own_instructions(tiny, tmp_path, bright_folder):
    sets = {dev.name: dev for dev in opened(tiny, tmp_path, dir=str(bright_folder))}
    assert set(sets) == {"physics", "kitchen"}
    physics = sets["physics"]
    assert physics.gold == [{1: 1}, {5: 1, 4: 1}, {3: 1}]
    assert [rows.tolist() for rows in physics.excluded] == [[0], [], [2, 9]]
    assert "Find the principle" in words(tiny, physics, 0)
    assert "Given a kitchen post" in words(tiny, sets["kitchen"], 0)


@pytest.mark.parametrize("seed", range(4))
def test_limits_hold_and_keep_every_relevant_document(tiny, tmp_path, bright_folder, seed):
    """Each of two tasks has half of the limits."""
    for dev in opened(tiny, tmp_path, dir=str(bright_folder), max_queries=4, max_documents=10, seed=seed):
        assert len(dev.queries) == 2 and len(dev.documents) == 5
        assert all(0 <= place < 5 for gold in dev.gold for place in gold)
        assert all(gold for gold in dev.gold)
        assert "2 of 3 queries, 5 of 10 documents" in dev.describe()
    for dev in opened(tiny, tmp_path, dir=str(bright_folder), max_documents=2, seed=seed):
        assert len(dev.documents) == len(set().union(*dev.gold)) >= 3, "relevant documents stay, whatever the limit"


def test_training_rows_answer_by_text_and_rank_all_documents_of_the_file(tiny, tmp_path):
    rows = [
        {"query": ["find", "one"], "pos": [SENTENCES[0]], "neg": [SENTENCES[3]]},
        {"query": ["look for", "one"], "pos": [["as written", SENTENCES[1]]], "neg": [SENTENCES[4]]},
        {"query": "two", "pos": [SENTENCES[1]], "neg": [SENTENCES[0]]},
    ]
    file = write_rows(tmp_path / "dev.jsonl", rows)
    (dev,) = opened(tiny, tmp_path, dir=str(file))
    assert dev.name == "dev.jsonl" and len(dev.queries) == 3 and len(dev.documents) == 5
    golds = [{str(tiny.tokenizer.decode(dev.documents[p].ids)).split("\n")[-1] for p in gold} for gold in dev.gold]
    both = {SENTENCES[0], SENTENCES[1]}
    assert golds == [both, both, {SENTENCES[1]}], "one question under two instructions has the answers of both"
    assert [len(gold) for gold in dev.gold] == [3, 3, 2], "the text that stands there twice answers twice"


def test_ids_of_rows_are_looked_up(tiny, tmp_path):
    corpus = write_rows(tmp_path / "corpus.jsonl", [{"id": f"d{i}", "content": SENTENCES[i]} for i in range(4)])
    file = write_rows(tmp_path / "dev.jsonl", [{"query": "q", "pos": ["d1"], "neg": ["d0"]}])
    (dev,) = opened(tiny, tmp_path, dir=str(file), documents=(str(corpus),))
    (gold,) = dev.gold
    assert SENTENCES[1] in tiny.tokenizer.decode(dev.documents[next(iter(gold))].ids)


def test_a_place_without_questions_is_refused_by_name(tiny, tmp_path):
    (tmp_path / "texts").mkdir()
    write_rows(tmp_path / "texts" / "documents.jsonl", [{"id": "a", "content": "x"}])
    with pytest.raises(UserError, match=r"dev\.dir=.*texts is no BRIGHT or BEIR folder"):
        opened(tiny, tmp_path, dir=str(tmp_path / "texts"))
    assert opened(tiny, tmp_path) == []
