"""BM25 as Lucene and BRIGHT compute it, without Java: English analysis, index, search.

Invariant: a ranking is ordered as trec_eval orders it (score at float32, then document id, both descending),
with excluded documents gone before the cut. Owns nothing about files, metrics or tasks.

Known departures from a Lucene index: document lengths are exact (Lucene rounds those over 40 to one byte),
empty documents count in N and in the average length (as in gensim and bm25s), and lengths of tokens are code
points.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import bm25s
import numpy as np
import regex
import scipy.sparse
import Stemmer

from reasonir.retrieval.config import Lexical

STOP_WORD_LIST = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
STOP_WORDS = frozenset(STOP_WORD_LIST.split())
"""Lucene's EnglishAnalyzer.ENGLISH_STOP_WORDS_SET, 33 words."""

MAX_TOKEN_CHARACTERS = 255  # StandardAnalyzer.DEFAULT_MAX_TOKEN_LENGTH; a longer token is cut into pieces
# Read at once by the pattern, which runs out of memory in a match of four million letters.
STRETCH_CHARACTERS = 256 * MAX_TOKEN_CHARACTERS
CACHED_CHARACTERS = 48  # runs of text longer than this hardly recur
CACHE_ENTRIES = 1_000_000  # about 200 MB at worst; then the cache starts anew
SCORES_AT_ONCE = 1 << 24  # queries x documents of one sparse product: 200 MB where every score is non-zero
NARROW_NO_BREAK_SPACE = "\u202f"  # the one white-space character that Unicode lets join words


def _compile_token_pattern() -> regex.Pattern[str]:
    """Return the pattern of Lucene 9's StandardTokenizer: UAX #29 word boundaries plus its emoji sequences.

    Letters, digits and connectors run together; one MidLetter character between letters and one MidNum
    character between digits joins them; Katakana joins only Katakana; South-East Asian runs stay whole; each
    Han or Hiragana character is a token. Group 1 is the token; a run of connectors alone matches without it,
    so that the search stays linear. Source: UAX #29 and the grammar in apache/lucene
    StandardTokenizerImpl.jflex (Unicode 12.1 there, the regex package's Unicode here).
    """
    # Possessive quantifiers (*+, ++) never step back, so that time is linear in the text.
    # WB4: marks, format characters and joiners belong to the character before them.
    x = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*+"
    letter, hebrew = r"[\p{WB=ALetter}\p{WB=Hebrew_Letter}]", r"\p{WB=Hebrew_Letter}"
    digit = r"\p{WB=Numeric}"
    connector, katakana = rf"(?:\p{{WB=ExtendNumLet}}{x})", rf"(?:\p{{WB=Katakana}}{x})++"
    # WB7a to WB7c: a Hebrew letter takes a quote behind it, and a double quote between two letters.
    quotes = rf"{hebrew}{x}'{x}|{hebrew}{x}\"{x}{hebrew}{x}"
    # WB11, WB12: one separator between digits. WB6, WB7: one apostrophe, full stop or colon between letters.
    number = rf"{digit}{x}(?:[\p{{WB=MidNum}}\p{{WB=MidNumLet}}']{x}(?={digit}))?"
    word = rf"{letter}{x}(?:[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}']{x}(?={letter}))?"
    unit = rf"(?:{katakana}|(?:{quotes}|{number}|{word})++)"
    # WB13a, WB13b: connectors, such as the underscore, join what stands beside them.
    words = rf"{connector}*+{unit}(?:{connector}++{unit})*+{connector}*+"
    # WB15, WB16: two regional indicators are one flag.
    flag, joiner = rf"(?:\p{{WB=Regional_Indicator}}{x})", r"\p{WB=ZWJ}"
    emoji = r"[\p{Extended_Pictographic}[\p{Emoji}--[\p{WB=Regional_Indicator}0-9#*]]]"
    mark = r"[\p{WB=Format}\p{WB=Extend}--[\uFE0E\uFE0F]]"  # the two choose text or picture, and end a part
    marks = rf"(?:{mark}|{joiner}(?!{emoji}))*"
    part = rf"(?:{emoji}{marks}\uFE0F?)"
    # A pictograph with its joined parts, a keycap, or a flag.
    emojis = rf"{part}(?:{joiner}{part})*+|[0-9#*]{marks}\uFE0F?\u20E3{x}|{flag}{{2}}"
    whole = rf"(?:\p{{LB=SA}}{x})++|[\p{{Script=Han}}\p{{Script=Hiragana}}]{x}"
    return regex.compile(rf"({words}|{emojis}|{whole})|{connector}++", flags=regex.VERSION1)


