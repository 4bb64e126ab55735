"""Slow Porter stemmer: the paper of 1980 and the two later rules of Porter's C program."""

from itertools import pairwise

STEP_2 = (
    "ational:ate tional:tion enci:ence anci:ance izer:ize bli:ble alli:al entli:ent eli:e ousli:ous "
    "ization:ize ation:ate ator:ate alism:al iveness:ive fulness:ful ousness:ous aliti:al iviti:ive "
    "biliti:ble logi:log"
)
STEP_3 = "icate:ic ative: alize:al iciti:ic ical:ic ful: ness:"
STEP_4 = "al ance ence er ic able ible ant ement ment ent sion tion ou ism ate iti ous ive ize"


def is_consonant(word: str, i: int) -> bool:
    """A y is a consonant at the start and after a vowel."""
    if word[i] == "y":
        return i == 0 or not is_consonant(word, i - 1)
    return word[i] not in "aeiou"


def measure(stem: str) -> int:
    """Count vowel-consonant sequences."""
    kinds = [is_consonant(stem, i) for i in range(len(stem))]
    return sum(after and not before for before, after in pairwise(kinds))


def ends_double(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and is_consonant(word, len(word) - 1)


def ends_cvc(word: str) -> bool:
    n = len(word)
    if n < 3 or word[-1] in "wxy":
        return False
    return [is_consonant(word, i) for i in (n - 3, n - 2, n - 1)] == [True, False, True]


def has_vowel(stem: str) -> bool:
    return any(not is_consonant(stem, i) for i in range(len(stem)))


def replace_longest(word: str, rules: str) -> str:
    """Apply the rule of the longest fitting suffix if the rest has a positive measure."""
    for rule in sorted(rules.split(), key=len, reverse=True):
        suffix, new = rule.split(":")
        if word.endswith(suffix):
            rest = word[: len(word) - len(suffix)]
            return rest + new if measure(rest) > 0 else word
    return word


def step_1(word: str) -> str:
    """Plurals, -ed, -ing, and y after a vowel-bearing stem."""
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if word.endswith("eed"):
        word = word[:-1] if measure(word[:-3]) > 0 else word
    else:
        for suffix in ("ed", "ing"):
            if word.endswith(suffix) and has_vowel(word[: -len(suffix)]):
                word = word[: -len(suffix)]
                if word.endswith(("at", "bl", "iz")):
                    word += "e"
                elif ends_double(word):
                    word = word if word[-1] in "lsz" else word[:-1]
                elif measure(word) == 1 and ends_cvc(word):
                    word += "e"
                break
    return word[:-1] + "i" if word.endswith("y") and has_vowel(word[:-1]) else word


def step_4(word: str) -> str:
    """Drop one of the long suffixes after measure 2 or more; -ion keeps its s or t."""
    for suffix in sorted(STEP_4.split(), key=len, reverse=True):
        if word.endswith(suffix):
            drop = 3 if suffix in ("sion", "tion") else len(suffix)
            rest = word[: len(word) - drop]
            return rest if measure(rest) > 1 else word
    return word


def stem(word: str) -> str:
    """Stem a lower-case word; one of one or two letters stays."""
    if len(word) <= 2:
        return word
    word = step_4(replace_longest(replace_longest(step_1(word), STEP_2), STEP_3))
    if word.endswith("e"):
        m = measure(word[:-1])
        if m > 1 or (m == 1 and not ends_cvc(word[:-1])):
            word = word[:-1]
    if word.endswith("ll") and measure(word[:-1]) > 1:
        word = word[:-1]
    return word
