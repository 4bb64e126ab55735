"""The page of a comparison, in points: printed, and written into compare.md. Leaves numbers to `compare.py`."""

from collections.abc import Sequence
from typing import Any

from reasonir.eval.scores.significance import format_p_value
from reasonir.text.markdown import markdown_table


def render(report: dict[str, Any]) -> str:
    """Return the page of a comparison as Markdown."""
    lines = [f"# {report['metric']}, in points", ""]
    lines += _systems(report)
    for comparison in report["comparisons"]:
        lines += ["", *_comparison(comparison, report)]
    if report["comparisons"]:
        lines += ["", *_remarks(report)]
    for place, counts in report["left_out"].items():
        rest = f"{counts['tasks']} tasks and {counts['queries_of_common_tasks']} queries of common tasks"
        lines += ["", f"Left out of {place}, because not all hold them: {rest}."]
    return "\n".join(lines) + "\n"


def _systems(report: dict[str, Any]) -> list[str]:
    repeated = any(len(system["folders"]) > 1 for system in report["systems"])
    tasks = [*report["tasks"], *(["average"] if len(report["tasks"]) > 1 else [])]
    header = ["", *tasks]
    rows = []
    for system in report["systems"]:
        spreads = [{**system["tasks"], "average": system["average"]}[task] for task in tasks]
        rows.append([system["name"], *(f"{100 * spread['mean']:.2f}" for spread in spreads)])
        if len(system["folders"]) > 1:
            deviations = [f"{100 * spread['standard_deviation']:.2f}" for spread in spreads]
            rows.append([f"  deviation of {len(system['folders'])} repeats", *deviations])
            rows.append(["  interval", *(_interval(spread["interval"]) for spread in spreads)])
    lines = [markdown_table(header, rows)]
    if repeated:
        lines += ["", f"Repeats: their mean, standard deviation and {report['confidence']:.0%} t-interval of the mean."]
    return lines


def _comparison(comparison: dict[str, Any], report: dict[str, Any]) -> list[str]:
    tests = dict(comparison["tasks"])
    if len(tests) > 1:
        tests["average"] = comparison["average"]
    interval = f"{report['confidence']:.0%} interval"
    header = ["task", "queries", "A", "B", "B - A", interval, "p", "p (Holm)", "wins", "ties", "losses"]
    rows = [
        [
            task,
            f"{test['queries']:,}",
            f"{100 * test['mean_a']:.2f}",
            f"{100 * test['mean_b']:.2f}",
            f"{100 * test['difference']:+.2f}",
            _interval(test["interval"]),
            format_p_value(test["p_value"]),
            format_p_value(test["p_value_holm"]),
            *(str(test[name]) for name in ("wins", "ties", "losses")),
        ]
        for task, test in tests.items()
    ]
    lines = [f"## A = {comparison['a']}, B = {comparison['b']}", "", markdown_table(header, rows)]
    if comparison["largest_moves"]:
        moves = [
            [f"{move['task']}: {move['id']}", *(f"{100 * move[k]:.2f}" for k in ("score_a", "score_b")),
             f"{100 * move['difference']:+.2f}"]
            for move in comparison["largest_moves"]
        ]  # fmt: skip
        lines += ["", "The queries that move most:", "", markdown_table(["query", "A", "B", "B - A"], moves)]
    return lines


def _remarks(report: dict[str, Any]) -> list[str]:
    """Return what the numbers mean, and what they do not mean."""
    by_task = sum(len(comparison["tasks"]) for comparison in report["comparisons"])
    tests = [test for comparison in report["comparisons"] for test in comparison["tasks"].values()]
    exact = sum(test["exact"] for test in tests)
    drawn = f"{report['permutations']:,} drawn (seed {report['seed']})"
    patterns = "all" if exact == by_task else drawn if not exact else f"all for {exact} tasks, {drawn} for the rest"
    kind = "BCa" if report["interval"] == "bca" else "percentile"
    count = len(report["comparisons"])
    family = f"{by_task} tests of a task" + (f"; over {count} of an average" if len(report["tasks"]) > 1 else "")
    lines = [
        "p: how often the mean moves at least as far, either way, where a coin decides for each query which score "
        f"is whose; a small p is hard to put down to chance (paired randomisation test, sign patterns: {patterns}).",
        f"Interval: bootstrap over queries within their task, {kind}, {report['bootstrap']:,} resamples.",
    ]
    if by_task > 1:
        lines.append(f"p (Holm): corrected over {family}.")
    if any(len(system["folders"]) > 1 for system in report["systems"]):
        lines.append("Repeats are averaged query by query; p and interval tell of other queries, not of other repeats.")
    # The smallest two-sided p of n sign patterns is 2 / 2^n: 1/16 for 5 queries, 1/32 for 6.
    small = sorted({task for task, queries in report["tasks"].items() if queries < 6})
    if small:
        lines.append(f"Too few queries for p below 0.05, whatever the scores (fewer than 6): {', '.join(small)}.")
    if 1 in report["tasks"].values():
        lines.append("A task of one query has no interval and adds nothing to the width of the average's.")
    return lines


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}"
