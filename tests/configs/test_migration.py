"""Other tools' options: ours in docs/migration.md exist and take their values, theirs are answered with ours."""

import re
from pathlib import Path

import pytest
import yaml

from reasonir.core import command
from reasonir.core.help import element_schemas, find_configs, option_rows
from reasonir.eval import cli as eval_cli
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


TABLE = Path(command.__file__).parents[1] / "train" / command.FOREIGN_OPTIONS
ANSWERS: dict[str, str] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
TYPED = {
    "per_device_train_batch_size=8": "global_batch_queries=N, over all devices",
    "gradient_accumulation_steps=4": "chunk_tokens=N bounds memory",
    "num_train_epochs=3": "epochs=N",
    "lr_scheduler_type=cosine": "schedule=constant|linear|cosine|wsd",
    "+lr_scheduler_type=cosine": "schedule=constant|linear|cosine|wsd",
    "--lr_scheduler_type=cosine": "schedule=constant|linear|cosine|wsd",
    "--lr-scheduler-type": "schedule=constant|linear|cosine|wsd",
    "adam_beta2=0.95": "adam_betas=[B1,B2]",
    "adam_epsilon=1e-6": "adam_eps=NUMBER",
    "max_grad_norm=1": "max_gradient_norm=NORM",
    "bf16=true": "precision=bf16",
    "save_steps=100": "save_every_steps=N",
    "save_total_limit=2": "keep_checkpoints=N",
    "resume_from_checkpoint=true": "resume=true",
    "eval_steps=50": "dev.every_steps=N",
    "load_best_model_at_end=true": "dev.keep=best",
    "report_to=wandb": "tracking=wandb|tensorboard",
    "deepspeed=ds.json": "parallel=zero1|zero2|zero3",
    "scale=20": "temperature=T, which is 1 / scale",
    "mini_batch_size=32": "chunk_tokens=N, in tokens",
    "multi_dataset_batch_sampler=proportional": "data.weights=[SHARES]",
    "max_seq_length=512": "query_max_tokens=N document_max_tokens=N",
    "train_group_size=8": "negatives_per_query=N, one less",
    "query_max_len=64": "query_max_tokens=N",
    "p_max_len=256": "document_max_tokens=N",
    "query_instruction_for_retrieval=Find": "data.sources.NAME.instruction=TEXT",
    "negatives_x_device=true": "nothing to set; every query meets the documents of all devices",
    "train_data=rows.jsonl": "data.files=[FILES]",
    "model_name_or_path=bert": "model=folder model.path=PATH",
    "lora_r=16": "lora.rank=N with lora=lora",
    "lora.r=16": "lora.rank=N with lora=lora",
    "grad_cache=true": "always on, with chunk_tokens=N",
    "--learning_rate": "write learning_rate=VALUE",
    "--output_dir=out": "write output_dir=VALUE",
}


@pytest.mark.parametrize(("typed", "answer"), TYPED.items())
def test_an_option_of_another_tool_is_answered_with_ours(
    capsys: pytest.CaptureFixture[str], typed: str, answer: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*TRAIN, typed])
    line = capsys.readouterr().err
    assert stopped.value.code == 2 and line.count("\n") == 1
    assert line.endswith("\n") and answer in line.split(";", 1)[1], line


def test_every_answer_names_options_that_exist() -> None:
    named = {name: re.findall(r"([a-zA-Z_.]+)=", answer) for name, answer in ANSWERS.items()}
    assert len(ANSWERS) > 60 and sum(map(bool, named.values())) > 50
    assert unknown(sorted({option for options in named.values() for option in options})) == []
    assert all(options or ANSWERS[name].startswith("nothing to set; ") for name, options in named.items())
    ours = {name for name, _, _ in option_rows(TrainConfig)}
    assert set(ANSWERS) & ours == set(), "an option of ours needs no answer"


def test_every_option_of_the_tables_is_answered_or_ours() -> None:
    ours = {name for name, _, _ in option_rows(TrainConfig)}
    page = PAGE.read_text(encoding="utf-8").partition("## FlagEmbedding")[2]
    cells = " ".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))
    names = set(re.findall(r"`(?:--)?(\w+)[^`]*`", cells)) - {"SentenceTransformer"}
    assert len(names) > 60
    assert names - ours - set(ANSWERS) == set()


def test_other_commands_answer_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        eval_cli.main(["bright", "retriever=bm25", "data.dir=d", "--max_seq_length"])
    assert "unknown flag --max_seq_length; options are name=value, --help lists them" in capsys.readouterr().err
