"""The order of batches as invariances, known answers against a slow reference, and the token cache."""

import sys
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from reasonir.core.errors import UserError
from reasonir.core.files import write_jsonl
from reasonir.core.prefetch import prefetch
from reasonir.core.stamp import digest_of
from reasonir.data.rows import Ambiguous
from reasonir.train.data.batches import GlobalBatch, MixedBatches
from reasonir.train.data.sources import describe_format
from reasonir.train.data.token_store import TokenStore, open_token_store


class WordTemplate:
    """One token a word; counts the texts it was asked for."""

    def __init__(self, fingerprint: str = "words") -> None:
        self.fingerprint = fingerprint
        self.asked: list[tuple[str, str]] = []

    def encode(self, pairs: list[tuple[str, str]], max_tokens: int) -> list[SimpleNamespace]:
        self.asked += pairs
        return [self.one(instruction, text, max_tokens) for instruction, text in pairs]

    @staticmethod
    def one(instruction: str, text: str, max_tokens: int) -> SimpleNamespace:
        prefix, words = instruction.split(), text.split()
        if len(prefix) >= max_tokens:
            raise UserError("the instruction leaves no room for the text")
        kept = (prefix + words)[:max_tokens]
        ids = np.array([zlib.crc32(word.encode()) % 10_000 for word in kept], dtype=np.int32)
        return SimpleNamespace(ids=ids, prefix_tokens=len(prefix), truncated=len(prefix + words) > max_tokens)


def plain_rows(name: str, count: int) -> list[dict]:
    return [{"query": f"{name} q{i}", "pos": [f"{name} p{i}"], "neg": [f"{name} n{i}"]} for i in range(count)]


def open_store(folder: Path, rows: list[dict], name: str = "rows", **changes: object) -> TokenStore:
    path = folder / f"{name}.jsonl"
    write_jsonl(path, rows)
    options: dict = {
        "documents": None,
        "template": WordTemplate(),
        "query_max_tokens": 8,
        "document_max_tokens": 8,
    }
    return open_token_store(str(path), **{**options, **changes}, cache_dir=folder / "cache")


def left_in(cache: Path) -> list[str]:
    """Return the names in the cache that are no lock."""
    return [path.name for path in (cache / "tokens").iterdir() if path.suffix != ".lock"]


def mix(stores: list[TokenStore], queries: int = 4, seed: int = 3, negatives: int = 1, weights=None) -> MixedBatches:
    return MixedBatches(stores, weights, queries, negatives, seed)


@pytest.fixture
def stores(tmp_path: Path) -> list[TokenStore]:
    return [open_store(tmp_path, plain_rows(name, count), name) for name, count in (("a", 23), ("b", 10), ("c", 3))]


def contents(plan: GlobalBatch) -> tuple:
    """Everything of a plan, comparable."""
    arrays = (
        plan.query_prefixes,
        plan.document_prefixes,
        plan.positive_index_B,
        plan.ignore_BN,
        plan.weights,
    )
    ids = (plan.query_ids, plan.document_ids)
    names = (plan.step, plan.source, *plan.row_names)
    return (*names, *(array.tobytes() for array in arrays), *(row.tobytes() for rows in ids for row in rows))


def test_the_order_is_the_same_for_any_prefetching_and_for_jumps(stores: list[TokenStore]) -> None:
    expected = [contents(mix(stores).batch(step)) for step in range(40)]
    assert len(set(expected)) == 40
    for depth in (1, 4):
        assert [contents(plan) for plan in prefetch(mix(stores).batch, range(40), depth)] == expected
    jumping = mix(stores)
    assert [contents(jumping.batch(step)) for step in reversed(range(40))] == expected[::-1]
    assert [contents(plan) for plan in prefetch(mix(stores).batch, range(33, 40))] == expected[33:]
    assert contents(mix(stores).batch(39)) == expected[39]


def test_another_seed_is_another_order(stores: list[TokenStore]) -> None:
    first, second = ([mix(stores, seed=seed).batch(step).row_names for step in range(9)] for seed in (0, 1))
    assert first != second


