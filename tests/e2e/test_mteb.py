"""mteb evaluates our encoder through the adapter: the values of our own `bright` on the same data, mteb's way."""

import importlib
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from reasonir.core.errors import UserError
from reasonir.data.bright import read_bright
from reasonir.eval.scores.results import qrels_of, read_results
from reasonir.retrieval.metrics import score_run
from tests.kit.collections import run
from tests.kit.texts import note_encoded

pytestmark = pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed")


class Kit:
    """tests.kit.mteb_task, imported by the first test that needs it."""

    def __getattr__(self, name: str) -> Any:
        # pytest asks every object of a test file for attributes of its own.
        if name not in ("INSTRUCTION", "KitchenRetrieval", "MtebEncoder", "bright_task_of", "describe"):
            raise AttributeError(name)
        return getattr(importlib.import_module("tests.kit.mteb_task"), name)


kit = Kit()


def evaluate(encoder: Any, task: Any, folder: Path) -> tuple[float, dict[str, dict[str, float]]]:
    """Return mteb's nDCG@10 and the ranking that it scored."""
    import mteb

    with warnings.catch_warnings():  # mteb's own and its dependencies'
        warnings.simplefilter("ignore")
        result = mteb.evaluate(encoder, task, cache=None, co2_tracker=False, prediction_folder=folder)
    (file,) = folder.rglob("*predictions*.json")
    predictions = json.loads(file.read_text(encoding="utf-8"))["default"]["standard"]
    return result.task_results[0].get_score(), predictions


def wrapped(path: Path, **options: Any) -> Any:
    return kit.MtebEncoder.from_pretrained(str(path), **{"precision": "fp32", **options})


def ours(data: Path, model: Path, out: Path, capsys: Any, *more: str) -> tuple[float, dict]:
    command = ["bright", f"data.dir={data}", "tasks=[kitchen]", f"model.path={model}", f"output_dir={out}"]
    run([*command, "precision=fp32", *more], capsys)
    result = read_results(out)["kitchen"]
    return result.mean["ndcg_at_10"], result.run()


