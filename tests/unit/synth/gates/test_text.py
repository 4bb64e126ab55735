"""Gates: what each must catch, and beside it the text that looks alike and must pass."""

import random
import time

import pytest

from reasonir.llm.echoes import boilerplate
from reasonir.llm.refusals import refusal_phrase
from reasonir.synth.gates.text import (
    longest_copied_span,
    shares_run,
    source_mention,
    word_count,
)
from reasonir.text.language import looks_english
from reasonir.text.near_duplicates import DuplicateTexts, near_duplicate
from reasonir.text.noise import repetition

PASSAGE = (
    "Photosynthesis takes place in the chloroplasts of plant cells. Light strikes the pigment chlorophyll, electrons "
    "leave it and travel along a chain of carriers, and the gradient of protons that builds up drives the synthesis "
    "of ATP. In the second stage carbon dioxide is fixed into sugars by an enzyme that is slow and rather unselective."
)

REFUSALS = [
    "I'm sorry, but I can't assist with that request.",
    "I’m sorry, but I cannot fulfil your request to write a misleading document.",
    "I cannot provide a hard negative document for this query because the text is about self-harm.",
    "As an AI language model, I do not have personal experiences, so here is a general discussion instead.",
    "Sure! As an AI, I should point out that this may be harmful.",
    "I am just an AI assistant and cannot create such content.",
    "Unfortunately, I am unable to complete this task since the document is empty.",
    "I apologize, but I won't be able to generate that. I can't produce such a document.",
    "I must respectfully decline to write this.",
    "\"I'm sorry, but I can't help with that.\"",
    "Your request violates our content policy.",
    "I can't help you with making a weapon.",
    "Some words to begin with that say nothing about it, only so that the opening is long. "
    "I'm sorry, but I can't provide this. As a language model, I cannot write such documents, and I can't help with "
    "that request in any form whatsoever today.",
]
NO_REFUSALS = [
    "I'm sorry if this is basic, but I can't figure out why my proof by induction breaks at n = 2.",
    "I can't understand why entropy increases when the gas expands into a vacuum.",
    "I cannot create a user in PostgreSQL 14; the server says permission denied. What is wrong?",
    "I am unable to solve this integral by parts and would like a hint.",
    "Sorry, I couldn't reproduce the bug. I can't get the kernel to boot on the board at all.",
    "Why do chatbots answer \"I'm sorry, but I can't assist with that\" to harmless chemistry questions?",
    "As an AI researcher, I want to know how to evaluate calibration of classifiers.",
    "As AI models grow, does the loss keep falling as a power law of compute?",
    "My landlord says he cannot provide hot water until spring. What are my rights?",
    "The colony cannot produce enough heat in winter, and I am not able to move the hive. What can be done?",
    PASSAGE + " A reviewer wrote: I cannot provide this information. " + PASSAGE,
    "I can't help but wonder whether the Riemann hypothesis is independent of ZFC.",
]
MENTIONS = [
    "According to the document, what limits the speed of carbon fixation?",
    "What does the author argue about free will?",
    "Based on the passage, which of the enzymes is slow?",
    "In the passage, why are electrons said to leave chlorophyll?",
    "Which of the mechanisms described in this article would explain a lower yield?",
    "How would the approach mentioned in the text apply to a bridge of 300 m?",
    "Given the above text, how many carriers are there?",
    "What is the main idea of this passage?",
    "Why does the passage mention chloroplasts?",
    "Using the provided context, explain the proton gradient.",
    "What is the author's view on inflation targeting?",
    "How does the text explain the role of ATP?",
    "Summarize the article in two sentences.",
    "What assumption is made in the document provided?",
    "From the given passage, infer the temperature of the reactor.",
    "The article discusses three causes of the crash; which one came first?",
    "According to the text provided above, when did the war begin?",
]
NO_MENTIONS = [
    "What makes a legal document binding when one party signed under duress?",
    "How do I append a node to the document object model without a reflow?",
    "Which text editor can open a file of 20 GB, and how does it avoid loading it whole?",
    "How does the passage of time appear in general relativity near a horizon?",
    "Did the passage of the Clean Air Act lower asthma rates in inner cities?",
    "I read a paper in which the authors claim that sleep consolidates memory. Can that be tested in flies?",
    "A passage in my textbook says heat flows uphill; what does the passage mean by that?",
    "Article 5 of the treaty obliges members to help; does it bind a member that was attacked first?",
    "How can I convert a PDF document into plain text while keeping the reading order?",
    "In this context, why would a catalyst not shift the equilibrium?",
    "I need a regular expression that finds the text between two brackets.",
    "What did the author of The Selfish Gene say about group selection?",
    "Given the following data, 3, 5, 9, 17, which recurrence generates them?",
    "My function crashes on the given input of ten million rows; how can I stream it?",
    "According to the text of the Second Amendment, is a militia required?",
    "How should I cite a source in a lab report?",
    "Blood cannot pass from the left atrium, so why does the pressure above the valve rise?",
]
ENGLISH = [
    PASSAGE,
    "Let f be a continuous map from X to Y. Show that the preimage of every closed set is closed.",
    "Prove that $\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$ without polar coordinates.",
    "segfault in std::vector<int>::operator[] after push_back, gdb shows 0x0000, compiled with -O2 -march=native",
    "```python\ndef f(x):\n    return x ** 2\n```\nWhy does this return a float when x is an int array?",
    "α-Synuclein fibrils bind β-sheet dyes; which assay separates oligomers from fibrils?",
    "Eigenvalues, eigenvectors, trace, determinant, rank, nullity, kernel, image, basis, dimension, span",
    "What does the German sentence 'Ich weiß nicht, was soll es bedeuten' mean and who wrote the poem?",
    "In Spanish, why is it 'el agua' and not 'la agua', though the noun is feminine?",
    "Schrödinger, Erdős, Gödel and Poincaré all met in Zürich; is there any record of what they discussed?",
    "CO2 + H2O -> H2CO3, pKa 6.35",
    "quantum",
    "",
]
NOT_ENGLISH = [
    "光合作用是植物利用阳光将二氧化碳和水转化为葡萄糖和氧气的过程，发生在叶绿体中。",
    "光合成は植物が光エネルギーを使って二酸化炭素と水から糖を作る過程です。",
    "Фотосинтез происходит в хлоропластах растительных клеток под действием света.",
    "Die Photosynthese findet in den Chloroplasten der Pflanzenzellen statt und wird durch das Licht angetrieben.",
    "Wie funktioniert die Photosynthese in grünen Pflanzen und welche Rolle spielt das Wasser?",
    "La fotosíntesis ocurre en los cloroplastos de las células y transforma la energía de la luz en azúcares.",
    "¿Por qué el cielo es azul durante el día y rojo cuando se pone el sol?",
    "La photosynthèse se déroule dans les chloroplastes et produit des sucres à partir du dioxyde de carbone.",
    "A fotossíntese ocorre nos cloroplastos e transforma a energia da luz em açúcares para a planta.",
    "De fotosynthese vindt plaats in de bladgroenkorrels en wordt door het licht van de zon gedreven.",
    "A fotoszintézis során a növények a fény energiáját használják fel szerves vegyületek előállítására.",
    "Η φωτοσύνθεση πραγματοποιείται στους χλωροπλάστες των φυτικών κυττάρων.",
    "यह प्रक्रिया पौधों की कोशिकाओं में होती है और प्रकाश ऊर्जा का उपयोग करती है।",
    "광합성은 식물이 빛 에너지를 이용하여 당을 만드는 과정이다.",
]
BOILERPLATE = [
    "Dear [insert name], the reactor has been shut down.",
    "Dear [Your Name], thank you for the sample of soil.",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
    "Sure! Here is a hard negative document about enzymes.",
    "Here's a reasoning-intensive query based on this material: Why do leaves fall?",
    "Hard negative document: Enzymes are proteins.",
    "<your text here> goes before the closing tag",
    "Enzymes are proteins. Let me know if you would like another version!",
    "The meeting of [Company Name] took place on [Date].",
]
NO_BOILERPLATE = [
    "In C, why does arr[insert_index] = x write past the end when insert_index equals the length?",
    "Where do I insert a row into a B-tree page that is full?",
    "Here is my problem: a ball rolls down an incline and I get twice the speed that I expect.",
    "What does the slice a[start:stop] return for an empty list?",
    "The array [1, 2, 3] is passed by reference, see [the manual](https://example.org).",
    "Sure-fire ways to fail at crystallography include vibration and draughts.",
    "Is std::vector<T> default constructible if T is not?",
    "Cells [1] and organelles [2, 3] divide; does one depend on the other?",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_found(text: str) -> None:
    assert refusal_phrase(text)


@pytest.mark.parametrize("text", NO_REFUSALS)
def test_a_person_in_trouble_is_no_refusal(text: str) -> None:
    assert refusal_phrase(text) is None


@pytest.mark.parametrize("text", MENTIONS)
def test_a_source_that_the_reader_lacks_is_found(text: str) -> None:
    found = source_mention(text)
    assert found and found in text.lower()


@pytest.mark.parametrize("text", NO_MENTIONS)
def test_a_thing_called_document_is_no_source(text: str) -> None:
    assert source_mention(text) is None


@pytest.mark.parametrize("text", ENGLISH)
def test_english_passes(text: str) -> None:
    assert looks_english(text)


@pytest.mark.parametrize("text", NOT_ENGLISH)
def test_another_language_does_not(text: str) -> None:
    assert not looks_english(text)


@pytest.mark.parametrize("text", BOILERPLATE)
def test_what_was_left_unfilled_is_found(text: str) -> None:
    assert boilerplate(text)


@pytest.mark.parametrize("text", NO_BOILERPLATE)
def test_brackets_and_greetings_pass(text: str) -> None:
    assert boilerplate(text) is None


def test_real_prose_passes_every_gate() -> None:
    for check in (refusal_phrase, source_mention, boilerplate):
        assert check(PASSAGE) is None


SWAPPED = PASSAGE.replace("slow and rather unselective", "slow and quite unselective")
UNRELATED = (
    "Monetary policy acts with long and variable lags. When a central bank raises its rate, mortgages and corporate "
    "loans become dearer within weeks, while prices follow only after a year or two, so that a board steers by "
    "forecasts of inflation and of the labour market instead of by what it has just measured."
)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (PASSAGE, PASSAGE, True),
        (PASSAGE, "  " + PASSAGE.upper().replace(". ", " -- "), True),
        (PASSAGE, SWAPPED, True),
        (PASSAGE, UNRELATED + " " + PASSAGE + " " + UNRELATED, True),  # one within the other
        (" ".join(reversed(PASSAGE.split(". "))), PASSAGE, True),  # the same sentences in another order
        (PASSAGE, UNRELATED, False),
        (PASSAGE, " ".join(sorted(PASSAGE.split())), False),  # the same words without their order
        ("the light reactions", PASSAGE + " These are the light reactions of plants.", False),  # a short name within
        ("Solve x + 1 = 2 for x", "Solve x - 1 = 2 for x", False),
        ("well-known result", "well known result", True),
        ("", "", True),
        ("", PASSAGE, False),
        ("???", "!!!", False),
        ("光合作用发生在叶绿体中", "光合作用发生在叶绿体中。", True),
        ("光合作用发生在叶绿体中", "蒸腾作用主要通过叶片气孔进行", False),
    ],
)
def test_near_duplicate(a: str, b: str, same: bool) -> None:
    assert near_duplicate(a, b) is same
    assert near_duplicate(b, a) is same