def test_a_far_jump_agrees_with_a_short_horizon(stores: list[TokenStore]) -> None:
    near, far = mix(stores), mix(stores)
    far.source_of(200_000)
    assert [near.source_of(step) for step in range(1_000)] == [far.source_of(step) for step in range(1_000)]


def test_every_epoch_holds_every_row_once_and_leftovers_open_the_next_batch(tmp_path: Path) -> None:
    store = open_store(tmp_path, plain_rows("a", 10))
    batches = mix([store])
    drawn = [batches.rows_of(step) for step in range(10)]
    rows = np.concatenate([rows for _, rows, _ in drawn]).reshape(4, 10)
    epochs = np.concatenate([epochs for *_, epochs in drawn]).reshape(4, 10)
    assert np.array_equal(epochs, np.arange(4)[:, None].repeat(10, axis=1))
    assert all(sorted(epoch) == list(range(10)) for epoch in rows.tolist())
    assert len({tuple(epoch) for epoch in rows.tolist()}) == 4
    assert set(batches.rows_of(2)[2].tolist()) == {0, 1}  # rows 8, 9 of the first epoch open the third batch


def test_each_batch_has_one_source_and_each_source_its_own_sequence(stores: list[TokenStore]) -> None:
    batches = mix(stores)
    given: Counter[int] = Counter()
    for step in range(60):
        source, batch = batches.source_of(step)
        assert batch == given[source]
        given[source] += 1
        plan = batches.batch(step)
        assert {name.rpartition(":")[0] for name in plan.row_names} == {plan.source} == {stores[source].path}
    assert len(given) == 3


@pytest.mark.parametrize("weights", [[1.0, 1.0], [9.0, 1.0], [0.3, 0.7]])
def test_two_sources_follow_their_weights_within_one_batch_at_any_prefix(
    weights: list[float], stores: list[TokenStore]
) -> None:
    deviation = share_deviation(stores[:2], weights)
    assert 0.1 < deviation.max() <= 1.0


def test_many_sources_follow_their_weights_within_the_bound(stores: list[TokenStore]) -> None:
    """Source s gave floor or ceil of p_s * t batches by time t, hence a deviation below 1 + p_s (S - 2)."""
    weights = [5.0, 3.0, 2.0, 1.0]
    deviation = share_deviation([*stores, stores[0]], weights)
    assert np.all(deviation.max(axis=0) <= 1 + np.array(weights) / sum(weights) * 2)


def share_deviation(stores: list[TokenStore], weights: list[float]) -> np.ndarray:
    batches = mix(stores, weights=weights)
    sources = np.array([batches.source_of(step)[0] for step in range(3_000)])
    given = np.cumsum(sources[:, None] == np.arange(len(stores)), axis=0)
    return np.abs(given - np.arange(1, 3_001)[:, None] * np.array(weights) / sum(weights))


def test_a_source_of_weight_zero_is_never_used(stores: list[TokenStore]) -> None:
    batches = mix(stores, weights=[1, 0, 2])
    assert {batches.source_of(step)[0] for step in range(300)} == {0, 2}


def test_default_shares_follow_rows_and_the_report_counts_leftovers(stores: list[TokenStore]) -> None:
    batches = mix(stores)
    assert batches.steps_per_epoch == 9.0
    for steps in (0, 1, 5, 9, 50):
        report = batches.epoch_report(steps)
        used = [set() for _ in stores]
        for step in range(steps):
            source, rows, _ = batches.rows_of(step)
            used[source].update(rows.tolist())
        assert sum(entry["batches"] for entry in report) == steps
        assert [entry["rows_never_drawn"] for entry in report] == [
            store.rows - len(seen) for store, seen in zip(stores, used, strict=True)
        ]


def test_a_source_smaller_than_a_batch_repeats_its_rows(tmp_path: Path) -> None:
    plan = mix([open_store(tmp_path, plain_rows("a", 3))], queries=8).batch(0)
    assert sorted(Counter(plan.row_names).values()) == [2, 3, 3]
    assert len(plan.document_ids) == 6
    check_plan(plan)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0, 1.0], [1.0, float("nan"), 1.0], [0.0] * 3, [float("inf")] * 3])
