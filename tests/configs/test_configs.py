"""Every YAML composes, every refusal refuses, --help is instant."""

import ast
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasonir.core import command
from reasonir.core import help as help_page
from reasonir.core.errors import UserError
from reasonir.eval import cli as eval_cli
from reasonir.eval.benchmarks import config as eval_config
from reasonir.eval.benchmarks.config import FuseConfig
from reasonir.retrieval.config import EncodeConfig
from reasonir.train import cli as train_cli
from reasonir.train.config import SourceConfig, TrainConfig
from tests.kit.composing import TRAIN, composed

CONFIGS = help_page.find_configs()
GROUPS = {
    group: sorted(p.stem for p in (CONFIGS / group).glob("*.yaml"))
    for group in ("model", "data", "data/sources", "parallel", "lora")
}
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
HELP_SECONDS = 0.7
HELP_PROGRAM = "import sys; from reasonir.{0}.cli import main; main(sys.argv[1:])"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_yaml_is_covered_here() -> None:
    tried = {"train", *(f"{g}/{c}" for g, names in GROUPS.items() for c in names)}
    tried |= {f"experiment/{name}" for name in EXPERIMENTS} | {f"eval/{task}" for task in eval_cli.TASKS}
    files = {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml")}
    # test_synth_configs.py; accelerate's own files: tests/distributed/test_accelerate.py
    files = {file for file in files if not file.startswith(("synth/", "generator/", "accelerate/"))}
    assert files - tried == {"eval/retrieval", "eval/rag"}, "a file that no test composes"
    assert tried - files == set()


PAIRS = [
    pytest.param(
        model, data, marks=[] if model == GROUPS["model"][0] or data == GROUPS["data"][0] else pytest.mark.slow
    )
    for data in GROUPS["data"]
    for model in GROUPS["model"]
]
"""Every model with one data group and every data group with one model; the other pairs in the long tier."""


@pytest.mark.parametrize(("model", "data"), PAIRS)
def test_training_composes_with_each_choice(monkeypatch: pytest.MonkeyPatch, model: str, data: str) -> None:
    choices = [f"model={model}", f"data={data}", "model.path=somewhere"]
    config = composed(monkeypatch, train_cli.main, [*TRAIN, *choices])
    assert isinstance(config, TrainConfig)
    assert config.data.files == ["rows.jsonl"] and config.model.path == "somewhere"


PUBLISHED = {"public": 1_383_877, "vl_hq": 1_729_368}


@pytest.mark.parametrize("sources", GROUPS["data/sources"])
def test_every_set_of_sources_has_a_data_choice(monkeypatch: pytest.MonkeyPatch, sources: str) -> None:
    monkeypatch.setenv("REASONIR_DATA", "/elsewhere")
    config = composed(monkeypatch, train_cli.main, ["output_dir=out", f"data={sources}"])
    content = yaml.safe_load((CONFIGS / "data" / "sources" / f"{sources}.yaml").read_text(encoding="utf-8"))
    assert list(config.data.sources) == list(content)
    assert config.data.published_rows == PUBLISHED.get(sources)
    for name, source in config.data.sources.items():
        assert source.path.startswith(("/elsewhere/", "hub:reasonir/reasonir-data:")), name
        # The public rows bring no instruction, the others their own.
        assert bool(source.instruction) == (sources == "public"), name


@pytest.mark.seconds(15)
def test_the_papers_mixture_is_its_three_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed(monkeypatch, train_cli.main, ["output_dir=out", "data=vl_hq"])
    parts = [composed(monkeypatch, train_cli.main, ["output_dir=out", f"data={p}"]) for p in ("public", "vl", "hq")]
    together = {name: source for part in parts for name, source in part.data.sources.items()}
    assert config.data.sources == together and len(together) == 15
    assert parts[0].data.published_rows + sum(s.rows or 0 for s in together.values()) == config.data.published_rows
    assert together["hq"].documents == ["hub:xlangai/BRIGHT"]
    assert len({source.instruction for source in parts[0].data.sources.values()}) == 13
    some = composed(monkeypatch, train_cli.main, ["output_dir=out", "data=vl_hq", "data/sources=[vl,hq]"])
    assert list(some.data.sources) == ["vl", "hq"]


def test_named_sources_take_overrides_additions_and_removals(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["data=vl_hq", "data.sources.vl.path=x.jsonl", "data.sources.hq.documents=[bright]", "~data.sources.nq"]
    options += ["+data.sources={more: {path: y.parquet, min_positive_words: 2}}"]
    sources = composed(monkeypatch, train_cli.main, ["output_dir=out", *options]).data.sources
    assert sources["vl"] == SourceConfig(path="x.jsonl", rows=244_970)
    assert sources["hq"].documents == ["bright"] and "nq" not in sources
    assert sources["more"] == SourceConfig(path="y.parquet", min_positive_words=2)


def test_named_sources_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed(monkeypatch, train_cli.main, ["output_dir=out", "data=vl_hq"])
    text = command.to_yaml(config)
    assert command.changed_fields(text, config) == []
    assert yaml.safe_load(text)["data"]["sources"]["hq"]["documents"] == ["hub:xlangai/BRIGHT"]
    config.data.sources["vl"].min_positive_words = 2
    del config.data.sources["trivia_qa"]
    changed = command.changed_fields(text, config)
    assert "data.sources.vl.min_positive_words: 0 -> 2" in changed
    assert any(line.startswith("data.sources.trivia_qa.path: ") for line in changed)


def test_help_shows_what_a_named_source_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_cli.main(["--help"])
    page = capsys.readouterr().out
    rows = help_page.option_rows(SourceConfig, "data.sources.NAME.")
    assert len(rows) == 9
    assert all(f"  {name}  ({kind})" in page and document.split()[0] in page for name, kind, document in rows)
    assert "data.sources  (dict[str, SourceConfig])" in page


@pytest.mark.parametrize("parallel", GROUPS["parallel"])
def test_every_engine_composes(monkeypatch: pytest.MonkeyPatch, parallel: str) -> None:
    config = composed(monkeypatch, train_cli.main, [*TRAIN, f"parallel={parallel}"])
    assert config.parallel.engine == parallel.split("_")[0]
    stage = config.parallel.deepspeed.get("zero_optimization", {}).get("stage")
    assert stage == (int(parallel[4]) if parallel.startswith("zero") else None)


@pytest.mark.parametrize("lora", GROUPS["lora"])
def test_every_adapter_composes(monkeypatch: pytest.MonkeyPatch, lora: str) -> None:
    config = composed(monkeypatch, train_cli.main, [*TRAIN, f"lora={lora}"])
    assert (config.lora.rank > 0) == (lora != "none") and config.lora.dora == (lora == "dora")
    # Adapters have numbers of their own; without them every number is the paper's.
    expected = (2e-5, None, 0.0) if lora == "none" else (1e-4, 0.1, 0.05)
    assert (config.learning_rate, config.warmup_ratio, config.lora.dropout) == expected
    assert (config.warmup_steps, config.weight_decay, config.lora.alpha) == (60, 0.0, 32.0)


def test_what_the_user_or_an_experiment_gives_outranks_the_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    given = composed(monkeypatch, train_cli.main, [*TRAIN, "lora=lora", "learning_rate=3e-4", "warmup_ratio=null"])
    assert (given.learning_rate, given.warmup_ratio, given.lora.dropout) == (3e-4, None, 0.05)
    # The paper's rate and warm-up are the defaults; its experiment leaves those of adapters alone.
    paper, adapted = (
        composed(monkeypatch, train_cli.main, [*TRAIN, "+experiment=vl_hq", f"lora={lora}"])
        for lora in ("none", "dora")
    )
    assert (paper.learning_rate, paper.warmup_steps, paper.warmup_ratio) == (2e-5, 60, None)
    assert (adapted.learning_rate, adapted.warmup_ratio, adapted.lora.dora) == (1e-4, 0.1, True)
    own = composed(monkeypatch, train_cli.main, [*TRAIN, "+experiment=quickstart", "lora=lora"])
    assert (own.learning_rate, own.lora.dropout) == (3e-4, 0.05)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("data.files=rows.jsonl", ["rows.jsonl"]),
        ("data.files=[a.jsonl,b.jsonl]", ["a.jsonl", "b.jsonl"]),
        ("data.files='with space, comma.jsonl'", ["with space, comma.jsonl"]),
        ("data.files=hub:owner/name:config:split", ["hub:owner/name:config:split"]),
        ("data.files=${oc.decode:'[x]'}", ["x"]),
    ],
)
def test_a_list_takes_a_single_value(monkeypatch: pytest.MonkeyPatch, word: str, expected: list[str]) -> None:
    assert composed(monkeypatch, train_cli.main, ["output_dir=out", word]).data.files == expected


