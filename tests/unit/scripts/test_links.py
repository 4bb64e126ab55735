"""The check of the documents' links finds what is wrong and lets pass what is right."""

from pathlib import Path

import pytest

from scripts import check_links

DOCUMENT = "# Top\n## Does it `work`? Yes, twice\n```\n## not a heading\n[x](code.md)\n```\n## Again\n## Again\n"


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("[a](b.md) [c](b.md#does-it-work-yes-twice) [d](#top) [e](b.md#again-1)\n# Top", []),
        ("[a](b.md#not-a-heading)", ["link to b.md#not-a-heading: no heading #not-a-heading"]),
        ("[a](b.md#again-2)", ["link to b.md#again-2: no heading #again-2"]),
        ("[a](missing.md#top)", ["link to missing.md#top: missing.md does not exist"]),
        ("[a](https://example.org/missing.md) [b](mailto:x@example.org)", []),
        ("see `docs/b.md`, docs/, reasonir/Name, `docs/*.md` and docs/<name>/x", []),
        ("python docs/gone.py x; see docs/gone.py.", ["names docs/gone.py, which does not exist"]),
        ("docs/gone/*.yaml", ["names docs/gone, which does not exist"]),
        ("out/docs/gone.py and /docs/gone.py are elsewhere", []),
    ],
)
def test_mistakes_are_found(tmp_path: Path, text: str, mistakes: list[str]) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text(DOCUMENT)
    (tmp_path / "docs" / "a.md").write_text(text)
    assert check_links.check(tmp_path / "docs" / "a.md", tmp_path) == [f"docs/a.md: {m}" for m in mistakes]


def test_the_repository_s_documents_are_right() -> None:
    files = [check_links.ROOT / "README.md", *(check_links.ROOT / "docs").glob("*.md")]
    assert [mistake for file in files for mistake in check_links.check(file)] == []