def test_mteb_and_bright_agree(
    bright_folder: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, run_of_ours = ours(bright_folder, tiny_model, tmp_path / "out", capsys)
    apart = wrapped(tiny_model, cache_dir=str(tmp_path / "cache"))  # nothing that the command has encoded
    value, predictions = evaluate(apart, kit.KitchenRetrieval(bright_folder / "kitchen"), tmp_path / "mteb")
    assert predictions == run_of_ours
    assert value == pytest.approx(expected, abs=5e-6)  # mteb rounds to five digits
    (collection,) = read_bright(str(bright_folder), ["kitchen"])
    assert score_run(predictions, qrels_of(collection)).mean["ndcg_at_10"] == pytest.approx(expected, abs=1e-12)
    # Not vacuous: exclusions and the instruction both change the ranking.
    _, free = evaluate(
        wrapped(tiny_model), kit.KitchenRetrieval(bright_folder / "kitchen", exclusions=False), tmp_path / "free"
    )
    assert "kitchen/0" in free["q0"] and "kitchen/0" not in predictions["q0"]
    _, bare = evaluate(
        wrapped(tiny_model, instruction="none"), kit.KitchenRetrieval(bright_folder / "kitchen"), tmp_path / "bare"
    )
    capsys.readouterr()
    _, run_of_ours = ours(bright_folder, tiny_model, tmp_path / "none", capsys, "instruction=none")
    assert bare == run_of_ours and bare != predictions


def test_an_instruction_reaches_queries_only(
    bright_folder: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = note_encoded(monkeypatch)
    (collection,) = read_bright(str(bright_folder), ["kitchen"])
    documents = {document.text for document in collection.documents}
    queries = {query.text for query in collection.queries if query.gold}
    asked = {
        "bright": kit.INSTRUCTION,
        "mteb": kit.INSTRUCTION,
        "none": "",
        "Look in {task}": "Look in KitchenRetrieval",
    }
    for index, (option, instruction) in enumerate(asked.items()):
        seen.clear()
        encoder = wrapped(tiny_model, instruction=option, cache_dir=str(tmp_path / f"cache{index}"))
        evaluate(encoder, kit.KitchenRetrieval(bright_folder / "kitchen"), tmp_path / f"out{index}")
        assert set(seen) == {("", text) for text in documents} | {(instruction, text) for text in queries}


@pytest.mark.parametrize(
    ("name", "subset", "task", "long"),
    [
        ("BrightEarthScienceRetrieval", "default", "earth_science", False),
        ("BrightTheoremQATheoremsRetrieval", "default", "theoremqa_theorems", False),
        ("BrightSustainableLivingLongRetrieval", "default", "sustainable_living", True),
        ("BrightProStackoverflowRetrieval", "default", "stackoverflow", False),
        ("BrightRetrieval", "theoremqa_questions", "theoremqa_questions", False),
        ("BrightLongRetrieval", "pony", "pony", True),
        ("BrightonRetrieval", "default", None, False),
        ("SciFact", "default", None, False),
    ],
)
def test_brights_tasks_are_known_by_mtebs_names(name: str, subset: str, task: str | None, long: bool) -> None:
    assert kit.bright_task_of(name, subset) == (task, long)


def test_all_of_mtebs_bright_tasks_get_the_papers_instruction(tiny_model: Path) -> None:
    import mteb

    encoder, plain = wrapped(tiny_model), wrapped(tiny_model, instruction="mteb")
    old = ("BrightRetrieval", "BrightLongRetrieval")
    names = [name for name in dir(mteb.tasks) if name.startswith("Bright") and name not in old]
    assert len(names) == 27
    asked = {name: encoder.instruction_of(getattr(mteb.tasks, name).metadata, "default") for name in names}
    assert asked["BrightEarthScienceRetrieval"] == (
        "Given a earth_science post, retrieve relevant passages that help answer the post"
    )
    assert "documents that help" in asked["BrightPonyLongRetrieval"]
    assert all(text.startswith("Given a ") for text in asked.values())
    assert plain.instruction_of(mteb.tasks.BrightEarthScienceRetrieval.metadata, "default").startswith("Represent this")
    scifact = mteb.tasks.SciFact.metadata
    for each in (encoder, plain):
        assert each.instruction_of(scifact, "default") == scifact.prompt["query"]


def test_mteb_keeps_results_apart_by_weights_and_options(tiny_model: Path) -> None:
    first, other = wrapped(tiny_model).mteb_model_meta, wrapped(tiny_model, instruction="none").mteb_model_meta
    assert first == wrapped(tiny_model).mteb_model_meta != other
    assert first.name == "reasonir/tiny" and first.revision == wrapped(tiny_model).encoder.fingerprint != ""


def test_the_tasks_without_exclusions_say_so(tiny_model: Path) -> None:
    with pytest.warns(UserWarning, match="applies no exclusions"):
        wrapped(tiny_model).index([{"id": "a", "text": "x"}], task_metadata=kit.describe("BrightRetrieval", "x"))


def test_candidates_outside_the_corpus_are_refused(bright_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    task = kit.KitchenRetrieval(bright_folder / "kitchen")
    task.load_data()
    task.top_ranked["standard"]["q0"] = ["ghost"]
    with pytest.raises(UserError, match="'q0' ranks document 'ghost'"):
        evaluate(wrapped(tiny_model), task, tmp_path)


def test_other_kinds_of_tasks_go_through_encode(tiny_model: Path) -> None:
    from mteb.types import PromptType

    encoder = wrapped(tiny_model)
    metadata = kit.describe("KitchenRetrieval", kit.INSTRUCTION)
    batches = [{"text": ["water", "rod"]}, {"text": ["jar"]}]
    common = {"task_metadata": metadata, "hf_split": "test", "hf_subset": "default"}
    for kind, instruction in ((None, kit.INSTRUCTION), (PromptType.query, kit.INSTRUCTION), (PromptType.document, "")):
        found = encoder.encode(batches, **common, prompt_type=kind, batch_size=2)
        assert (found == encoder.encoder.encode(["water", "rod", "jar"], instruction)).all()
    assert encoder.similarity(found, found).shape == (3, 3)
    with pytest.raises(UserError, match="precision=int8"):
        encoder.encode(batches, **common, precision="int8")