def test_unusable_weights_are_refused(weights: list[float], stores: list[TokenStore]) -> None:
    with pytest.raises(UserError, match="weights"):
        mix(stores, weights=weights)


def test_an_empty_batch_is_refused(stores: list[TokenStore]) -> None:
    with pytest.raises(UserError, match="global_batch_queries"):
        mix(stores, queries=0)


def check_plan(plan: GlobalBatch) -> None:
    """What holds for every plan."""
    queries, documents = len(plan.query_ids), len(plan.document_ids)
    assert plan.ignore_BN.shape == (queries, documents)
    assert plan.ignore_BN.dtype == np.bool_
    assert plan.positive_index_B.dtype == np.int64
    assert not plan.ignore_BN[np.arange(queries), plan.positive_index_B].any()
    assert len(plan.row_names) == len(plan.weights) == len(plan.query_prefixes) == queries
    assert len(plan.document_prefixes) == documents


def tangled_rows(draw: np.random.Generator, count: int = 60) -> list[dict]:
    """Rows whose queries, positives and negatives repeat a lot, under several instructions."""

    def texts(size: int) -> list[list[str]]:
        return [[draw.choice(["", "read", "see this"]), f"text{draw.integers(12)}"] for _ in range(size)]

    return [
        {
            "query": [draw.choice(["", "find"]), f"query{draw.integers(20)}"],
            "pos": texts(draw.integers(1, 4)),
            "neg": texts(draw.integers(0, 4)),
            "weight": float(draw.random()),
        }
        for _ in range(count)
    ]


def bare(ids: np.ndarray, prefix: int) -> tuple[int, ...]:
    return tuple(ids[prefix:].tolist())


def test_no_answer_counts_as_negative_and_all_else_does(tmp_path: Path) -> None:
    """Slow reference over the bare texts: a document answers a query if any row of the batch says so."""
    rows = tangled_rows(np.random.default_rng(0))
    batches = mix([open_store(tmp_path, rows)], queries=16, negatives=2)
    masked = counted = same_query = 0
    for step in range(12):
        plan = batches.batch(step)
        check_plan(plan)
        listed = [rows[int(name.rpartition(":")[2]) - 1] for name in plan.row_names]
        same_query += len(listed) - len({row["query"][1] for row in listed})
        documents = [bare(ids, p) for ids, p in zip(plan.document_ids, plan.document_prefixes, strict=True)]
        for i, row in enumerate(listed):
            answers = {
                bare(WordTemplate.one("", text, 8).ids, 0)
                for other in listed if other["query"][1] == row["query"][1]
                for _, text in other["pos"]
            }  # fmt: skip
            assert documents[plan.positive_index_B[i]] in answers
            expected = np.array([document in answers for document in documents])
            expected[plan.positive_index_B[i]] = False
            assert np.array_equal(plan.ignore_BN[i], expected)
            masked, counted = masked + int(expected.sum()), counted + int((~expected).sum())
        assert np.allclose(plan.weights, [row["weight"] for row in listed])
    assert masked > 100
    assert counted > 100
    assert same_query > 10


LISTED = ("find it", "", "what answers this ?")


def instructions_of(plan: GlobalBatch) -> list[tuple[int, ...]]:
    return [tuple(ids[:prefix].tolist()) for ids, prefix in zip(plan.query_ids, plan.query_prefixes, strict=True)]


def written(instruction: str) -> tuple[int, ...]:
    return tuple(WordTemplate.one(instruction, "", 8).ids.tolist())