def test_near_duplicate_obeys_its_threshold() -> None:
    half = ". ".join(PASSAGE.split(". ")[:2]) + ". " + UNRELATED
    assert near_duplicate(PASSAGE, half, threshold=0.3)
    assert not near_duplicate(PASSAGE, half, threshold=0.95)


def slow_copied_span(text: list[str], source: list[str]) -> int:
    longest = 0
    for i in range(len(text)):
        for j in range(len(source)):
            length = 0
            while i + length < len(text) and j + length < len(source) and text[i + length] == source[j + length]:
                length += 1
            longest = max(longest, length)
    return longest


def test_copied_span_equals_the_obvious_one() -> None:
    draw = random.Random(3)
    lengths = set()
    for size in (1, 2, 3, 5, 9):
        for _ in range(60):
            alphabet = [f"w{i}" for i in range(size)]
            text = draw.choices(alphabet, k=draw.randrange(40))
            source = draw.choices(alphabet, k=draw.randrange(40))
            expected = slow_copied_span(text, source)
            lengths.add(expected)
            assert longest_copied_span(" ".join(text), " ".join(source)) == expected
            for count in (1, 2, 5, 10):
                assert shares_run(" ".join(text), " ".join(source), count) == (expected >= count)
    assert len(lengths) > 10  # not always nothing or all


