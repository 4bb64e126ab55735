"""The part of the report that tells hard queries from garbage: each sign with its n, and what other sets would show."""

import textwrap
from collections.abc import Iterable
from statistics import fmean, median

from reasonir.synth.report.ranks import READ_TOKENS, ndcg_at_10, rank_buckets
from reasonir.synth.report.risks import distinct
from reasonir.synth.report.study import Study
from reasonir.synth.report.survey import Survey, quantile
from reasonir.text.markdown import markdown_table

SHOWN_OPENINGS, SHOWN_CLUSTERS, SHOWN_NEIGHBOURS = 5, 5, 10
LINE_CHARACTERS = 200
# Of a line of the page; a Markdown reader joins the lines of a paragraph.
PAGE_WIDTH = 118


def describe_difficulty(found: Survey, study: Study) -> list[str]:
    """Return the lines about how hard the queries are."""
    header = ["", "this set", "n", "garbage", "hard but good", "copied or easy"]
    signs = [*_rank_signs(study), *_overlap_signs(found), *_likeness_signs(study)]
    lines = ["", "## Are the queries hard?", "", "What this set shows, and what a set would show that is …", ""]
    lines.append(markdown_table(header, signs))
    if study.trouble:
        lines += ["", *prose(f"No encoder searched: {study.trouble}.")]
    elif not study.dense:
        hint = "Only an encoder tells hard from garbage: give report_model=FOLDER and run the same command again."
        lines += ["", *prose(hint)]
    if study.ranks:
        buckets = {name: rank_buckets(ranks) for name, ranks in study.ranks.items()}
        places = next(iter(buckets.values()))
        rows = [(place, *(f"{counts[place]:,}" for counts in buckets.values())) for place in places]
        lines += ["", markdown_table(["rank of the positive", *buckets], rows), "", *_explain(study)]
    return [*lines, "", "![lengths, lexical overlap, rank of the positive](report.png)"]


def describe_manner(study: Study) -> list[str]:
    """Return the lines about what most queries are like."""
    if not study.cases:
        return []
    by = "embeddings" if study.dense else "word weights"
    nearest = distinct(sorted(study.cases, key=lambda case: -case.average))[:SHOWN_NEIGHBOURS]
    lines = ["", "## What are the queries like?", "", *_openings(study), "", *_clusters(study), ""]
    lines += [f"Nearest to the average query, by {by} (n = {len(study.cases):,}), with the cosine:", ""]
    for case, count in nearest:
        lines.append(f"- {case.average:.2f} {_cut(case.query)}{f' ({count:,} times)' if count > 1 else ''}")
    garbage = "Garbage: these say nearly the same and name nothing of any document."
    return [
        *lines,
        "",
        *prose(garbage, "Hard but good: their subject is the corpus's, and each asks for something else."),
    ]


def _explain(study: Study) -> list[str]:
    pool, limit = len(study.pool.texts), study.pool.found_rank
    sentences = [
        f"Ranks are of {len(study.ranked):,} rows, drawn by the seed, among {pool:,} documents: their positives, a "
        "negative of each, and other documents.",
        f"Found means among the first {limit}, which chance alone gives {_percent(limit, pool)} of the queries.",
    ]
    if study.dense:
        sentences += [
            f"The encoder reads the first {READ_TOKENS} tokens of a text, without an instruction.",
            "A query that takes several steps of reasoning may hide its document from a small encoder too: read some "
            "of those that neither finds, below, before you call them garbage.",
        ]
    return prose(*sentences)


