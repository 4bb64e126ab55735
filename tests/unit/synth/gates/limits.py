"""The gates with the limits of the package's own YAML, without the recipes' numbers of words."""

from pathlib import Path

import yaml

from reasonir.synth.gates.checks import Gates

WRITING = Path(__file__).resolve().parents[4] / "configs" / "synth" / "writing.yaml"
GATES = Gates(**yaml.safe_load(WRITING.read_text(encoding="utf-8"))["gates"])