def test_copied_span_ignores_case_and_punctuation() -> None:
    assert longest_copied_span("So: light strikes, the PIGMENT chlorophyll?", PASSAGE) == 5
    assert longest_copied_span("", PASSAGE) == longest_copied_span(PASSAGE, "") == 0


def test_copied_span_stays_linear_where_everything_repeats() -> None:
    started = time.perf_counter()
    assert longest_copied_span("a " * 20_000 + "b", "a " * 20_000) == 20_000
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        (PASSAGE, 0.0, 0.02),
        ("the answer is the answer is " * 20, 0.9, 1.0),
        ("No, no, no.", 0.0, 0.0),
        ("Aha" + "ha" * 200, 0.9, 1.0),
        (PASSAGE + " " + UNRELATED, 0.0, 0.02),
        (" ".join([PASSAGE] * 4), 0.7, 0.8),
        ("", 0.0, 0.0),
    ],
)
def test_repetition(text: str, low: float, high: float) -> None:
    assert low <= repetition(text) <= high


def test_word_count_counts_what_white_space_separates() -> None:
    assert word_count(" one two\nthree-four\t") == 3


def test_duplicate_queries_are_seen_in_any_spelling_and_nearly() -> None:
    queries = DuplicateTexts()
    assert not queries.seen(PASSAGE)
    assert queries.seen(PASSAGE)
    assert queries.seen(PASSAGE.upper().replace(",", " ;"))
    assert queries.seen(SWAPPED)
    assert not queries.seen(UNRELATED)
    assert len(queries) == 2