def test_every_kind_of_list_takes_a_single_value(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["data=vl", "data.documents=corpus", "data.sources.vl.documents=bright", "lora.targets=q_proj"]
    config = composed(monkeypatch, train_cli.main, ["output_dir=out", *words, "++data.weights=2"])
    assert (config.data.documents, config.data.sources["vl"].documents) == (["corpus"], ["bright"])
    assert (config.lora.targets, config.data.weights) == (["q_proj"], [2.0])
    assert composed(monkeypatch, train_cli.main, [*TRAIN, "data.documents=null"]).data.documents is None
    bright = composed(monkeypatch, eval_cli.main, ["bright", "data.dir=d", "retriever=bm25", "tasks=biology"])
    assert bright.tasks == ["biology"]


def test_deepspeed_json_takes_new_keys_with_a_plus(monkeypatch: pytest.MonkeyPatch) -> None:
    added = "+parallel.deepspeed.zero_optimization.round_robin_gradients=true"
    config = composed(monkeypatch, train_cli.main, [*TRAIN, "parallel=zero2", added])
    assert config.parallel.deepspeed["zero_optimization"]["round_robin_gradients"] is True


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_composes_and_names_its_origin(monkeypatch: pytest.MonkeyPatch, experiment: str) -> None:
    # The bare command of the header: an experiment has its own output folder.
    config = composed(monkeypatch, train_cli.main, [f"+experiment={experiment}"])
    file = CONFIGS / "experiment" / f"{experiment}.yaml"
    text = file.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    for name, value in help_page.flatten(content).items():
        if name != "defaults":
            changed = config
            for part in name.split("."):
                changed = getattr(changed, part)
            assert changed == value, name
    assert text.startswith("# @package _global_\n# ")
    assert config.output_dir.startswith("outputs/") and f"+experiment={experiment}" in text
    for heading in ("Command:", "Hardware:", "Expected:"):
        assert heading in text.split("defaults:")[0]


@pytest.mark.parametrize("ablation", ["public", "vl", "hq", "eq"])
def test_an_ablation_differs_from_the_paper_in_its_data_only(monkeypatch: pytest.MonkeyPatch, ablation: str) -> None:
    paper, other = (composed(monkeypatch, train_cli.main, [f"+experiment={name}"]) for name in ("vl_hq", ablation))
    assert (paper.global_batch_queries, paper.max_steps, paper.parallel.engine) == (2048, 1000, "zero2")
    changed = command.changed_fields(command.to_yaml(paper), other)
    assert changed and all(line.startswith(("data.", "output_dir: ")) for line in changed)
    assert f"output_dir: outputs/vl_hq -> outputs/{ablation}" in changed
    assert list(other.data.sources) == list(yaml.safe_load((CONFIGS / f"data/sources/{ablation}.yaml").read_text()))


@pytest.mark.parametrize(("ablation", "difference"), [
    ("attention_causal", "model.attention: auto -> causal"),
    ("pooling_last", "model.pooling: auto -> last"),
    ("pooling_cls", "model.pooling: auto -> cls"),
    ("instruction_pooled", "model.pool_instruction: None -> True"),
])  # fmt: skip
def test_an_ablation_of_the_model_differs_from_the_paper_in_one_option(
    monkeypatch: pytest.MonkeyPatch, ablation: str, difference: str
) -> None:
    paper, other = (composed(monkeypatch, train_cli.main, [f"+experiment={name}"]) for name in ("vl_hq", ablation))
    changed = command.changed_fields(command.to_yaml(paper), other)
    assert changed == [difference, f"output_dir: outputs/vl_hq -> outputs/{ablation}"]
    assert composed(monkeypatch, train_cli.main, [*TRAIN, "model.pool_instruction=false"]).model.embedding == {
        "template": "auto", "attention": "auto", "pooling": "auto", "pool_instruction": False
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "schema"),
    [
        (["bright", "data.dir=d", "retriever=bm25"], eval_config.BrightConfig),
        (["bright", "data.hub=xlangai/BRIGHT", "model.path=m", "tasks=[a,b]"], eval_config.BrightConfig),
        (["beir", "data.dir=d", "retriever=bm25_query_weighted", "split=dev"], eval_config.BeirConfig),
        (["score", "run=r", "qrels=q"], eval_config.ScoreConfig),
        (["fuse", "runs=[a,b]", "output=o", "method=rrf"], FuseConfig),
        (
            ["encode", "input=i", "model.path=m", "side=query", "instruction=Find it"],
            EncodeConfig,
        ),
    ],
)
def test_evaluation_tasks_compose(monkeypatch: pytest.MonkeyPatch, arguments: list[str], schema: type) -> None:
    assert type(composed(monkeypatch, eval_cli.main, arguments)) is schema