def test_of_several_instructions_each_row_takes_one_after_the_other(tmp_path: Path) -> None:
    rows = [*plain_rows("a", 11), {"query": ["own words", "q"], "pos": ["p"], "neg": ["n"]}]
    store = open_store(tmp_path, rows, instructions=LISTED)
    assert store.rows == 12 and store.meta["query_instruction"] is None
    batches = mix([store], queries=12)
    epochs = [batches.batch(step) for step in range(6)]
    taken = [dict(zip(plan.row_names, instructions_of(plan), strict=True)) for plan in epochs]
    own = f"{store.path}:12"
    assert {names.pop(own) for names in taken} == {written("own words")}
    expected = sorted(map(written, LISTED))
    for name in taken[0]:
        in_turn = [names[name] for names in taken]
        assert sorted(in_turn[:3]) == sorted(in_turn[3:]) == expected and in_turn[:3] == in_turn[3:], name
    assert all(len(set(names.values())) == 3 for names in taken), "rows begin with different ones"
    # A pure function of seed, source, row and epoch: any order of asking, any process.
    again = mix([open_store(tmp_path, rows, instructions=LISTED)], queries=12)
    assert [contents(again.batch(step)) for step in reversed(range(6))] == [contents(plan) for plan in epochs][::-1]
    assert [instructions_of(mix([store], 12, seed=4).batch(0))] != [instructions_of(epochs[0])]


def test_a_list_of_one_instruction_is_the_instruction(tmp_path: Path) -> None:
    rows = plain_rows("a", 7)
    plain, listed = (open_store(tmp_path, rows, instructions=given) for given in (("find",), ["find"]))
    assert plain.key == listed.key and plain.arrays["row_query"].ndim == 1
    bare, several = open_store(tmp_path, rows), open_store(tmp_path, rows, instructions=("", "find"))
    assert bare.arrays["row_query"].ndim == 1 and several.arrays["row_query"].shape == (7, 2)
    documents = [mix([store]).batch(0).document_ids for store in (bare, several)]
    assert all(np.array_equal(a, b) for a, b in zip(*documents, strict=True)), "instructions change no document"


def test_an_instruction_of_a_list_that_is_too_long_is_named_by_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.jsonl:1: the instruction leaves no room"):
        open_store(tmp_path, plain_rows("a", 2), instructions=("find", "one two three four five six seven eight"))


def own_sizes(stores: list[TokenStore], weights: list[float] | None = None) -> MixedBatches:
    return MixedBatches(stores, weights, 4, 1, 3, batch_sizes=[(2, 1), (4, 0), (3, 1)])


def test_sources_have_batches_and_negatives_of_their_own(stores: list[TokenStore]) -> None:
    batches = own_sizes(stores)
    for step in range(30):
        plan = batches.batch(step)
        source, _ = batches.source_of(step)
        assert len(plan.query_ids) == [2, 4, 3][source]
        # A batch that reaches into the next epoch may hold a row twice.
        assert len(plan.document_ids) == len(set(plan.row_names)) * [2, 1, 2][source]
        check_plan(plan)
    # Without weights an epoch holds every row once: 23 / 2, 10 / 4 and 3 / 3 batches.
    assert batches.shares == pytest.approx(np.array([11.5, 2.5, 1.0]) / 15)
    assert batches.steps_per_epoch == pytest.approx(15)
    report = batches.epoch_report(150)
    assert all(entry["epochs"] == pytest.approx(10, abs=1) for entry in report)
    assert [entry["rows_drawn"] for entry in report] == [
        entry["batches"] * size for entry, size in zip(report, (2, 4, 3), strict=True)
    ]
    weighted = own_sizes(stores, [1.0, 1.0, 2.0])
    assert weighted.average_queries == pytest.approx(0.25 * 2 + 0.25 * 4 + 0.5 * 3)
    assert weighted.steps_per_epoch == pytest.approx(36 / 3)


def test_numbers_of_their_own_are_part_of_the_fingerprint_and_the_usual_ones_are_not(stores: list[TokenStore]) -> None:
    plain, own = mix(stores), own_sizes(stores)
    assert plain.fingerprint != own.fingerprint
    named = MixedBatches(stores, None, 4, 1, 3, batch_sizes=[(4, 1)] * 3)
    assert named.fingerprint == plain.fingerprint and named.shares.tolist() == plain.shares.tolist()
    assert plain.steps_per_epoch == plain.rows / 4
    # Written down from the release before sources had numbers of their own.
    parts = [*(store.key for store in stores), plain.shares.tolist(), 4, 1, 3]
    assert plain.fingerprint == digest_of([repr(parts)])