def _rank_signs(study: Study) -> Iterable[tuple[str, ...]]:
    if not study.ranks:
        return
    by, n = study.found_by(), len(study.ranked)
    count, pool = f"{n:,}", len(study.pool.texts)
    yield "source found by BM25", _percent(by[True, True] + by[True, False], n), count, "by chance", "few", "nearly all"
    if study.dense:
        encoder = by[True, True] + by[False, True]
        yield "source found by the encoder", _percent(encoder, n), count, "by chance", "most", "nearly all"
        yield "by the encoder alone", _percent(by[False, True], n), count, "by chance", "most", "few"
        yield "by BM25 alone", _percent(by[True, False], n), count, "by chance", "few", "few"
        yield "by neither", _percent(by[False, False], n), count, "most", "some", "none"
    expected = {"BM25": ("near 0", "low", "near 1"), "encoder": ("near 0", "above BM25's", "near 1")}
    for name, ranks in study.ranks.items():
        yield f"nDCG@10, {name}", f"{fmean(map(ndcg_at_10, ranks)):.2f}", count, *expected[name]
    if study.dense:
        middle = median(case.dense or pool for case in study.ranked)
        yield "median rank, encoder", f"{middle:,.0f}", count, f"near {pool // 2:,}", "small", "1"


def _overlap_signs(found: Survey) -> Iterable[tuple[str, ...]]:
    expected = {"positive": ("any", "below half", "most"), "negative": ("any", "as the positive's", "any")}
    for side, counts in found.overlaps.items():
        if counts:
            name = f"content words found in a {side}, median"
            yield name, f"{quantile(counts, 0.5)} %", f"{counts.total():,}", *expected[side]


def _likeness_signs(study: Study) -> Iterable[tuple[str, ...]]:
    if not study.cases:
        return
    counted, sampled = f"{study.counted:,}", f"{len(study.cases):,}"
    most = study.openings.most_common(1)[0][1]
    yield "begin with the most common three words", _percent(most, study.counted), counted, "many", "few", "any"
    clustered = sum(cluster.size for cluster in study.clusters)
    yield "have a near duplicate", _percent(clustered, study.counted), counted, "many", "few", "few"
    alike = sum(case.nearest >= study.alike for case in study.cases)
    yield f"cosine with another from {study.alike} on", _percent(alike, len(study.cases)), sampled, "many", "few", "few"
    own, positives = f"{fmean(case.average for case in study.cases):.2f}", study.likeness_of_positives
    expected = (
        ("high", "low", "low")
        if positives is None
        else (f"above {positives:.2f}", f"near {positives:.2f}", f"near {positives:.2f}")
    )
    yield "mean cosine with the average query", own, sampled, *expected


def _openings(study: Study) -> list[str]:
    repeated = [(words, count) for words, count in study.openings.most_common(SHOWN_OPENINGS) if count > 1]
    if not repeated:
        return [f"Openings: no two queries begin with the same three words (n = {study.counted:,})."]
    (first, count), *others = repeated
    shares = f"{_percent(count, study.counted)} of queries begin '{first}'"
    shares += "".join(f", {_percent(count, study.counted)} '{words}'" for words, count in others)
    garbage = "Garbage: a third or more begin alike. Hard but good: less than a tenth."
    return prose(f"Openings: {shares} (n = {study.counted:,}).", garbage)


def _clusters(study: Study) -> list[str]:
    inside = sum(cluster.size for cluster in study.clusters)
    lines = prose(
        f"Near duplicates: {_percent(inside, study.counted)} of queries lie in clusters, of which there are "
        f"{len(study.clusters):,}; they share half of their word triples with the first one (n = {study.counted:,}).",
        "Garbage: a few large clusters. Hard but good: none, or pairs.",
    )
    if study.clusters:
        lines.append("")
    for cluster in study.clusters[:SHOWN_CLUSTERS]:
        lines += [f"- {cluster.size:,} queries like: {_cut(cluster.first)}", f"  and: {_cut(cluster.last)}"]
    return lines


def prose(*sentences: str) -> list[str]:
    """Return sentences as lines of a paragraph."""
    return textwrap.wrap(" ".join(sentences), PAGE_WIDTH, break_long_words=False, break_on_hyphens=False)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LINE_CHARACTERS else line[:LINE_CHARACTERS] + " …"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.0f} %"