@pytest.mark.parametrize("text", ["", "???", "quantum", "why? why!"])
def test_short_and_empty_queries_are_seen_twice_only(text: str) -> None:
    queries = DuplicateTexts()
    assert not queries.seen("something else")
    assert not queries.seen(text)
    assert queries.seen(text)


def drawn(draw: random.Random, count: int) -> list[str]:
    return [f"w{draw.randrange(3_000)}" for _ in range(count)]


def test_duplicate_queries_find_pairs_by_their_similarity() -> None:
    draw = random.Random(1)
    queries, seen_near, seen_far = DuplicateTexts(), 0, 0
    originals = [drawn(draw, 60) for _ in range(600)]
    assert sum(queries.seen(" ".join(text)) for text in originals) == 0
    for text in originals:
        seen_near += queries.seen(" ".join([*text[:-1], "x"]))  # Jaccard 57 / 59
        seen_far += queries.seen(" ".join(text[:30] + drawn(draw, 30)))  # Jaccard 28 / 88
    assert seen_near == 600
    assert seen_far == 0


def test_duplicate_queries_do_not_depend_on_growth_and_stay_within_the_formula() -> None:
    draw = random.Random(2)
    queries = DuplicateTexts()
    texts = [" ".join(drawn(draw, 12)) for _ in range(3_000)]  # past two doublings of the tables
    assert not any(queries.seen(text) for text in texts)
    assert all(queries.seen(text) for text in texts)
    slots = 1 << (int(1.5 * 3_000)).bit_length()
    used = len(queries._signatures) + sum(table.itemsize * len(table) for table in queries._tables)
    assert used <= 64 * 3_000 + 64 * slots
    million = 64 * 10**6 + 64 * (1 << int(1.5 * 10**6).bit_length())
    assert million < 300 * 2**20


def test_a_shared_opening_does_not_hide_or_slow() -> None:
    opening = " ".join(f"same{i}" for i in range(40))
    draw = random.Random(5)
    queries = DuplicateTexts()
    texts = [f"{opening} {' '.join(drawn(draw, 40))}" for _ in range(2_000)]
    started = time.perf_counter()
    assert sum(queries.seen(text) for text in texts) <= 2
    assert time.perf_counter() - started < 20
