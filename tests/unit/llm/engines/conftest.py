"""A generator's configuration from its YAML file, and waits that do not last."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from reasonir.core.command import validate_tree
from reasonir.core.help import find_configs
from reasonir.llm import GeneratorConfig
from reasonir.llm.config import Provider, Structured
from reasonir.llm.engines import client as client_module
from tests.kit.generators import KEY, Configured


@pytest.fixture
def configured() -> Configured:
    """Compose configs/generator/openai.yaml with changes."""

    def compose(**changes: Any) -> GeneratorConfig:
        text = (find_configs() / "generator" / "openai.yaml").read_text(encoding="utf-8")
        content = {**yaml.safe_load(text), "model": "m", "timeout_seconds": 5.0, **changes}
        engine, structured = Provider(content.pop("engine")), Structured(content.pop("structured"))
        config = GeneratorConfig(**content, engine=engine, structured=structured)
        validate_tree(config)
        return config

    return compose


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "completions.jsonl"


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exponential waits a hundred times shorter; a server's Retry-After is obeyed as it is."""
    monkeypatch.setattr(client_module, "FIRST_WAIT_SECONDS", 0.005)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