def test_a_document_shared_by_rows_stands_once(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "pos": ["the same"], "neg": [f"n{i % 2}"]} for i in range(4)]
    plan = mix([open_store(tmp_path, rows)]).batch(0)
    assert len(plan.document_ids) == 3
    assert len(set(plan.positive_index_B.tolist())) == 1
    assert not plan.ignore_BN.any()


def test_positives_and_negatives_take_turns_over_epochs(tmp_path: Path) -> None:
    row = {"query": "q", "pos": [f"p{i}" for i in range(3)], "neg": [f"n{i}" for i in range(5)]}
    batches = mix([open_store(tmp_path, [row])], queries=1, negatives=2)
    plans = [batches.batch(step) for step in range(15)]
    assert all(len(plan.document_ids) == 3 for plan in plans)
    positives = [plan.document_ids[plan.positive_index_B[0]].tolist()[0] for plan in plans]
    negatives = [
        {row.tolist()[0] for i, row in enumerate(plan.document_ids) if i != plan.positive_index_B[0]} for plan in plans
    ]
    assert all(len(set(positives[i : i + 3])) == 3 for i in range(13))
    assert all(len(set().union(*negatives[i : i + 3])) == 5 for i in range(13))


@pytest.mark.parametrize(("negatives", "documents"), [(0, 1), (1, 2), (9, 4)])
def test_rows_give_at_most_the_negatives_they_have(negatives: int, documents: int, tmp_path: Path) -> None:
    store = open_store(tmp_path, [{"query": "q", "pos": ["p"], "neg": ["a", "b", "c"]}])
    assert len(mix([store], queries=1, negatives=negatives).batch(0).document_ids) == documents


def test_a_store_holds_each_text_once_and_its_rows(tmp_path: Path) -> None:
    rows = [
        {"query": ["find", "x y"], "pos": ["x y", ["read", "x y"]], "neg": [], "weight": 0.25},
        {"query": ["find", "x y"], "pos": ["x y"], "neg": ["z"]},
    ]
    template = WordTemplate()
    store = open_store(tmp_path, rows, template=template)
    assert sorted(template.asked) == [("", "x y"), ("", "z"), ("find", "x y"), ("read", "x y")]
    assert store.rows == 2
    assert store.tokens == store.meta["tokens"] == 2 + 1 + 3 + 3
    question, (bare_text, paired) = store.arrays["row_query"][0], store.listed("positive", 0)
    assert store.arrays["prefix_tokens"][[question, bare_text, paired]].tolist() == [1, 0, 1]
    assert len(set(store.arrays["text_hashes"][[question, bare_text, paired]].tolist())) == 1
    assert store.text_ids(paired).tolist() == template.one("read", "x y", 8).ids.tolist()
    assert store.listed("positive", 1).tolist() == [bare_text]
    assert len(store.listed("negative", 0)) == 0
    assert store.arrays["weights"].tolist() == [0.25, 1.0]
    assert store.arrays["lines"].tolist() == [1, 2]


def test_the_cache_answers_the_second_time(tmp_path: Path) -> None:
    rows = plain_rows("a", 5)
    first = open_store(tmp_path, rows)
    template = WordTemplate()
    second = open_store(tmp_path, rows, template=template)
    assert template.asked == []
    assert second.key == first.key
    assert second.tokens_flat.tolist() == first.tokens_flat.tolist()
    moved = open_store(tmp_path, rows, name="moved", template=template)
    assert template.asked == []
    assert moved.key == first.key


