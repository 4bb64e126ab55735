"""docs/architecture.md tells the truth: its folders are the package's, its listings are the source's."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LISTINGS = re.findall(r"^### [^\n]*`(reasonir/\S+\.py)`\n\n```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)


def without_comment(line: str) -> str:
    return line.split("  # ")[0].strip()


@pytest.mark.parametrize(("file", "listing"), LISTINGS)
def test_listings_stand_in_the_source_in_this_order(file: str, listing: str) -> None:
    source = [without_comment(line) for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    for line in map(without_comment, listing.splitlines()):
        assert line in source, f"{file} has no line {line!r} here"
        source = source[source.index(line) + 1 :]


def test_the_figure_shows_the_rooms_imports() -> None:
    figure = re.search(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    assert figure
    drawn = {a: set(b.split(" & ")) for a, b in re.findall(r"^ *(\w+) --> (.+)$", figure[1], re.MULTILINE)}
    imported: dict[str, set[str]] = {}
    for path in (ROOT / "reasonir").glob("*/**/*.py"):
        room = path.relative_to(ROOT / "reasonir").parts[0]
        found = re.findall(r"^ *(?:from|import) reasonir\.(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        imported.setdefault(room, set()).update({*found} - {room})
    assert {room for room, others in imported.items() if others} == set(drawn)
    for room, others in imported.items():
        assert drawn.get(room, set()) <= others, f"{room}: an arrow without an import"
        reached = set(drawn.get(room, ()))
        while more := {other for one in reached for other in drawn.get(one, ())} - reached:
            reached |= more
        assert others <= reached, f"{room}: an import that no arrow shows"


def test_there_is_a_listing_for_each_main_path() -> None:
    assert len(LISTINGS) == 5


def test_the_tree_names_every_folder() -> None:
    tree = re.search(r"^reasonir/\n(.*?)^scripts/", PAGE, re.MULTILINE | re.DOTALL)
    assert tree
    names = re.findall(r"^ +([a-z_]+)/ ", tree[1], re.MULTILINE)
    folders = {path.parent for path in (ROOT / "reasonir").rglob("*.py")} - {ROOT / "reasonir"}
    assert sorted(names) == sorted([*(folder.name for folder in folders), "prompts"])  # which holds YAML only