# Compiled and made once: every text of every task passes through.
TOKEN = _compile_token_pattern()
PORTER = Stemmer.Stemmer("porter")
LATER_RULES = regex.compile(r"(.+)(bl|log)(?:[iy]s?|ies|[iy](?:ed|ing)s?)")
# One cache for the process: documents and queries of all tasks share most words.
_terms: dict[str, tuple[str, ...]] = {}


def analyse(text: str) -> list[str]:
    """Return the index terms of a text as Lucene's EnglishAnalyzer makes them.

    Words, without possessive 's, in lower case, without stop words, Porter-stemmed. White space never lies
    within a token, so the text is taken run by run and what a run gives is remembered.
    """
    # That one character joins words across what `split` would part: such a text is read whole.
    runs = [text] if NARROW_NO_BREAK_SPACE in text else text.split()
    terms: list[str] = []
    for run in runs:
        known = _terms.get(run)
        if known is None:
            known = _analyse_run(run)
            if len(run) <= CACHED_CHARACTERS:
                # Emptied as a whole: keeping the order of use would cost something on every word.
                if len(_terms) >= CACHE_ENTRIES:
                    _terms.clear()
                _terms[run] = known
        terms.extend(known)
    return terms


def _analyse_run(run: str) -> tuple[str, ...]:
    """Return the terms of a stretch of text, nothing remembered."""
    # The order of Lucene's EnglishAnalyzer: possessives, lower case, stop words, stems.
    terms = []
    for token in tokenise(run):
        # The three apostrophes of Lucene's EnglishPossessiveFilter.
        if len(token) >= 2 and token[-2] in "'\u2019\uff07" and token[-1] in "sS":
            token = token[:-2]
        # One character at a time, as Java does: no final sigma, and a capital dotted i is one letter.
        token = token.lower() if token.isascii() else "".join("i" if c == "İ" else c.lower() for c in token)
        if token not in STOP_WORDS:
            terms.append(stem(token))
    return tuple(terms)


def tokenise(text: str) -> list[str]:
    """Return the tokens of Lucene's StandardTokenizer, in order, spelt as in the text."""
    tokens: list[str] = []
    start = 0
    while start < len(text):
        # The pattern's memory grows with a match: it sees a stretch at a time.
        stretch = min(start + STRETCH_CHARACTERS, len(text))
        opened, start = start, stretch
        for found in TOKEN.finditer(text, opened, stretch):
            # A token near the end of the stretch may go on behind it: what is left of it opens the next one.
            goes_on = found.end() + MAX_TOKEN_CHARACTERS > stretch < len(text)
            if goes_on and found.start() > opened:
                start = found.start()
                break
            if found.end() - found.start() > MAX_TOKEN_CHARACTERS:
                pieces, left = _cut(text, found.start(), found.end(), goes_on)
                tokens.extend(pieces)
                if goes_on:
                    start = left
                    break
            elif found[1]:
                tokens.append(found[1])
    return tokens


def _cut(text: str, start: int, end: int, goes_on: bool) -> tuple[list[str], int]:
    """Return the tokens of an overlong one as Lucene finds them, and where they end.

    Args:
        text: Whose token.
        start: Of the token.
        end: Of the token, as far as it was read.
        goes_on: The token may be longer: only whole windows are read.
    """
    # Lucene reads the text through a window of 255.
    pieces = []
    while start + (MAX_TOKEN_CHARACTERS if goes_on else 0) < end:
        found = TOKEN.match(text, start, min(start + MAX_TOKEN_CHARACTERS, end))
        if found is not None and found[1]:
            pieces.append(found[1])
        start = start + 1 if found is None else found.end()
    return pieces, start