def refusal(capsys: pytest.CaptureFixture[str], main: Any, arguments: list[str]) -> str:
    """Return the one line of a refused command; nothing may have been written."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    captured = capsys.readouterr()
    assert exit_info.value.code == 2, captured.err
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n"), captured.err
    assert captured.out == ""
    assert list(Path().iterdir()) == []
    return captured.err


TRAIN_REFUSALS = [
    (["learning_rat=1"], "unknown option 'learning_rat'; did you mean learning_rate"),
    (["model.pth=x"], "did you mean model.path"),
    (["+learning_rat=1"], "unknown option 'learning_rat'; did you mean learning_rate"),
    (["++zzz=1"], "unknown option 'zzz'"),
    (["+model.pth=x"], "pth"),
    (["max_steps=abc"], "max_steps=abc"),
    (["global_batch_queries=3.5"], "global_batch_queries=3.5"),
    (["resume=maybe"], "resume=maybe"),
    (["data.files={a: b}"], "data.files={a: b}"),
    (["schedule=step"], "expected one of [constant, linear, cosine, wsd]"),
    (["warmup_ratio=2"], "warmup_ratio=2.0 must lie in [0, 1]"),
    (["decay_ratio=0"], "decay_ratio=0.0 must lie in (0, 1]"),
    (["final_rate_ratio=-1"], "final_rate_ratio=-1.0"),
    (["adam_betas=[0.9]"], "adam_betas=[0.9] must be two numbers"),
    (["adam_betas=[0.9,1]"], "adam_betas=[0.9, 1.0] must lie in [0, 1)"),
    (["adam_eps=0"], "adam_eps=0.0"),
    (["data.weights=[x]"], "data.weights"),
    (["precision=fp8"], "expected one of [auto, fp32, bf16]"),
    (["parallel=nothing"], "parallel/nothing"),
    (["parallel=zero2", "parallel.deepspeed.zero_optimization.stag=1"], "stag"),
    (["parallel.collective_timeout_seconds=0"], "parallel.collective_timeout_seconds=0"),
    (["lora=lora", "lora.targets=[]"], "lora.targets is empty"),
    (["lora.rank=-1"], "lora.rank=-1"),
    (["lora.dropout=1"], "lora.dropout=1"),
    (["lora.alpha=0"], "lora.alpha=0"),
    (["planned_ranks=0"], "planned_ranks=0"),
    ([f"seed={2**64}"], f"seed={2**64} must lie in [0, 9.22337e+18]"),
    (["push_to_hub=../x"], "push_to_hub=../x must be owner/name"),
    (["push_to_hub=a/b/c"], "push_to_hub=a/b/c must be owner/name"),
    (["dry_run=true", "planned_ranks=3", "parallel=ddp"], "does not divide by 3 ranks"),
    (["dry_run=true", "planned_ranks=2"], "parallel=single cannot use 2 ranks"),
    (["model.attention=both"], "expected one of [auto, bidirectional, causal]"),
    (["model.pooling=max"], "expected one of [auto, mean, last, cls]"),
    (["model.pool_instruction=maybe"], "model.pool_instruction=maybe"),
    (["model.attention=causal", "model.pooling=cls"], "all texts would get the same embedding"),
    (["model.template=qwen3", "model.pool_instruction=true"], "model.pooling=last takes the state of one token"),
    (["model.dtype=bf16"], "model.dtype=bf16 is for weights that do not train; add lora=lora"),
    (["model.dtype=bf16", "lora=lora", "precision=fp32"], "precision=fp32 must be bf16 or auto with model.dtype=bf16"),
    (["model.dtype=nf4", "lora=lora", "parallel=zero3"], "parallel=zero3 cannot shard model.dtype=nf4"),
    (["model.dtype=nf4", "lora=lora"], "model.dtype=nf4 needs the bitsandbytes package"),
    (
        ["optimizer=adamw_8bit"],
        "optimizer=adamw_8bit needs the bitsandbytes package: pip install 'reasonir[adamw-8bit]'",
    ),
    (["optimizer=adamw_8bit", "parallel=fsdp2"], "parallel=fsdp2 cannot shard optimizer=adamw_8bit"),
    (["compile=true", "parallel=zero3"], "parallel=zero3 cannot run compiled"),
    (["optimizer=sgd"], "expected one of [adamw, adamw_8bit]"),
    (["planned_gpu=b300"], "expected one of [h100, a100_80, a100_40, rtx4090, t4]"),
    (["planned_gpu=t4", "planned_memory_gib=20"], "planned_memory_gib and planned_gpu exclude each other"),
    (["planned_mfu=0"], "planned_mfu=0"),
    (["model=nothing"], "model/nothing"),
    (["+experiment=nothing"], "experiment/nothing"),
    (["experiment=quickstart"], "experiment"),
    (["something"], "a word is no option; options are name=value"),
    (["--something"], "--something"),
    (["~seed"], "seed"),
    (["data.files=[]"], "data.files is empty"),
    (["data.weights=[1,2]"], "data.weights has 2 entries for 1 data.files"),
    (["data=vl", "+data.sources.vl.pth=1"], "'data.sources.vl.pth'; did you mean data.sources.vl.path"),
    (["data=vl", "data.sources.vl.pth=1"], "'data.sources.vl.pth'; did you mean data.sources.vl.path"),
    (["data=vl", "data.sources.vl=3"], "data.sources.vl"),
    (["data=vl", "data.sources.vll.path=x"], "has no entry 'vll'; add one with '+data.sources={vll: {path: VALUE}}'"),
    (["+data.sources.new.path=x"], "has no entry 'new'; add one with '+data.sources={new: {path: VALUE}}'"),
    (["+data.sources={new: {pth: x}}"], "Key 'pth' not in 'SourceConfig'"),
    (["data.sources={new: {path: x}}"], "data.sources takes new entries with a plus"),
    (["+data.sources={new: {rows: 3}}"], "data.sources.new.path is missing: give data.sources.new.path=FILE"),
    (["data=vl", "data.sources.vl.path="], "data.sources.vl.path is missing"),
    (["data=vl", "data.sources.vl.rows=abc"], "data.sources.vl.rows=abc"),
    (["data=vl", "data.sources.vl.instruction=3"], "data.sources.vl.instruction=3 must be a text or a list of texts"),
    (["data=vl", "data.sources.vl.instruction=[]"], "data.sources.vl.instruction=[]"),
    (["data=vl", "data.sources.vl.global_batch_queries=0"], "data.sources.vl.global_batch_queries=0 must be 1 or more"),
    (["data=vl", "data.sources.vl.negatives_per_query=-1"], "data.sources.vl.negatives_per_query=-1"),
    (
        ["data=vl", "data.sources.vl.global_batch_queries=9", "dry_run=true", "planned_ranks=2", "parallel=ddp"],
        "data.sources.vl.global_batch_queries=9 does not divide by 2 ranks",
    ),
    (["data=vl", "data.sources.vl.rows=0"], "data.sources.vl.rows=0"),
    (["data=vl", "data.sources.vl.min_positive_words=-1"], "data.sources.vl.min_positive_words=-1"),
    (["data=vl", "data.published_rows=0"], "data.published_rows=0"),
    (["data=vl", "data.weights=[1]"], "data.weights has 1 entries for 1 data.files and 1 data.sources"),
    (["data=vl", "data.sources.vl.weight=1"], "data.sources.vl.weight: not all sources have one"),
    (["data=vl", "data.sources.vl.weight=1", "data.weights=[1,2]"], "exclude each other"),
    (["data=vl", "data.files=[]", "data.sources.vl.weight=-1"], "data.sources.*.weight=[-1.0]"),
    (["data.weights=[0]"], "data.weights=[0"),
    (["data.weights=[-1]"], "data.weights=[-1"),
    (["data.weights=[nan]"], "data.weights=[nan"),
    (["model.dropout=1"], "model.dropout=1"),
    (["model.heads=7"], "model.heads=7"),
    (["model.heads=0"], "model.heads=0"),
    (["model.key_value_heads=3"], "model.key_value_heads=3"),
    (["model.key_value_heads=0"], "model.key_value_heads=0"),
    (["model.layers=0"], "model.layers=0"),
    (["model.vocabulary_size=10"], "model.vocabulary_size=10"),
    (["model=folder"], "model.path"),
    (["global_batch_queries=0"], "global_batch_queries=0"),
    (["learning_rate=nan"], "learning_rate=nan"),
    (["profile_steps=[3]"], "profile_steps=[3] must be two steps"),
    (["profile_steps=[3,2]"], "profile_steps=[3, 2]"),
    (["profile_steps=[0,2]"], "profile_steps=[0, 2]"),
    (["data.processes=0"], "data.processes=0"),
    (["negatives.drop_above=3"], "negatives.drop_above=3.0 must lie in [-2, 2]"),
    (["negatives.drop_above=0"], "negatives.drop_above=0.0 must be positive with negatives.drop_by=share"),
    (["negatives.drop_by=percent"], "expected one of [share, margin]"),
]


@pytest.mark.parametrize(("options", "expected"), TRAIN_REFUSALS, ids=lambda value: str(value))
def test_training_refuses(capsys: pytest.CaptureFixture[str], options: list[str], expected: str) -> None:
    line = refusal(capsys, train_cli.main, [*TRAIN, *options])
    assert expected in line and line.startswith("reasonir-train: error: ")


POSITIVE = ["query_max_tokens", "document_max_tokens", "global_batch_queries", "chunk_tokens", "max_steps"]
POSITIVE += ["keep_checkpoints", "temperature", "learning_rate", "epochs"]
NOT_NEGATIVE = ["seed", "negatives_per_query", "graph_memory_gib", "warmup_steps", "weight_decay"]
NOT_NEGATIVE += ["max_gradient_norm", "save_every_steps"]


def test_values_out_of_range_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed(monkeypatch, train_cli.main, list(TRAIN))
    tried = [(name, value) for name in POSITIVE for value in (0, -1)] + [(name, -1) for name in NOT_NEGATIVE]
    floats = [
        "temperature",
        "learning_rate",
        "epochs",
        "weight_decay",
        "graph_memory_gib",
        "max_gradient_norm",
    ]
    tried += [(name, math.nan) for name in floats]
    tried += [(name, math.inf) for name in ("temperature", "learning_rate", "epochs", "weight_decay")]
    accepted = []
    for name, value in tried:
        before = getattr(config, name)
        setattr(config, name, value)
        try:
            command.validate_tree(config)
            accepted.append(f"{name}={value}")
        except UserError as error:
            assert str(error).startswith(f"{name}={value} ")
        setattr(config, name, before)
    command.validate_tree(config)
    assert accepted == []


def test_training_needs_an_output_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert "output_dir is missing: give output_dir=VALUE" in refusal(capsys, train_cli.main, [TRAIN[1]])


def test_global_batch_must_divide_by_the_ranks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    line = refusal(capsys, train_cli.main, [*TRAIN, "global_batch_queries=64"])
    assert "global_batch_queries=64 does not divide by 3 ranks" in line
    # The same batch over ranks that divide it fails, if at all, for another reason.
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "divide" not in refusal(capsys, train_cli.main, [*TRAIN, "global_batch_queries=64"])


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "zero3"),
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp2"),
    ],
)
def test_another_engine_than_accelerates_configuration_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], named: str
) -> None:
    right = composed(monkeypatch, train_cli.main, [*TRAIN, f"parallel={named}"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    line = refusal(capsys, train_cli.main, [*TRAIN, "parallel=ddp"])
    assert f"parallel=ddp contradicts accelerate's configuration, which is for {named}; give parallel={named}" in line
    right.validate_ranks()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nothing"], "unknown task 'nothing'; one of bright, beir, score"),
        (["bright", "data.dir=d"], "model.path is missing"),
        (["bright", "retriever=bm25"], "data.dir=FOLDER"),
        (["bright", "retriever=bm25", "data.dir=d", "data.hub=h"], "give one of data.dir"),
        (["bright", "retriever=tfidf", "data.dir=d"], "retriever=tfidf"),
        (["bright", "retriever=bm25", "data.dir=d", "tpo=3"], "unknown option 'tpo'; did you mean top?"),
        (["bright", "retriever=bm25", "data.dir=d", "top=0"], "top=0"),
        (["bright", "model.path=m", "data.dir=d", "query_max_tokens=0"], "query_max_tokens=0"),
        (["bright", "model.path=m", "data.dir=d", "chunk_tokens=-1"], "chunk_tokens=-1"),
        (["beir", "retriever=bm25"], "give one of data.dir"),
        (["bright", "retriever=hybrid", "data.dir=d"], "model.path is missing"),
        (["bright", "retriever=hybrid", "data.dir=d", "hybrid.weights=[1]"], "hybrid.weights=[1.0] must be 2 numbers"),
        (["bright", "retriever=hybrid", "data.dir=d", "hybrid.lexical=tfidf"], "hybrid.lexical=tfidf"),
        (["fuse", "runs=[a,b]"], "output is missing"),
        (["score", "run=r"], "qrels is missing"),
        (["score", "run=r", "qrels=q", "+outptu=o"], "did you mean output?"),
        (["encode", "input=i"], "model.path is missing"),
        (["encode", "input=i", "model.path=m", "side=both"], "side=both"),
        (["encode", "input=i", "model.path=m", "dtype=int8"], "dtype=int8"),
        (["encode", "input=i", "model.path=m", "max_tokens=0"], "max_tokens=0"),
        (["encode", "input=i", "model.path=m", "instruction=Find it"], "instruction belongs to side=query"),
    ],
    ids=lambda value: str(value),
)
def test_evaluation_refuses(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    line = refusal(capsys, eval_cli.main, arguments)
    assert expected in line and line.startswith("reasonir-eval")


def test_a_refusal_shows_its_traceback_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="seed"):
        train_cli.main([*TRAIN, "seed=-1", "debug=true"])
    assert capsys.readouterr().err == ""


def test_our_own_failure_is_no_user_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(train_cli, "_train", broken)
    with pytest.raises(RuntimeError, match="ours"):
        train_cli.main(list(TRAIN))


def test_yaml_round_trip_and_changed_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed(monkeypatch, train_cli.main, [*TRAIN, "data.weights=[2.0]", "precision=bf16"])
    text = command.to_yaml(config)
    assert command.changed_fields(text, config) == []
    assert yaml.safe_load(text)["data"]["weights"] == [2.0]
    # Every option is in the file, so a stored configuration is whole.
    stored = set(help_page.flatten(yaml.safe_load(text)))
    assert stored == {name for name, _, _ in help_page.option_rows(TrainConfig)}
    config.learning_rate, config.model.layers, config.output_dir = 0.5, 2, "other"
    changed = command.changed_fields(text, config, ignored=("output_dir",))
    assert changed == ["learning_rate: 2e-05 -> 0.5", "model.layers: 4 -> 2"]


@pytest.mark.parametrize(("schema", "main", "task"), [
    (TrainConfig, train_cli.main, []),
    *((schema, eval_cli.main, [task]) for task, (schema, _) in eval_cli.TASKS.items()),
])  # fmt: skip
def test_help_names_every_option_with_its_meaning(
    capsys: pytest.CaptureFixture[str], schema: type, main: Any, task: list[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*task, "--help"])
    assert exit_info.value.code == 0
    page = capsys.readouterr().out
    rows = help_page.option_rows(schema)
    assert len(rows) >= 5
    for name, kind, document in rows:
        assert f"  {name}  ({kind})" in page
        assert document, f"{name} has no docstring"
        assert document.split()[0] in page


def test_help_of_evaluation_lists_the_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        eval_cli.main(["--help"])
    page = capsys.readouterr().out
    assert all(f"  {task}" in page for task in eval_cli.TASKS)


def children_cpu_seconds() -> float:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("arguments", [("train", "--help"), ("eval", "--help"), ("eval", "bright", "--help")])
def test_help_is_instant(arguments: tuple[str, ...]) -> None:
    """Processor time, which neighbours on the machine do not lengthen as they do wall time."""
    stage, *rest = arguments
    seconds = []
    for _ in range(3):
        before = children_cpu_seconds()
        command = [sys.executable, "-c", HELP_PROGRAM.format(stage), *rest]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(children_cpu_seconds() - before)
        assert done.stdout.startswith(f"usage: reasonir-{stage}") and done.stderr == ""
    assert statistics.median(seconds) < HELP_SECONDS


def test_command_lines_import_nothing_slow() -> None:
    program = (
        "import sys, contextlib, io\n"
        "from reasonir.train import cli, config\n"
        "from reasonir.eval import cli as eval_cli\n"
        "from reasonir.eval.benchmarks import config\n"
        "for main, argv in ((cli.main, ['--help']), (eval_cli.main, ['bright', '--help'])):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        main(argv)\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'datasets', 'hydra'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []
