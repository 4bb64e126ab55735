"""The parts of a report's page: texts that are stored once and cut, the order of hits, options side by side."""

import base64
import json
import zlib

from reasonir.eval.report.page import Bar, BarChart, Passages, Side, fill_page, pack
from reasonir.eval.report.page import Page as ReportPage
from reasonir.eval.report.provenance import option_texts, side_by_side
from reasonir.eval.report.question_items import cut_middle
from reasonir.retrieval.fusion import in_order


def test_hits_stand_in_the_scored_order() -> None:
    """trec_eval reads scores as float32; what is equal there goes by id, descending."""
    hits = {"a": 1.0, "c": 0.5, "b": 1.0 - 1e-9, "d": 2.0}
    assert in_order(hits) == ["d", "b", "a", "c"]


def test_long_answers_keep_both_ends() -> None:
    assert cut_middle("abcdefghij", 10) == "abcdefghij" and cut_middle("", 4) == ""
    assert cut_middle("abcdefghij", 4) == "ab [… 6 characters left out …] ij"


def test_a_text_is_stored_once_and_two_texts_of_one_id_apart() -> None:
    passages = Passages(5)
    places = [passages.place(*named) for named in (("a", "long text"), ("b", None), ("a", "long text"), ("a", "other"))]
    assert places == [0, 1, 0, 2]
    chunk = json.loads(zlib.decompress(base64.b64decode(passages.chunk([{"hits": []}]))))
    assert chunk == {"ids": ["a", "b", "a"], "texts": ["long …", None, "other"], "items": [{"hits": []}]}


def test_options_stand_side_by_side_where_any_run_has_them() -> None:
    one = option_texts({"data": {"dir": "x", "hub": None}, "top": 3, "empty": {}})
    assert one == {"data.dir": "x", "data.hub": "null", "top": "3", "empty": "{}"}
    assert side_by_side([{"a": "", "b": "1"}, {"b": "", "c": "2"}]) == [("b", ["1", ""]), ("c", ["", "2"])]


def page(**sections: object) -> str:
    """Return the HTML of an otherwise empty page."""
    empty = {"facts": [], "options": [], "notes": [], "filters": [], "packed": {"data": pack({})}, "charts": []}
    shared = {"kind": "Report", "title": "<b>", "sides": [Side("x")], "noun": "queries", **empty}
    return fill_page(ReportPage(**{**shared, **sections}))  # type: ignore[arg-type]


def test_a_section_stands_where_its_data_exist() -> None:
    bare = page()
    for name in ("table", "accuracy", "stages", "scaling", "lengths"):
        assert f'id="{name}"' not in bare
    assert "&lt;b&gt;" in bare and "<b>" not in bare
    bars = [Bar("one", 3, [12.0, None]), Bar("two", 0, [None, 4.0])]
    chart = BarChart(id="lengths", title="T", link="L", caption="C", first="F", heads=["a", "b"], rows=bars, last="d")
    filled = page(charts=[chart])
    assert filled.count('<section aria-labelledby="lengths">') == 1 and '<a href="#lengths">L</a>' in filled
    assert filled.count('<rect class="run-') == 2 and 'width="12.00%"' in filled, "no bar for None"
    assert filled.count('<td class="number">–</td>') == 4, "two values, two differences"
