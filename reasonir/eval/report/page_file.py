"""The shell of every page: where it is written, how it is filled, what it may do.

Invariant: the page asks for nothing outside itself, and no text of the data can become markup or script: the template
escapes, the embedded data is compressed base64, the script writes text nodes only, and the page's own policy allows
its one script by hash. `page/` holds the templates, the style and the scripts.
"""

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from reasonir import __version__
from reasonir.core.command import to_yaml
from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, write_json
from reasonir.core.run_folder import build_manifest
from reasonir.eval.report.config import ReportConfig

SHARED_SCRIPT, STYLE = "list.js", "report.css"
OWN_OPTION = "snippet_characters:"
"""Tells a report's config.yaml from another command's."""


def claim_output(config: ReportConfig) -> tuple[Path, str]:
    """Return the page's path, and what goes before the names of the files beside it.

    A folder that another command filled keeps its config.yaml, manifest.json and results.md: ours get the page's name.
    """
    output = Path(config.output)
    for path in (output, *output.parents):
        if path.exists() and path.is_dir() == (path == output):
            kind = "folder; name a file in it" if path == output else "file; name a folder"
            raise UserError(f"output={output}: {path} is a {kind}")
    stored = output.parent / CONFIG_FILE
    foreign = stored.exists() and OWN_OPTION not in stored.read_text(encoding="utf-8", errors="replace")
    return output, f"{output.stem}." if foreign else ""


def fill_page(template: str, script: str, packed: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """Return the page that a template of `page/` makes of the values.

    Args:
        packed: what the script reads, by the id of the element that holds it, each from `pack`.
    """
    style, code = _page_file(STYLE), _page_file(SHARED_SCRIPT) + _page_file(script)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_page_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["points"] = lambda value: f"{value:.1f}"
    environment.filters["difference"] = signed
    return environment.get_template(template).render(
        style=style,
        script=code,
        style_hash=content_hash(style),
        script_hash=content_hash(code),
        packed=packed,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
        **values,
    )


def _page_file(name: str) -> str:
    return (files("reasonir.eval.report") / "html" / name).read_text(encoding="utf-8")


def signed(value: float) -> str:
    """Return a difference in points with its sign; zero, as printed, has none."""
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def content_hash(content: str) -> str:
    """Return the hash by which a content security policy names an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def pack(value: Any) -> str:
    """Return JSON as base64 of a zlib stream: small, and without a character that HTML could read as markup."""
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def publish(
    config: ReportConfig,
    output: Path,
    beside: str,
    page: str,
    tables: Mapping[str, str],
    inputs: Iterable[Path],
    counts: dict[str, Any],
    begun: float,
) -> None:
    """Write the page, and beside it its options, its tables (name to content) and, last, its manifest."""
    output.parent.mkdir(parents=True, exist_ok=True)
    (output.parent / f"{beside}{MANIFEST_FILE}").unlink(missing_ok=True)
    _write_text(output.parent / f"{beside}{CONFIG_FILE}", to_yaml(config))
    _write_text(output, page)
    for name, content in tables.items():
        _write_text(output.parent / f"{beside}{name}", content)
    manifest = build_manifest(inputs, counts, begun, page_bytes=len(page.encode()))
    write_json(output.parent / f"{beside}{MANIFEST_FILE}", manifest)


def _write_text(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
