"""The parts of reranking: what answers say, windows, cutting, interpolation, arithmetic by hand, streaming."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reasonir.core.errors import UserError
from reasonir.eval.rerank.answers import expected_score, read_grades, read_permutation, read_score
from reasonir.eval.rerank.candidates import Candidates
from reasonir.eval.rerank.config import Method
from reasonir.eval.rerank.cost import ModelSize, count_flops, read_size
from reasonir.eval.rerank.methods import VARIABLES, windows
from reasonir.eval.rerank.rerank import above_the_rest, choose_prompt, default_weights, interpolate
from reasonir.llm import Message
from reasonir.llm.context import Context, chat_tokens, largest_share, longest_input
from reasonir.llm.prompts import OWN_FILES, load_prompt
from reasonir.model.tiny import build_tokenizer
from tests.kit.texts import SENTENCES

READ = [
    ("Relevance score: 3", 3), ("relevance score: 0", 0), ("Relevance Score: 5.", 5), ("Relevance score:4", 4),
    ("**Relevance score:** 4", 4), ("**Relevance score: 2**", 2), ("Relevance score: **1**/5", 1),
    ("Relevance score: 4/5", 4), ("Relevance score: 4 out of 5", 4), ("Relevance score is 3", 3),
    ("The relevance score of this text is hard to tell.\nRelevance score: 2", 2), ("Relevance score - 4", 4),
    ("Relevance score – 4", 4), ("Relevance score = 4", 4), ('{"relevance_score": 4}', 4),
    ("Relevance score (0-5): 4", 4), ("Relevance score: [3]", 3), ("Relevance score: <3>", 3),
    ("Relevance score: `3`", 3), ("Relevance score:\n\n3", 3), ("Relevance score: 2\nWait. Relevance score: 4", 4),
    ("Relevance score: N means a digit. Relevance score: 1", 1), ("# Relevance score: 5 ✓", 5),
    ("Relevance score: 3 because both use induction on 2 variables", 3), ("Relevance score: 4.5", 4.5),
    ("Relevance score: 3. The relevance score reflects the lemma.", 3), ("Relevance score： 3", 3),
    ("<think>Relevance score: 5?</think>Relevance score: 2", 2), ("Relevance score: $3$", 3),
]  # fmt: skip
UNREAD = ["Relevance score: four", "Relevance score: 6", "Relevance score: 10", "Relevance score: -1",
          "Relevance score: 3-4", "Relevance score: 2 to 3", "Relevance score:", "Relevance score: N/A",
          "Relevance score: 3rd", "The relevance score would be high."]  # fmt: skip
NO_PHRASE = ["3", "", "Score: 4", "The text is relevant.", "I cannot help with that.", "Relevance: 4",
             "<think>Relevance score: 5</think> Five."]  # fmt: skip


@pytest.mark.parametrize(("text", "score"), READ)
def test_a_score_is_read_from(text: str, score: float) -> None:
    counts: Counter[str] = Counter()
    assert read_score(text, counts) == score / 5 and not counts


@pytest.mark.parametrize("text", UNREAD)
def test_a_phrase_without_its_integer_is_minus_one_and_counted(text: str) -> None:
    counts: Counter[str] = Counter()
    assert read_score(text, counts) == -1.0 and counts == {"unparsable": 1}


@pytest.mark.parametrize("text", NO_PHRASE)
def test_an_answer_without_the_phrase_is_zero_and_counted(text: str) -> None:
    counts: Counter[str] = Counter()
    assert read_score(text, counts) == 0.0 and counts == {"phrase_missing": 1}


PERMUTATIONS = [
    ("[3, 1, 2]", [3, 1, 2], {}), ("[3] > [1] > [2]", [3, 1, 2], {}), ("3 > 1 > 2", [3, 1, 2], {}),
    ('["3", "1", "2"]', [3, 1, 2], {}), ("```json\n[3,\n 1,\n 2]\n```", [3, 1, 2], {}),
    ('{"ranking": [3, 1, 2]}', [3, 1, 2], {}), ("[[3], [1], [2]]", [3, 1, 2], {}), ("[3], [1], [2]", [3, 1, 2], {}),
    ("First [3], then [1] and last [2].", [3, 1, 2], {}), ("Such as [1, 2, 3]. My answer: [2, 3, 1]", [2, 3, 1], {}),
    ("[3] >> [1] >> [2]", [3, 1, 2], {}), ("<think>[1] > [2] > [3]</think>[2] > [1] > [3]", [2, 1, 3], {}),
    ("[2]", [2, 1, 3], {"missing_documents": 2}), ("[3, 3, 1]", [3, 1, 2], {"repeated_documents": 1,
                                                                           "missing_documents": 1}),
    ("[4, 2, 0]", [2, 1, 3], {"unknown_documents": 2, "missing_documents": 2}),
    ("[2, 3, 1", [1, 2, 3], {"unparsable": 1}), ("They are all good.", [1, 2, 3], {"unparsable": 1}),
    ("", [1, 2, 3], {"unparsable": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "order", "counted"), PERMUTATIONS)
def test_an_order_is_read_from(text: str, order: list[int], counted: dict[str, int]) -> None:
    counts: Counter[str] = Counter()
    assert [i + 1 for i in read_permutation(text, 3, counts)] == order
    assert {name: count for name, count in counts.items() if count} == counted


GRADES = [
    ('{"1": 7, "2": 0, "3": 10}', {1: 7, 2: 0, 3: 10}, {}), ("{1: 7, 2: 0, 3: 10}", {1: 7, 2: 0, 3: 10}, {}),
    ("[1]: 7\n[2]: 0/10\n[3]: 10", {1: 7, 2: 0, 3: 10}, {}), ("[7, 0, 10]", {1: 7, 2: 0, 3: 10}, {}),
    ('[{"id": 2, "score": 3}, {"id": 1, "score": 9}]', {1: 9, 2: 3}, {"missing_documents": 1}),
    ('{"1": 7, "2": 11, "5": 3}', {1: 7}, {"grades_out_of_range": 1, "unknown_documents": 1, "missing_documents": 2}),
    ("Document 1 = 7.5", {1: 7.5}, {"missing_documents": 2}), ("<think>1: 9</think>{\"1\": 2}", {1: 2},
                                                               {"missing_documents": 2}),
    ("All of them help.", {}, {"unparsable": 1}), ("[7, 0]", {}, {"unparsable": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "grades", "counted"), GRADES)
def test_grades_are_read_from(text: str, grades: dict[int, float], counted: dict[str, int]) -> None:
    counts: Counter[str] = Counter()
    assert read_grades(text, 3, counts) == {number - 1: grade / 10 for number, grade in grades.items()}
    assert {name: count for name, count in counts.items() if count} == counted


def test_expected_score_is_the_softmax_over_the_digits() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.7, 0.0, -2.0, 1.5, 4.0], dtype=torch.float64)
    logprobs = torch.log_softmax(logits, 0).tolist()
    tokens = ["0", "1", "2", "3", "4", "5", "x", "6"]
    score, missing, absent = expected_score(list(zip(tokens, logprobs, strict=True)))
    assert absent == 0
    shares = torch.softmax(logits[:6], 0)
    assert score == pytest.approx(float((shares * torch.arange(6)).sum()) / 5, abs=1e-12)
    assert missing == pytest.approx(float(torch.softmax(logits, 0)[6:].sum()), abs=1e-12)
    assert expected_score([(" 4", -0.1), ("4\n", -3.0)])[0] == pytest.approx(0.8)
    assert expected_score([("yes", 0.0)]) == (None, 1.0, 6) and expected_score([]) == (None, 1.0, 6)
    assert expected_score([("2", -1.0), (" 2", -2.0), ("5", -3.0)]).absent == 4


def test_windows_go_from_the_bottom_up_and_miss_nothing() -> None:
    assert list(windows(25, 20, 10)) == [(5, 25), (0, 15)]
    assert list(windows(100, 20, 10))[:2] == [(80, 100), (70, 90)] and len(list(windows(100, 20, 10))) == 9
    assert list(windows(6, 5, 5)) == [(1, 6)]  # one document alone has no order
    assert list(windows(3, 20, 10)) == [(0, 3)] and list(windows(1, 20, 10)) == list(windows(0, 20, 10)) == []
    for length in range(2, 40):
        for size, step in ((2, 1), (5, 3), (5, 5), (20, 10)):
            found = list(windows(length, size, step))
            assert {place for start, end in found for place in range(start, end)} | {0} == set(range(length))


def render(query: str, documents: list[str]) -> tuple[Message, ...]:
    return (Message("user", f"Query: {query}\n" + "".join(f"Document: {text}\n" for text in documents)),)


@pytest.mark.parametrize("template", [None, "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"])
@pytest.mark.parametrize("counted_by", ["tokenizer", "estimate"])
def test_documents_are_cut_to_fit_and_nothing_else_is(template: str | None, counted_by: str) -> None:
    tokenizer = build_tokenizer(SENTENCES, 400)
    tokenizer.chat_template = template
    texts = ["Short.", "Metal and glass. " * 200, "Ein Schlüssel — über 東京. " * 300]
    room = 300
    context = Context(room, tokenizer if counted_by == "tokenizer" else None)
    counts: Counter[str] = Counter()
    messages = context.fit(render, "Why is this?", texts, counts)
    text = messages[0].content
    assert counts == {"documents_cut": 2} and "Query: Why is this?\nDocument: Short.\nDocument: Metal" in text
    if counted_by == "tokenizer":
        assert room - 8 <= len(chat_tokens(tokenizer, messages)) <= room
    else:
        assert room - 24 <= len(text.encode()) / 3 <= room
    cut = [part.split("\nDocument: ")[0].removesuffix("\n") for part in text.split("Document: ")[1:]]
    assert all(whole.startswith(short) for whole, short in zip(texts, cut, strict=True))
    assert abs(context.length(cut[1]) - context.length(cut[2])) <= 4
    assert context.fit(render, "Why is this?", texts[:1], counts) == render("Why is this?", texts[:1])
    assert counts == {"documents_cut": 2}


def test_a_long_query_is_cut_to_half_and_a_prompt_without_room_is_refused() -> None:
    counts: Counter[str] = Counter()
    (message,) = Context(200).fit(render, "long query " * 500, ["text " * 500], counts)
    assert counts == {"queries_cut": 1, "documents_cut": 1} and len(message.content.encode()) / 3 <= 200
    assert message.content.count("long query") > 15 and message.content.count("text") > 30
    with pytest.raises(UserError, match="context_tokens leaves 10 tokens"):
        Context(10).fit(render, "query", ["text"], counts)


@pytest.mark.parametrize(("lengths", "room", "share"), [
    ([10, 10], 20, 10), ([10, 2], 8, 6), ([1, 2, 100], 50, 47), ([5, 5, 5], 9, 3), ([7], 3, 3), ([4, 4], 100, 4),
])  # fmt: skip
def test_largest_share(lengths: list[int], room: int, share: int) -> None:
    assert largest_share(lengths, room) == share
    assert sum(min(n, share) for n in lengths) <= room
    assert sum(min(n, share + 1) for n in lengths) > room or share == max(lengths)


def candidates(run: dict[str, dict[str, float]]) -> Candidates:
    return Candidates(task="t", nested=True, run=run, top=2, queries={}, documents={}, qrels={}, aspects={}, counts={})


def test_interpolation_by_hand_and_nothing_below_is_lost() -> None:
    retrieved = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.7, "e": -0.2}
    mixed = interpolate({"a": 0.2, "b": 1.0}, retrieved, [0.5, 0.5])
    assert mixed == {"a": pytest.approx(0.55), "b": pytest.approx(0.9)}
    whole = above_the_rest(mixed, retrieved)
    assert sorted(whole, key=lambda name: -whole[name]) == ["b", "a", "c", "d", "e"]
    assert interpolate({"a": 0.6}, {"a": 12.5}, [100, 1]) == {"a": 72.5}
    assert default_weights(None, [candidates({"q": retrieved})]) == [0.5, 0.5]
    assert default_weights(None, [candidates({"q": retrieved}), candidates({"q": {"a": 3.0}})]) == [100, 1]
    assert default_weights("bm25", [candidates({"q": retrieved})]) == [100, 1]
    assert default_weights("dense", [candidates({"q": retrieved})]) == [0.5, 0.5]


@pytest.mark.parametrize("floor", [0.0, -1.0, 0.55, 137.2, 1e6])
def test_the_rest_keeps_its_order_in_the_float32_of_trec_eval(floor: float) -> None:
    ranking = {str(number): 1.0 - number * 1e-9 for number in range(1000)}
    whole = above_the_rest({"0": floor}, ranking)
    scores = torch.tensor([whole[name] for name in ranking], dtype=torch.float32)
    assert len(scores) == 1000 and bool((scores.diff() < 0).all())


def test_flops_by_hand(tmp_path: Path) -> None:
    """Two layers, width 8; one answer of 3 tokens and one of 2: 5 tokens, 6 + 3 pairs."""
    size = ModelSize(parameters=1000.0, layers=2, width=8)
    assert count_flops(size, tokens=5, pairs=9) == 2 * 1000 * 5 + 4 * 2 * 8 * 9 == 10_576
    assert count_flops(ModelSize(parameters=1000.0), 5, 9) == 10_000 and count_flops(ModelSize(), 5, 9) is None
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "vocab_size": 30}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 77}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
    model.config.save_pretrained(tmp_path)
    layer = 8 * 8 * 2 + 8 * 4 * 2 + 3 * 8 * 12 + 2 * 8
    assert read_size(str(tmp_path)) == ModelSize(2 * 30 * 8 + 2 * layer + 8, 2, 8)
    assert longest_input(str(tmp_path)) == 77
    assert read_size(str(tmp_path / "nothing")) == ModelSize()


def test_a_task_has_its_own_wording(tmp_path: Path) -> None:
    special = ("aops", "pony", "leetcode", "theoremqa_questions", "theoremqa_theorems")
    expected = {("pointwise", task): f"rerank_pointwise_{task}" for task in special}
    expected |= {("pointwise", "biology"): "rerank_pointwise", ("listwise", "pony"): "rerank_listwise"}
    for (method, task), name in expected.items():
        assert choose_prompt(Method(method), None, task).name == name
    own = (OWN_FILES / "rerank_pointwise.yaml").read_text().replace("Someone wrote", "A biologist wrote")
    (tmp_path / "rerank_pointwise_biology.yaml").write_text(own)
    edited = choose_prompt(Method.pointwise, str(tmp_path), "biology")
    assert edited.name == "rerank_pointwise_biology"
    values = {"query": "q", "document": "d", "scoring": "raw", "phrase": "Relevance score:"}
    for scoring, ending in (("raw", "Relevance score: N"), ("expected", "nothing else.")):
        (message,) = edited.messages({**values, "scoring": scoring})
        assert "A biologist wrote" in message.content and message.content.endswith(ending)


@pytest.mark.parametrize("name", sorted(path.stem for path in OWN_FILES.glob("rerank_*.yaml")))
def test_own_prompts_show_every_variable(name: str) -> None:
    variables = VARIABLES[Method(name.split("_")[1])]
    prompt = load_prompt(name, None, variables, "text", retried=False)
    values = {variable: f"{variable} here" for variable in variables} | {"documents": ["documents here"]}
    shown = "\n".join(message.content for message in prompt.messages(values))
    assert all(f"{variable} here" in shown for variable in set(variables) - {"scoring"})
    assert "{{" not in shown and "{%" not in shown and prompt.version.startswith(name.replace("_", "-"))


def test_missing_mass_is_a_share() -> None:
    assert expected_score([("0", 0.0), ("5", math.log(1e-9))])[1] == 0.0
