"""What the guides tell people to type: start.md runs from its first line to its last, every other command composes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasonir.core.command import run_command
from reasonir.eval import cli as evaluation
from reasonir.synth import cli as synthesis
from reasonir.train.config import TrainConfig
from tests.kit import synth_answers
from tests.kit.documents import DOCUMENTS, MAINS, ROOT, SMALL, commands, own_command
from tests.kit.servers import ScriptedServer
from tests.kit.texts import SENTENCES


def compose(stage: str, arguments: list[str]) -> Any:
    """Compose and check the options of a command, and return them without carrying it out."""
    seen: list[Any] = []
    arguments = [argument.replace("=URL", "=http://127.0.0.1:1/v1") for argument in arguments]
    if stage == "train":
        chosen, name, schema = "", "train", TrainConfig
        arguments = arguments[arguments[:1] == ["prepare"] :]
    elif stage == "eval":
        chosen, *arguments = arguments
        name, schema = f"eval/{chosen}", evaluation.TASKS[chosen][0]
    else:
        (chosen,) = (argument.partition("=")[2] for argument in arguments if argument.startswith("recipe="))
        name, schema = f"synth/{chosen}", synthesis.RECIPES[chosen][0]
    with pytest.raises(SystemExit) as done:
        run_command(f"reasonir-{stage} {chosen}", name, schema, seen.append, arguments)
    assert done.value.code == 0, " ".join(arguments)
    return seen


def documented() -> Iterator[Any]:
    for document in DOCUMENTS:
        for line in dict.fromkeys(commands(document)):
            own = own_command(line)
            if own is not None:
                yield pytest.param(*own, id=f"{document.stem}: {line[:80]}")


@pytest.mark.parametrize(("stage", "arguments"), list(documented()))
def test_every_command_composes(stage, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # a sweep writes multirun.yaml
    seen = compose(stage, arguments)
    if "--cfg" in arguments:
        assert not seen and "output_dir:" in capsys.readouterr().out
    else:
        assert len(seen) == (2 if "-m" in arguments else 1)


def test_a_wrong_option_does_not_compose():
    with pytest.raises(AssertionError, match="learning_rat=1"):
        compose("train", ["output_dir=x", "data.files=[a]", "learning_rat=1"])


def test_the_guides_have_commands():
    found = {document.stem: sum(own_command(line) is not None for line in commands(document)) for document in DOCUMENTS}
    least = {
        "README": 20,
        "start": 13,
        "train": 5,
        "report": 3,
        "recipe": 4,
        "synthesis": 7,
        "evaluation": 15,
        "cluster": 1,
    }
    assert {name: found[name] for name in least if found[name] < least[name]} == {}


def write_texts(folder: Path) -> None:
    """Twenty-four files over two folders, and what does not belong to the texts."""
    for number in range(24):
        file = folder / ("physics" if number % 2 else ".") / f"note {number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{synth_answers.prose(f'text {number}', 350)}\n{SENTENCES[number % len(SENTENCES)]}\n")
    (folder / "plot.png").write_bytes(b"\x89PNG")


@pytest.mark.slow
def test_the_start_guide_runs_from_a_folder_of_texts_to_a_measured_retriever(tiny, tmp_path, monkeypatch, capsys):
    guide = ROOT / "docs" / "start.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write_texts(tmp_path / "my_texts")
    tiny.save_pretrained(str(tmp_path / "base"))
    with ScriptedServer(synth_answers.good) as server:
        for line in commands(guide):
            own = own_command(line.replace("http://127.0.0.1:8000/v1", server.url))
            if own is None:
                continue
            stage, arguments = own
            arguments = [re.sub(r"^model\.path=Qwen/.*", "model.path=base", argument) for argument in arguments]
            with pytest.raises(SystemExit) as done:
                MAINS[stage](arguments + (SMALL if stage == "train" else []))
            assert done.value.code == 0, (line, capsys.readouterr().err)
    said = capsys.readouterr().out
    assert "rows held out, about 10 of 48 documents" in said
    train, heldout = (
        [json.loads(row) for row in Path(f"out/split/{name}.jsonl").read_text().splitlines()]
        for name in ("train", "heldout/examples")
    )
    assert len(train) > 20 and len(heldout) > 5 and not {row["id"] for row in train} & {row["id"] for row in heldout}
    assert all(row["neg"] for row in train)
    assert len(Path("out/run/metrics.jsonl").read_text().splitlines()) == 2
    for name in ("bm25", "before", "after"):
        results = json.loads(Path(f"out/{name}/results.json").read_text())
        assert results["tasks"]["heldout"]["num_queries"] == len(heldout)
    page = Path("out/page/report.html").read_text(encoding="utf-8")
    assert "heldout" in page and "out/run/model" in page and f"{len(heldout)} queries" in page
    code = re.search(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)[1]
    exec(code, {})
    assert re.match(r"\[\[ *-?[01]?\.\d+ +-?[01]?\.\d+ *\]\]", capsys.readouterr().out)