def stem(word: str) -> str:
    """Return the Porter stem of a lower-case word as Lucene's PorterStemFilter does.

    Snowball's "porter" is the algorithm of 1980. Lucene follows Porter's later C program, which differs in three
    points: words of one or two letters stay, and in step 2 -bli becomes -ble (not only -abli -able) and -logi
    becomes -log, both where the rest has a vowel-consonant sequence: `psychology` and `psychological` share a
    stem. The two rules apply to what step 1 leaves; the later steps then act as they do on a word that ends
    so.
    """
    if len(word) <= 2:
        return word
    later = LATER_RULES.fullmatch(word)
    if later and _has_vowel_then_consonant(later[1]):
        word = later[1] + ("ble" if later[2] == "bl" else "log")
    return str(PORTER.stemWord(word))


def _has_vowel_then_consonant(stem: str) -> bool:
    """Say whether Porter's measure m of `stem` is positive; y is a vowel after a consonant."""
    after_vowel = False
    consonant = False  # so that a leading y is a consonant
    for position, letter in enumerate(stem):
        vowel = letter in "aeiou" or (letter == "y" and position > 0 and consonant)
        if after_vowel and not vowel:
            return True
        after_vowel, consonant = vowel, not vowel
    return False


def tie_ranks(ids: Sequence[str]) -> np.ndarray:
    """Return each document's place (int64) in ascending order of ids; of equal scores the highest place is
    first.

    trec_eval compares the bytes of ids; Python's order by code point is the same for UTF-8.
    """
    # Places in the order of ids fit into a sort key; ids themselves would be compared as texts, hit by hit.
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return ranks


