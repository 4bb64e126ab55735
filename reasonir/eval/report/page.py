"""The page of a report as data, and the HTML file that is made of it.

Rankings and answers become the same `Page`: figures, sections of tables and charts, and one list of items (queries or
questions). Invariant: the page asks for nothing outside itself, and no text of the data can become markup or script.
The template escapes every text, the embedded data is compressed base64, the script writes text nodes only, and the
page's own policy allows its one script by hash.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import jinja2

from reasonir import __version__
from reasonir.eval.rag.table import NAMES
from reasonir.eval.scores.significance import format_p_value
from reasonir.eval.scores.tables import SHORT_NAMES, Table


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things that stand side by side: a run (with a letter) or a condition under which was answered."""

    name: str
    letter: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of bars. count: items in it. points: a value for each bar, None for no bar. mark: a published value.
    note: text in the last column."""

    label: str
    count: int
    points: Sequence[float | None]
    mark: float | None = None
    note: str = ""

    @property
    def difference(self) -> float | None:
        """The second value minus the first; None where either is missing."""
        # A chart of one side has no second value.
        first, second = [*self.points, None][:2]
        return None if first is None or second is None else second - first


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """A section with rows of bars on one axis from 0 to `top` points.

    link: its name in the navigation. first: title of the rows' column. heads: of each bar's column; a number names a
    side. last: of the column behind, with the difference of two bars or the rows' notes; "" for no such column. marked:
    the meaning of the marks. colour: the side whose colour the first bar takes. lead: a sentence above two columns of
    thinner bars; "" for a section of half the width.
    """

    id: str
    title: str
    link: str
    caption: str
    first: str
    heads: Sequence[str | int]
    rows: list[Bar]
    top: int = 100
    last: str = ""
    marked: str = ""
    colour: int = 0
    lead: str = ""

    def width(self, points: float) -> str:
        """Return a length on the axis in percent."""
        return f"{100 * points / self.top:.2f}%"


@dataclass(frozen=True, slots=True)
class Filter:
    """A property by which the list of items is narrowed: its element, its title, its first choice, its values."""

    id: str
    title: str
    everything: str
    names: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All that a page shows; a section stands where its data exist.

    facts, options: (name, one value a run). noun: what the items are called ("queries"). filters: properties of the
    items. packed: what the script reads, by the id of the element that holds it.

    Of rankings: count (of queries), table (rows beside the published ones), averages (nDCG@10 in points, one a run),
    changes (queries by better, worse, equal), curve. Of answers: accuracy (accuracy.json), stages (name, whether it
    read a letter, count and share by condition), limits (characters kept), answers_cut.
    """

    kind: str
    title: str
    sides: Sequence[Side]
    notes: Sequence[str]
    facts: Sequence[tuple[str, Sequence[str]]]
    options: Sequence[tuple[str, Sequence[str]]]
    charts: Sequence[BarChart]
    noun: str
    filters: Sequence[Filter]
    packed: Mapping[str, str]
    count: int = 0
    table: Table | None = None
    averages: Sequence[float] = ()
    changes: Mapping[str, int] | None = None
    curve: Any = None
    accuracy: Mapping[str, Any] | None = None
    stages: Sequence[tuple[str, bool, Sequence[tuple[int, float]]]] = ()
    limits: Any = None
    answers_cut: int = 0

    @property
    def compared(self) -> Sequence[Side]:
        """The runs, where there are two; else nothing."""
        return self.sides if self.table and len(self.sides) == 2 else []


@dataclass(slots=True)
class Passages:
    """The documents that items name, each text stored once. texts: None where a text is not known."""

    characters: int
    ids: list[str] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    _places: dict[tuple[str, str | None], int] = field(default_factory=dict)

    def place(self, identifier: str, text: str | None) -> int:
        """Return the place of a document with this text; a new one is added, its text cut."""
        # Two runs may know two texts under one id, as their data differs: each text has its own place.
        snippet = None if text is None else cut(text, self.characters)
        place = self._places.setdefault((identifier, snippet), len(self.ids))
        if place == len(self.ids):
            self.ids.append(identifier)
            self.texts.append(snippet)
        return place

    def chunk(self, opened: Sequence[Mapping[str, Any]]) -> str:
        """Pack what some items show when they are opened, together with the documents that they name."""
        return pack({"ids": self.ids, "texts": self.texts, "items": opened})


def pack_list(
    sides: Sequence[Side],
    pairs: Sequence[Sequence[int]],
    filters: Sequence[Filter],
    words: Mapping[str, str],
    per_chunk: int,
    items: Sequence[Mapping[str, Any]],
) -> str:
    """Pack what the script needs to show, filter and sort the list of items.

    Args:
        sides: the runs or conditions.
        pairs: two sides each, whose difference may be shown.
        filters: properties of the items; an item's `parts` hold a place in `names` for each, -1 for none.
        words: what the script calls things: items, nothing, passage, hits, unknown.
        per_chunk: items whose texts are packed together, under "texts-0", "texts-1", ...
        items: id, texts, parts, and either scores (nDCG@10 in points) or options, answer, letters and gold.
    """
    return pack(
        {
            "sides": [{"name": side.name, "letter": side.letter} for side in sides],
            "pairs": pairs,
            "filters": [{"id": each.id, "everything": each.everything, "names": each.names} for each in filters],
            "words": words,
            "chunk": per_chunk,
            "items": items,
        }
    )


def pack(value: Any) -> str:
    """Return JSON as base64 of a zlib stream: small, and without a character that HTML could read as markup."""
    # base64 costs a third again, and still 1,384 queries take 2.3 MB; plain JSON would have to be escaped.
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def cut(text: str, characters: int) -> str:
    """Return the first characters of a text, with an ellipsis behind them where something is left out."""
    text = text.strip()
    return text if len(text) <= characters else f"{text[:characters].rstrip()} …"


def short_score(score: float) -> float:
    """Return a score with five significant digits; a reader uses no more."""
    return float(f"{score:.5g}")


def _signed(value: float) -> str:
    """Return a difference in points with its sign; zero, as printed, has none."""
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def _points(share: float | None) -> str:
    """Return a share in points; a dash for None."""
    return "–" if share is None else f"{100 * share:.1f}"


def interval(pair: Sequence[float] | None) -> str:
    """Return an interval of shares in points; a dash for None."""
    return "–" if pair is None else f"{_points(pair[0])} to {_points(pair[1])}"


def fill_page(page: Page) -> str:
    """Return the HTML of a page, from `html/`'s template, style and script."""
    style, script = _page_file("report.css"), _page_file("report.js")
    # Autoescape guards every text of the data; a name that is not there is our mistake and must not pass.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"difference": _signed, "share": _points, "interval": interval, "p_value": format_p_value}
    environment.filters |= {"count": "{:,}".format, "decimal": "{:.1f}".format}
    return environment.from_string(_page_file("report.html")).render(
        page=page,
        names=NAMES,
        short_names=SHORT_NAMES,
        style=style,
        script=script,
        style_hash=_content_hash(style),
        script_hash=_content_hash(script),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
    )


def _page_file(name: str) -> str:
    return (files("reasonir.eval.report") / "html" / name).read_text(encoding="utf-8")


def _content_hash(content: str) -> str:
    """Return the hash by which a content security policy names an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
