"""Every recipe of reasonir-synth composes, refuses by name, and explains its options at once."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reasonir.core import help as help_page
from reasonir.core.command import changed_fields, to_yaml
from reasonir.synth import cli
from reasonir.synth.config import MAY_DIFFER, GatesConfig, JudgeConfig, VariedLengthConfig, parse_shard
from tests.kit.composing import composed

CONFIGS = help_page.find_configs()
GENERATORS = sorted(path.stem for path in (CONFIGS / "generator").glob("*.yaml"))
SERVER = ["generator.base_url=http://127.0.0.1:1/v1", "generator.model=m"]
NEEDED = {
    "filter": ["corpus=c"], "hq": ["corpus=c", *SERVER], "eq": ["corpus=c", *SERVER], "vl": SERVER,
    "negatives": ["rows=r", *SERVER], "rewrite": ["rows=r", *SERVER], "merge": ["inputs=[a,b]"],
    "mine": ["rows=r", "corpus=c"], "split": ["rows=r", "corpus=c"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_yaml_is_composed_here() -> None:
    recipes = {path.stem for path in (CONFIGS / "synth").glob("*.yaml")} - {"writing", "judging"}
    assert recipes == set(cli.RECIPES) == set(NEEDED)


@pytest.mark.parametrize("recipe", cli.RECIPES)
def test_a_recipe_composes(monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    config = composed(monkeypatch, cli.main, [f"recipe={recipe}", "output_dir=out", *NEEDED[recipe]])
    assert type(config) is cli.RECIPES[recipe][0] and config.recipe == recipe


def test_recipes_have_the_paper_s_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    hq, vl, negatives, rewrite = (
        composed(monkeypatch, cli.main, [f"recipe={name}", "output_dir=out", *NEEDED[name]])
        for name in ("hq", "vl", "negatives", "rewrite")
    )
    assert (hq.generator.temperature, hq.generator.max_new_tokens) == (0.0, 1536)
    assert vl.query_words == [300, 2000] and vl.tasks_per_call == 20
    assert negatives.gates.min_words == 300
    assert (rewrite.generator.temperature, rewrite.generator.top_p) == (0.8, 0.8)


@pytest.mark.parametrize("generator", [name for name in GENERATORS if name != "vllm"])
def test_any_generator_serves_any_recipe_and_keeps_the_recipe_s_sampling(
    monkeypatch: pytest.MonkeyPatch, generator: str
) -> None:
    chosen = ["recipe=hq", "output_dir=o", f"generator={generator}", *NEEDED["hq"]]
    config = composed(monkeypatch, cli.main, [*chosen, "generator.top_p=0.5"])
    assert config.generator.engine.value == generator
    assert (config.generator.temperature, config.generator.top_p) == (0.0, 0.5)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_mappings_for_the_server_take_any_key(monkeypatch: pytest.MonkeyPatch, plus: str) -> None:
    chosen = ["recipe=hq", "output_dir=o", *NEEDED["hq"]]
    words = ["generator.extra_body={reasoning: {effort: low}}", "generator.chat_template_kwargs.enable_thinking=false"]
    generator = composed(monkeypatch, cli.main, [*chosen, *(f"{plus}{word}" for word in words)]).generator
    assert generator.extra_body == {"reasoning": {"effort": "low"}}
    assert generator.chat_template_kwargs == {"enable_thinking": False}
    assert generator.key_options() == {
        "chat_template_kwargs": {"enable_thinking": False},
        "extra_body": {"reasoning": {"effort": "low"}},
    }


def test_a_folder_of_before_the_server_s_options_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed(monkeypatch, cli.main, ["recipe=hq", "output_dir=o", *NEEDED["hq"]])
    stored = yaml.safe_load(to_yaml(config))
    new = ("base_urls", "top_k", "min_p", "repetition_penalty", "send_seed", "chat_template_kwargs", "extra_body",
           "thinking_tokens", "finish_seconds")  # fmt: skip
    for name in new:
        del stored["generator"][name]
    assert changed_fields(yaml.safe_dump(stored), config, MAY_DIFFER) == []
    stored["generator"]["extra_body"] = {"x": 1}
    assert changed_fields(yaml.safe_dump(stored), config, MAY_DIFFER) == ["generator.extra_body.x: 1 -> None"]


def test_judge_is_short_for_judge_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert composed(monkeypatch, cli.main, ["recipe=hq", "output_dir=o", *NEEDED["hq"], "judge=true"]).judge.enabled
    assert not composed(monkeypatch, cli.main, ["recipe=hq", "output_dir=o", *NEEDED["hq"]]).judge.enabled


def test_every_gate_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    switches = "language refusals boilerplate self_contained no_content headings task_talk task_lines mixed_scripts"
    switches += " duplicates questions names_idea"
    off = [f"{name}=false" for name in switches.split()] + [
        "min_words=1",
        "max_words=null",
        "max_repetition=1",
        "max_gibberish=1",
    ]
    off += [f"{name}=0" for name in ("copied_words", "echo_words", "near_duplicate", "length_ratio")]
    assert {entry.partition("=")[0] for entry in off} == {name for name, _, _ in help_page.option_rows(GatesConfig)}
    for recipe in ("hq", "eq", "vl", "negatives", "rewrite"):
        arguments = [f"recipe={recipe}", "output_dir=o", *NEEDED[recipe], *(f"gates.{entry}" for entry in off)]
        assert composed(monkeypatch, cli.main, arguments).gates.min_words == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "0 recipes given; recipe= one of filter, hq"),
        (["recipe=hqq"], "unknown recipe 'hqq'; recipe= one of filter, hq"),
        (["recipe=hq", "recipe=eq"], "2 recipes given"),
        (["recipe=hq", *SERVER], "corpus is missing"),
        (["recipe=hq", *NEEDED["hq"], "corpsu=c"], "unknown option 'corpsu'; did you mean corpus"),
        (["recipe=hq", *NEEDED["hq"], "pairs=3"], "unknown option 'pairs'"),
        (["recipe=hq", *NEEDED["hq"], "gates.min_word=3"], "did you mean gates.min_words"),
        (["recipe=hq", *NEEDED["hq"], "gates.min_words=0"], "gates.min_words=0"),
        (["recipe=hq", *NEEDED["hq"], "gates.max_words=3"], "gates.max_words=3"),
        (["recipe=hq", *NEEDED["hq"], "gates.near_duplicate=2"], "gates.near_duplicate=2"),
        (["recipe=hq", *NEEDED["hq"], "judge.positive_min=6"], "judge.positive_min=6"),
        (["recipe=hq", *NEEDED["hq"], "shard=3/3"], "shard=3/3 must be i/n"),
        (["recipe=hq", *NEEDED["hq"], "limit=0"], "limit=0"),
        (["recipe=hq", *NEEDED["hq"], "report_model=./gone"], "report_model=./gone: no such folder"),
        (["recipe=hq", *NEEDED["hq"], "positive=both"], "positive=both"),
        (["recipe=hq", *NEEDED["hq"]], "c: no corpus here"),
        (["recipe=vl", *NEEDED["vl"], "query_words=[9,3]"], "query_words=[9, 3]"),
        (["recipe=vl", *NEEDED["vl"], "shard=0/2"], "make the tasks once"),
        (["recipe=vl", *NEEDED["vl"], "tasks=t.jsonl"], "t.jsonl: no such file"),
        (["recipe=negatives", *NEEDED["negatives"], "negatives_per_row=0"], "negatives_per_row=0"),
        (["recipe=rewrite", *NEEDED["rewrite"], "length_tokens=0"], "length_tokens=0"),
        (["recipe=split", *NEEDED["split"]], "c: no corpus here"),
        (["recipe=split", *NEEDED["split"], "test_share=1"], "test_share=1.0 must lie in (0, 1)"),
        (["recipe=merge"], "inputs is empty"),
        (["recipe=merge", "inputs=[a]"], "a is no output folder"),
        (["recipe=merge", "inputs=[a]", "report_model=/gone"], "report_model=/gone: no such folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main([*arguments, "output_dir=out"])
    captured = capsys.readouterr()
    assert exit_info.value.code == 2 and captured.err.count("\n") == 1 and captured.out == ""
    assert expected in captured.err and captured.err.startswith("reasonir-synth: error: ")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("recipe", cli.RECIPES)
def test_help_names_every_option_with_its_meaning(capsys: pytest.CaptureFixture[str], recipe: str) -> None:
    with pytest.raises(SystemExit):
        cli.main([f"recipe={recipe}", "--help"])
    page = capsys.readouterr().out
    for name, kind, document in help_page.option_rows(cli.RECIPES[recipe][0]):
        assert f"  {name}  ({kind})" in page and document, name
    if recipe == "hq":
        assert "generator=  one of: openai" in page and "gates.min_words  (int) [20]" in page


def test_help_lists_the_recipes_and_imports_nothing_slow() -> None:
    program = (
        "import sys, contextlib, io\n"
        "from reasonir.synth import cli\n"
        "out = io.StringIO()\n"
        "for argv in (['--help'], ['recipe=vl', '--help']):\n"
        "    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):\n"
        "        cli.main(argv)\n"
        f"assert all(f'  {{name}}' in out.getvalue() for name in {list(cli.RECIPES)!r})\n"
        "slow = {'torch', 'transformers', 'numpy', 'datasets', 'hydra', 'jinja2', 'openai', 'matplotlib'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []


def test_the_writing_path_loads_neither_torch_nor_numpy() -> None:
    slow = "{'torch', 'numpy', 'scipy', 'matplotlib'}"
    program = f"import sys, reasonir.synth.pipeline\nprint(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []


def test_shards_and_their_dataclass() -> None:
    assert parse_shard("2/7") == (2, 7)
    assert {"tasks", "judge.enabled"} <= {name for name, _, _ in help_page.option_rows(VariedLengthConfig)}
    assert {name for name, _, _ in help_page.option_rows(JudgeConfig)} >= {"relevant_negative"}