CHANGES: dict[str, dict] = {
    "query limit": {"query_max_tokens": 7},
    "document limit": {"document_max_tokens": 7},
    "template": {"template": WordTemplate("other")},
    "documents": {"documents": {"p": "another text", "n": "b"}},
    "rows": {"rows": [{"query": "q2", "pos": ["p"], "neg": ["n"]}]},
    "instruction": {"instructions": ("find",)},
    "instructions": {"instructions": ("", "find")},
    "filter": {"min_positive_words": 1},
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_content_or_settings_are_tokenised_anew(change: str, tmp_path: Path) -> None:
    options: dict = {"rows": [{"query": "q", "pos": ["p"], "neg": ["n"]}], "documents": {"p": "a", "n": "b"}}
    first = open_store(tmp_path, **options)
    changed: dict = {"template": WordTemplate(), **options, **CHANGES[change]}
    changed["template"].asked.clear()
    assert open_store(tmp_path, **changed).key != first.key
    assert changed["template"].asked


def test_an_interrupted_build_leaves_nothing_that_counts(tmp_path: Path) -> None:
    class Dying(WordTemplate):
        def encode(self, pairs: list[tuple[str, str]], max_tokens: int) -> list[SimpleNamespace]:
            if len(self.asked) > 1_000:
                raise KeyboardInterrupt
            return super().encode(pairs, max_tokens)

    rows = plain_rows("a", 1_500)
    with pytest.raises(KeyboardInterrupt):
        open_store(tmp_path, rows, template=Dying())
    assert left_in(tmp_path / "cache") == []
    whole = open_store(tmp_path, rows)
    assert whole.rows == 1_500
    folder = tmp_path / "cache" / "tokens" / whole.key
    (folder / "meta.json").unlink()  # what a copy that was cut short may look like
    (folder / "tokens.bin").write_bytes(b"")
    template = WordTemplate()
    assert open_store(tmp_path, rows, template=template).tokens == whole.tokens
    assert len(template.asked) == 4_500


@pytest.mark.parametrize("name", ["tokens.bin", "positives.npy"])
def test_a_store_that_lost_bytes_is_built_again(name: str, tmp_path: Path) -> None:
    whole = open_store(tmp_path, plain_rows("a", 9))
    file = tmp_path / "cache" / "tokens" / whole.key / name
    content = file.read_bytes()
    file.write_bytes(content[:-4])
    template = WordTemplate()
    open_store(tmp_path, plain_rows("a", 9), template=template)
    assert template.asked
    assert file.read_bytes() == content


def test_a_store_counts_the_rows_it_leaves_out(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "pos": ["label" if i % 3 else "more words"]} for i in range(10)]
    store = open_store(tmp_path, rows, min_positive_words=2, instructions=("find it",))
    assert (store.rows, store.left_out) == (4, 6)
    assert store.arrays["lines"].tolist() == [1, 4, 7, 10]
    assert store.meta["query_instruction"] == "find it"
    assert store.arrays["prefix_tokens"][store.arrays["row_query"]].tolist() == [2] * 4
    again = open_store(tmp_path, rows, min_positive_words=2, instructions=("find it",))
    assert (again.key, again.left_out) == (store.key, 6)
    assert mix([store]).epoch_report(0)[0]["rows_left_out"] == 6
    assert open_store(tmp_path, rows).left_out == 0


def test_a_store_tells_the_format_of_its_rows_and_counts_the_pairs_that_are_no_positives(tmp_path: Path) -> None:
    pairs = [{"sentence1": f"q{i}", "sentence2": f"p{i}", "label": i % 2} for i in range(5)]
    for store in (open_store(tmp_path, pairs), open_store(tmp_path, pairs)):
        assert (store.rows, store.left_out, store.unusable) == (2, 0, 3)
        said = "; read as rows of sentence-transformers pairs, 3 pairs with a label under 0.5 left out"
        assert describe_format(store) == said
        assert mix([store]).epoch_report(0)[0]["rows_unusable"] == 3
    assert describe_format(open_store(tmp_path, plain_rows("a", 3))) == ""
    with pytest.raises(UserError, match=r"rows\.jsonl: none of the 3 pairs has a label of 0\.5 or more"):
        open_store(tmp_path, [pair for pair in pairs if not pair["label"]])


def test_a_filter_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.jsonl: min_positive_words leaves out all 5 rows"):
        open_store(tmp_path, plain_rows("a", 5), min_positive_words=9)
    assert left_in(tmp_path / "cache") == []