class BM25Index:
    """BM25 over a corpus: weight(t, d) = idf(t) * tf / (tf + k1 * (1 - b + b * |d| / average |d|)).

    idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5)). Lucene's form, without the constant factor k1 + 1. The
    weights are computed by bm25s, in float64. Source: Kamphuis et al. 2020, "Which BM25 do you mean?".
    """

    def __init__(self, ids: Sequence[str], texts: Iterable[str], k1: float = 0.9, b: float = 0.4) -> None:
        """Analyse and index.

        Args:
            ids: document ids, distinct; they break ties.
            texts: the documents' texts, as many; a text without any term is never a hit.
            k1: saturation of term frequency. Default: Anserini's, BRIGHT's.
            b: strength of length normalisation, 0 to 1. Default as above.
        """
        self.k1, self.b = k1, b
        self.ranks = tie_ranks(ids)
        self.vocabulary: dict[str, int] = {}
        number = self.vocabulary
        # Numbers by first appearance: texts are read once and not held.
        terms = [[number.setdefault(term, len(number)) for term in analyse(text)] for text in texts]
        if len(terms) != len(ids):
            raise ValueError(f"ids: {len(ids)} for {len(terms)} texts; give one id for each text")
        self.average_length = sum(map(len, terms)) / max(len(terms), 1)
        self.weights = self.weigh(terms)
        # One posting a document: the length of a term's row is its document frequency.
        documents_with_term = np.diff(self.weights.indptr)
        # bm25s keeps finished weights only; the weights of queries and of texts from elsewhere need the idf by itself.
        self.idf = np.log((len(ids) + 1.0) / (documents_with_term + 0.5))

    def weigh(self, terms: list[list[int]]) -> scipy.sparse.csr_array:
        """Return the weights, terms x documents. Time and memory grow with the tokens of the corpus."""
        shape = (len(self.vocabulary), len(terms))
        # bm25s would divide by the average length, which is 0 without a term.
        if not self.vocabulary:
            return scipy.sparse.csr_array(shape)
        # "lucene" leaves out the constant factor k1 + 1. float64, so that only the final score is rounded.
        engine = bm25s.BM25(method="lucene", k1=self.k1, b=self.b, dtype="float64")
        # Without create_empty_token=False bm25s would add a term of its own.
        engine.index((terms, self.vocabulary), create_empty_token=False, show_progress=False)
        parts = (engine.scores["data"], engine.scores["indices"], engine.scores["indptr"])
        return scipy.sparse.csr_array(parts, shape=shape)

    def search(
        self,
        queries: Sequence[str],
        top: int,
        excluded: Sequence[Collection[int] | np.ndarray] | None = None,
        variant: Lexical = Lexical.bm25,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rank the documents for every query. Time grows with the postings of all query terms.

        bm25: a query term counts as often as it occurs (Lucene, Anserini's -bm25). bm25_query_weighted: it counts
        with the BM25 weight it would have in a document, idf included (BRIGHT's BM25: gensim's LuceneBM25Model on both
        sides; Anserini's -bm25.querySide): idf(t) * tf / (tf + k1 * (1 - b + b * |q| / average |d|)), |q|
        counted over known terms. Documents that share no term with the query are no hits.

        Args:
            queries: texts, analysed as the documents are; one without any known term has no hits.
            top: hits per query at most, > 0.
            excluded: per query, positions of documents that are taken out before the cut.
            variant: how a query's terms are weighted.
        Returns:
            Positions (queries, top) int64 padded with -1, and scores (queries, top) float32 padded with -inf,
            best first, equal scores by id, descending.
        """
        weighted = self.weigh_queries(queries, Lexical(variant))
        indices = np.full((len(queries), top), -1, dtype=np.int64)
        scores = np.full((len(queries), top), -np.inf, dtype=np.float32)
        # A sparse product holds the documents that share a term with a query; its worst case bounds the block.
        step = max(1, SCORES_AT_ONCE // max(len(self.ranks), 1))
        for start in range(0, len(queries), step):
            block = (weighted[start : start + step] @ self.weights).tocsr()
            for row in range(block.shape[0]):
                hits = slice(block.indptr[row], block.indptr[row + 1])
                out = () if excluded is None else excluded[start + row]
                # float32 before the cut: scores tie where trec_eval reads them as equal, and ids decide there.
                best, values = self._best(block.indices[hits], block.data[hits].astype(np.float32), out, top)
                indices[start + row, : len(best)], scores[start + row, : len(best)] = best, values
        return indices, scores

    def score(self, query: str, text: str) -> float:
        """Return the score that a text would have for a query, with the index's frequencies and average length.

        For a text of the index this is its score in float64; a text from elsewhere is scored as if it stood there.
        """
        counts = Counter(analyse(text))
        # A list: a term counts as often as the query repeats it.
        asked = [term for term in analyse(query) if term in self.vocabulary and term in counts]
        numbers = np.array([self.vocabulary[term] for term in asked], dtype=np.int64)
        found = np.array([counts[term] for term in asked], dtype=np.float64)
        return float(self._bm25(numbers, found, counts.total()).sum())

    def _bm25(self, terms: np.ndarray, counts: np.ndarray, length: float) -> np.ndarray:
        """Return the BM25 weights (T,) of terms that stand so many times in a text of so many terms."""
        relative_length = length / max(self.average_length, 1e-9)  # an index of empty texts has average 0
        norm = self.k1 * (1 - self.b + self.b * relative_length)
        return np.asarray(self.idf[terms] * counts / (counts + norm))

    def weigh_queries(self, queries: Sequence[str], variant: Lexical) -> scipy.sparse.csr_array:
        """Return the query weights, queries x terms."""
        data, columns, starts = [], [], [0]
        for query in queries:
            counts = Counter(self.vocabulary[term] for term in analyse(query) if term in self.vocabulary)
            known = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
            weights = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
            if variant is Lexical.bm25_query_weighted and len(counts):
                # |q| counts known terms only, as gensim's LuceneBM25Model does for BRIGHT's figures.
                weights = self._bm25(known, weights, weights.sum())
            data.append(weights)
            columns.append(known)
            starts.append(starts[-1] + len(counts))
        parts = (
            np.concatenate([np.zeros(0), *data]),
            np.concatenate([np.zeros(0, np.int64), *columns]),
            starts,
        )
        return scipy.sparse.csr_array(parts, shape=(len(queries), len(self.vocabulary)))

    def _best(
        self, positions: np.ndarray, scores: np.ndarray, excluded: Collection[int] | np.ndarray, top: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best `top` of one query's scored documents, in trec_eval's order."""
        # A mask over all documents looks each posting up once, however many documents are excluded.
        if len(excluded):
            banned = np.zeros(len(self.ranks), dtype=bool)
            banned[np.fromiter(excluded, dtype=np.int64, count=len(excluded))] = True
            kept = ~banned[positions]
            positions, scores = positions[kept], scores[kept]
        if len(scores) > top:
            # All that tie with the last score stay in, because ids decide among them below.
            cut = np.partition(scores, len(scores) - top)[len(scores) - top]
            kept = scores >= cut
            positions, scores = positions[kept], scores[kept]
        # lexsort's last key counts first.
        order = np.lexsort((-self.ranks[positions], -scores))[:top]
        return positions[order], scores[order]
