"""What counts as a word."""

from reasonir.text.words import one_spelling, words_and_operators, words_of_prose


def test_operators_are_words_of_formulas_only():
    text = "It's x^2 - 1 >= y, well-known: E=mc2"
    assert words_of_prose(text) == ["its", "x", "2", "1", "y", "well", "known", "e", "mc2"]
    assert words_and_operators(text) == [
        "its", "x", "^", "2", "-", "1", ">", "=", "y", "well", "known", "e", "=", "mc2",
    ]  # fmt: skip


def test_both_rules_put_texts_into_one_spelling():
    for words in (words_of_prose, words_and_operators):
        assert words("ＦＵＬＬ ﬁne Straße don\u2019t co\u00adop") == ["full", "fine", "strasse", "dont", "coop"]
        assert words("量子 is ひら") == ["量", "子", "is", "ひ", "ら"]
        assert words("") == words(" .,; ") == []


def test_one_spelling_keeps_punctuation():
    assert one_spelling("  A\n b,  ﬁn ") == "a b, fin"