def test_ambiguous_ids_that_no_row_uses_do_not_matter(tmp_path: Path) -> None:
    rows = [{"query": "q", "pos": ["d"]}]
    keys = {
        open_store(tmp_path, rows, documents={"d": "text", "x": Ambiguous(places)}).key
        for places in (("a", "b"), ("c", "d"))
    }
    assert len(keys) == 1
    with pytest.raises(UserError, match=r"rows\.jsonl:1: .*ambiguous"):
        open_store(tmp_path, rows, documents={"d": Ambiguous(("a", "b"))})


def test_a_hub_source_is_known_by_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = plain_rows("a", 3)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *_, **__: rows))

    def key() -> str:
        return open_token_store("hub:some/rows", None, WordTemplate(), 8, 8, tmp_path).key

    first = key()
    assert key() == first
    rows[1]["pos"] = ["a new revision"]
    assert key() != first


def test_a_bad_row_late_in_the_file_leaves_no_store(tmp_path: Path) -> None:
    rows = [*plain_rows("a", 1_200), {"query": "q", "pos": [""]}]
    with pytest.raises(UserError, match=r"rows\.jsonl:1201"):
        open_store(tmp_path, rows)
    assert left_in(tmp_path / "cache") == []


def test_truncation_is_counted_per_side(tmp_path: Path) -> None:
    rows = [{"query": "one two three", "pos": ["one two three four"], "neg": ["one"]}] * 3
    store = open_store(tmp_path, [*rows, {"query": "one", "pos": ["one two three four five"]}], query_max_tokens=2)
    assert (store.truncated_queries, store.truncated_documents) == (1, 0)
    store = open_store(tmp_path, [*rows, {"query": "one", "pos": ["1 2 3 4 5"]}], document_max_tokens=3)
    assert (store.truncated_queries, store.truncated_documents) == (0, 2)


def test_an_instruction_without_room_names_the_file(tmp_path: Path) -> None:
    rows = [
        *plain_rows("a", 5),
        {"query": ["a long instruction here", "q"], "pos": ["p"]},
        *plain_rows("b", 5),
    ]
    with pytest.raises(UserError, match=r"rows\.jsonl:6: .*no room"):
        open_store(tmp_path, rows, query_max_tokens=3)


def test_rows_without_any_negative_work(tmp_path: Path) -> None:
    store = open_store(tmp_path, [{"query": f"q{i}", "pos": [f"p{i}"]} for i in range(4)])
    plan = mix([store]).batch(0)
    check_plan(plan)
    assert len(plan.document_ids) == 4


def test_ids_are_looked_up_before_tokenising(tmp_path: Path) -> None:
    store = open_store(tmp_path, [{"query": "q", "pos": ["d1"], "neg": ["d2"]}], documents={"d1": "a b c", "d2": "e"})
    assert len(store.text_ids(store.listed("positive", 0)[0])) == 3


def test_the_sequence_has_a_name_by_content(stores: list[TokenStore]) -> None:
    names = {mix(stores, **change).fingerprint for change in ({}, {"seed": 4}, {"queries": 5}, {"weights": [1, 1, 1]})}
    assert len(names) == 4
    assert mix(stores).fingerprint in names


def test_a_batch_without_weight_is_refused_before_the_run_by_step_and_source(tmp_path: Path) -> None:
    weightless = [{**row, "weight": 0.0} for row in plain_rows("a", 7)]
    some = [*weightless, *plain_rows("b", 5)]
    batches = MixedBatches([open_store(tmp_path, some)], None, 3, 1, 0)
    weights = [batches.batch(step).weights for step in range(40)]
    first = next(step for step, found in enumerate(weights) if not found.any())
    batches.require_weight(range(first))
    with pytest.raises(UserError, match=rf"rows\.jsonl: all 3 rows of step {first + 1} have weight 0"):
        batches.require_weight(range(40))
    with pytest.raises(UserError, match="step 1 have weight 0"):
        MixedBatches([open_store(tmp_path, weightless, "none")], None, 3, 1, 0).require_weight(range(9))
    MixedBatches([open_store(tmp_path, plain_rows("c", 9), "all")], None, 3, 1, 0).require_weight(range(40))
