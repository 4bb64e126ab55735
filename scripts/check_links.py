"""Check what the documents point at: relative links, anchors, and every path of this repository that they name.

Prints one line a mistake and exits 1; needs no network. Addresses elsewhere are not looked at.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]\[]*\]\(([^()\s]+)\)")
NAMED = re.compile(r"(?<![\w./<*-])((?:configs|docs|reasonir(?!/[A-Z])|scripts|tests|\.ci)/[\w./-]*\w)")
"""Paths as prose and commands write them, up to a placeholder or pattern. reasonir/ReasonIR-8B is a hub's name."""


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets: lower case, signs dropped, spaces as hyphens."""
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", lambda found: found[1] or "", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, those in code aside; a heading that comes again gets -1, -2, ..."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.*)$", without_code(text), re.MULTILINE):
        name, again = anchor(heading), 0
        while (f"{name}-{again}" if again else name) in found:
            again += 1
        found.add(f"{name}-{again}" if again else name)
    return found


def without_code(text: str) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def broken_links(file: Path, text: str) -> Iterator[str]:
    for target in LINK.findall(without_code(text)):
        path, _, name = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        place = (file.parent / path).resolve() if path else file
        if not place.exists():
            yield f"link to {target}: {path} does not exist"
        elif name and name not in anchors(place.read_text(encoding="utf-8")):
            yield f"link to {target}: no heading #{name}"


def missing_paths(text: str, root: Path) -> Iterator[str]:
    for match in NAMED.finditer(text):
        path, following = match[1], text[match.end() : match.end() + 1]
        if following in ("*", "<", "{", "$"):  # a name that goes on as a pattern: its folder
            path = path.rpartition("/")[0]
        if not any((root / f"{path}{suffix}").exists() for suffix in ("", ".py", ".yaml")):
            yield f"names {path}, which does not exist"


def check(file: Path, root: Path = ROOT) -> list[str]:
    """Return the mistakes of a document, with file and what is wrong."""
    text = file.read_text(encoding="utf-8")
    found = dict.fromkeys([*broken_links(file, text), *missing_paths(text, root)])
    return [f"{file.relative_to(root)}: {mistake}" for mistake in found]


def main() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "*.md"], check=True, capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.splitlines()]
    mistakes = [mistake for file in files for mistake in check(file)]
    print("\n".join(mistakes or [f"{len(files)} documents: links, anchors and paths are right"]))
    sys.exit(bool(mistakes))


if __name__ == "__main__":
    main()
