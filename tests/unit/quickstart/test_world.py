"""The built-in world: the same bytes each time, two halves that share nothing, no way through by words."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import bm25s
import numpy as np
import pytest
import Stemmer

from reasonir.quickstart.world import (
    INSTRUCTIONS,
    LONG_WORDS,
    NEGATIVES_PER_ROW,
    NEUTRAL_PARTS,
    TASKS,
    generate_world,
    main,
    split_combinations,
)

# Function words of English: what a query and its document may share without either being about it.
FUNCTION_WORDS = """
a about across against all an and any are as at be been between by can do does each for from go had
has have he her him his how i in into is it its may me more my no nor not of off on one only or our
out over own s she so some that the their them then there they this to two under until up us was we
were what when where which who with without you your towards toward
"""
STOP_WORDS = frozenset(FUNCTION_WORDS.split())
REPOSITORY = Path(__file__).parents[3]
STEM = Stemmer.Stemmer("english")


def content_stems(text: str) -> set[str]:
    words = (word for word in re.findall(r"[a-z]+", text.lower()) if word not in STOP_WORDS)
    return set(STEM.stemWords(list(words)))


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    generate_world(folder)
    return folder


@pytest.fixture(params=list(TASKS))
def name(request) -> str:
    return request.param


def corpus(root: Path, name: str) -> dict[str, str]:
    rows = read_rows(root / name / "documents.jsonl")
    documents = {row["id"]: row["content"] for row in rows}
    assert len(documents) == len(rows)
    return documents


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@functools.cache
def combination_of(name: str, text: str) -> tuple[str, ...]:
    """The values that a document states, read off its text: exactly one of each attribute."""
    combination = []
    for attribute in TASKS[name].attributes.values():
        stated = [
            key
            for key, value in attribute.items()
            if any(clause.split(" ~ ")[-1].lower() in text.lower() for clause in value.document_clauses)
        ]
        assert len(stated) == 1, (stated, text)
        combination += stated
    return tuple(combination)


def test_same_seed_gives_the_same_bytes_in_another_process(tmp_path):
    generate_world(tmp_path / "here", seed=3, scale=0.2)
    command = [sys.executable, "-m", "reasonir.quickstart", f"output_dir={tmp_path / 'there'}"]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([*command, "seed=3", "scale=0.2"], check=True, capture_output=True, env=environment, cwd=REPOSITORY)
    assert len(contents(tmp_path / "here")) == 12
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_another_seed_gives_other_texts(tmp_path):
    for seed in (0, 1):
        generate_world(tmp_path / str(seed), seed=seed, scale=0.1)
    first, second = contents(tmp_path / "0"), contents(tmp_path / "1")
    assert first.keys() == second.keys()
    assert all(first[file] != second[file] for file in first if file.endswith(".jsonl"))


def test_counts_are_those_of_the_files_and_grow_with_the_scale(tmp_path, root):
    small = generate_world(tmp_path, scale=0.1)
    for file, rows in small.items():
        assert rows == len(read_rows(tmp_path / f"{file}.jsonl"))
        assert rows < len(read_rows(root / f"{file}.jsonl"))
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_training_and_evaluation_share_no_text_and_no_combination(root, name):
    rows = read_rows(root / "train" / f"{name}.jsonl")
    trained = {row["query"][1] for row in rows}
    trained |= {text for row in rows for _, text in row["pos"] + row["neg"]}
    evaluated = {row["query"] for row in read_rows(root / name / "examples.jsonl")}
    evaluated |= set(corpus(root, name).values())
    assert len(trained) > 1000 and len(evaluated) > 400
    assert not trained & evaluated
    training, held_out = map(set, split_combinations(TASKS[name], seed=0))
    assert training and held_out and not training & held_out
    assert {combination_of(name, text) for row in rows for _, text in row["pos"] + row["neg"]} <= training
    assert {combination_of(name, text) for text in corpus(root, name).values()} <= held_out


def test_evaluation_needs_only_words_that_training_has_shown(root, name):
    rows = read_rows(root / "train" / f"{name}.jsonl")
    shown = " ".join(text for row in rows for _, text in [row["query"], *row["pos"]])
    known = set(re.findall(r"[a-z]+", shown.lower()))
    queries = [row["query"] for row in read_rows(root / name / "examples.jsonl")]
    used = set(re.findall(r"[a-z]+", " ".join([*queries, *corpus(root, name).values()]).lower()))
    assert used - known == set()


def test_golds_and_exclusions_exist_and_are_apart(root, name):
    documents, examples = corpus(root, name), read_rows(root / name / "examples.jsonl")
    excluded = [row for row in examples if row["excluded_ids"]]
    assert len(examples) >= 60 and 10 <= len(excluded) < len(examples) / 2
    assert any(len(row["gold_ids"]) > 1 for row in examples)
    for row in examples:
        assert row["gold_ids"] and set(row["gold_ids"]) <= documents.keys()
        assert set(row["excluded_ids"]) <= documents.keys() - set(row["gold_ids"])
        meant = combination_of(name, documents[row["gold_ids"][0]])
        alike = {key for key, text in documents.items() if combination_of(name, text) == meant}
        assert alike == set(row["gold_ids"]) | set(row["excluded_ids"])
    assert len({row["id"] for row in examples}) == len({row["query"] for row in examples}) == len(examples)


def test_texts_tell_their_combination_apart(name):
    for attribute in TASKS[name].attributes.values():
        for side in ("query_clauses", "document_clauses"):
            clauses = [clause for value in attribute.values() for clause in getattr(value, side)]
            assert len(clauses) > 2 * len(attribute) and len(set(clauses)) == len(clauses)


def test_no_content_word_stands_on_both_sides(root, name):
    task = TASKS[name]
    values = [value for attribute in task.attributes.values() for value in attribute.values()]
    query = [clause for value in values for clause in value.query_clauses]
    query += [*task.frames["openings"], *task.frames["questions"], *sum(NEUTRAL_PARTS.values(), ())]
    document = list(corpus(root, name).values())
    assert len(content_stems(" ".join(query))) > 300 and len(content_stems(" ".join(document))) > 150
    assert content_stems(" ".join(query)) & content_stems(" ".join(document)) == set()


def test_a_query_and_its_gold_share_hardly_any_content_word(root, name):
    documents = corpus(root, name)
    for row in read_rows(root / name / "examples.jsonl"):
        gold = content_stems(documents[row["gold_ids"][0]])
        assert len(content_stems(row["query"]) & gold) <= 0.05 * len(gold)


def test_queries_are_short_and_long(root, name):
    queries = [row["query"] for row in read_rows(root / name / "examples.jsonl")]
    training = [row["query"][1] for row in read_rows(root / "train" / f"{name}.jsonl")]
    for texts, least in ((queries, 0.2), (training, 0.08)):
        lengths = [len(text.split()) for text in texts]
        long = [length for length in lengths if length >= LONG_WORDS[0]]
        assert len(long) >= least * len(texts) and max(long) < 500
        assert all(length < 80 for length in lengths if length < LONG_WORDS[0])


def test_hard_negatives_are_documents_of_neighbours(root, name):
    rows = read_rows(root / "train" / f"{name}.jsonl")
    positives = {row["pos"][0][1] for row in rows}
    for row in rows:
        assert row["query"][0] == INSTRUCTIONS[name] and len(row["pos"]) == 1
        negatives = {text for _, text in row["neg"]}
        assert len(negatives) == NEGATIVES_PER_ROW and row["pos"][0][1] not in negatives
        assert negatives <= positives
        meant = combination_of(name, row["pos"][0][1])
        for text in negatives:
            other = combination_of(name, text)
            assert sum(one != two for one, two in zip(meant, other, strict=True)) == 1


def test_words_alone_do_not_find_the_gold(root, name):
    documents, examples = corpus(root, name), read_rows(root / name / "examples.jsonl")
    ids = list(documents)
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(documents.values()), stemmer=STEM, show_progress=False), show_progress=False)
    gains = []
    for row in examples:
        tokens = bm25s.tokenize(row["query"], stemmer=STEM, return_ids=False, show_progress=False)[0]
        scores = index.get_scores(tokens) if tokens else np.zeros(len(ids))
        ranked = [ids[place] for place in np.argsort(-scores, kind="stable")]
        ranked = [document for document in ranked if document not in row["excluded_ids"]]
        gains.append(ndcg_at_10(ranked, set(row["gold_ids"])))
    assert np.mean(gains) < 0.1


def ndcg_at_10(ranked: list[str], gold: set[str]) -> float:
    gain = sum(1 / np.log2(rank + 2) for rank, document in enumerate(ranked[:10]) if document in gold)
    return gain / sum(1 / np.log2(rank + 2) for rank in range(min(10, len(gold))))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "output_dir"),
        (["output_dir=X", "sead=1"], "sead=1"),
        (["output_dir=X", "seed=one"], "seed=one"),
        (["output_dir=X", "scale=big"], "scale=big"),
        (["output_dir=X", "scale=0"], "scale=0"),
        (["output_dir=X", "scale=nan"], "scale=nan"),
        (["output_dir="], "output_dir="),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, named, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert named in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())
