"""Every option that docs/migration.md names on our side exists and takes the value it is given."""

import re
from pathlib import Path

import pytest

from reasonir.core.help import element_schemas, find_configs, option_rows
from reasonir.train.cli import main
from reasonir.train.config import TrainConfig
from tests.kit.composing import TRAIN, composed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migration.md"
TOOLS = ("FlagEmbedding", "Tevatron", "sentence-transformers", "GritLM")


def named_options() -> dict[str, list[str]]:
    """Return {tool: what stands in the column `here` of its table}."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for section in sections:
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| ")]
        header, *rest = rows
        assert [cell.strip() for cell in header][1:] == ["here", "differs"]
        assert all(len(row) == len(header) for row in rest)
        assert all(re.findall(r"`[^`]+`", row[1]) or row[1].strip() == "–" for row in rest), "neither options nor none"
        found[section.splitlines()[0]] = [option for row in rest for option in re.findall(r"`([^`]+)`", row[1])]
    return found


def unknown(options: list[str]) -> list[str]:
    known = {name for name, _, _ in option_rows(TrainConfig)}
    for holder, element in element_schemas(TrainConfig).items():
        known |= {f"{holder}.NAME.{name}" for name, _, _ in option_rows(element)}
    known |= {group.name for group in find_configs().iterdir() if group.is_dir()}
    return [option for option in options if option.split("=")[0] not in known]


def test_the_options_of_the_tables_exist() -> None:
    found = named_options()
    assert set(found) == set(TOOLS)
    assert all(len(options) > 12 for options in found.values())
    assert {tool: unknown(options) for tool, options in found.items()} == {tool: [] for tool in TOOLS}
    assert unknown(["chunk_tokens", "chunk_size", "lora.r"]) == ["chunk_size", "lora.r"]


@pytest.mark.parametrize("tool", TOOLS)
def test_the_values_of_the_tables_compose(monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    values = dict(option.split("=") for option in named_options()[tool] if "=" in option)  # one choice of a group
    given = [f"{name}={value}" for name, value in values.items()]
    config = composed(monkeypatch, main, [*TRAIN, "model.path=somewhere", "dry_run=true", *given])
    assert config.model.path == "somewhere"
    assert config.precision == ("bf16" if "precision" in values else "auto")
    assert len(given) >= 3
