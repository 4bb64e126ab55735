"""The card of a trained model: true numbers, code that runs, measured sections; the upload of its folder."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from reasonir.core.errors import UserError
from reasonir.eval.cli import main as evaluate
from reasonir.model import Encoder
from reasonir.model.card import describe_pooling, replace_section, section
from reasonir.model.pooling import pool
from reasonir.model.presets import PRESETS
from reasonir.model.trunk.bidirectional import Attention
from reasonir.text.markdown import markdown_table
from reasonir.train.cli import main as train
from tests.kit.launch import launch
from tests.kit.texts import INSTRUCTION, SENTENCES, tiny_training, write_rows

STEPS = 5
TOKEN = "hf_sesame0sesame0sesame0"


def run(command, *arguments: str) -> None:
    with pytest.raises(SystemExit) as done:
        command(list(arguments))
    assert done.value.code == 0


def bright_folder(root: Path) -> Path:
    """A task of four documents and two queries, in BRIGHT's form."""
    (root / "pots").mkdir(parents=True)
    write_rows(root / "pots" / "documents.jsonl", [{"id": f"d{i}", "content": SENTENCES[i]} for i in range(4)])
    queries = [{"id": f"q{i}", "query": f"why, {i}?", "excluded_ids": [], "gold_ids": [f"d{i}"]} for i in range(2)]
    write_rows(root / "pots" / "examples.jsonl", queries)
    return root


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    """Three sources: two files of texts, and one that names documents of an evaluation."""
    root = tmp_path_factory.mktemp("card")
    bright = bright_folder(root / "tasks")
    seeds = [{"query": [INSTRUCTION, f"hard {i}"], "pos": [f"d{i}"], "neg": [SENTENCES[5]]} for i in range(4)]
    rows = write_rows(root / "hard.jsonl", seeds)
    source = f"{{path: {rows}, documents: [{bright}], licence: cc-by-4.0}}"
    return [*tiny_training(root, STEPS), f"+data.sources={{hard: {source}}}", f"output_dir={root}/run",
            "save_every_steps=0", "query_max_tokens=90", "document_max_tokens=90",
            "model.licence=apache-2.0"]  # fmt: skip


@pytest.fixture(scope="module")
def model(options) -> Path:
    run(train, *options)
    return Path(next(option for option in options if option.startswith("output_dir=")).split("=")[1]) / "model"


@pytest.mark.parametrize("preset", PRESETS)
def test_its_words_and_code_pool_as_the_encoder_does(preset):
    recipe = PRESETS[preset]
    said = describe_pooling(recipe.pooling, recipe.attention, recipe.pools_prompt)
    states = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    pooled = torch.arange(7) >= 3
    prefix = 0 if recipe.pools_prompt else 3
    expected = pool(states, torch.tensor([7]), torch.tensor([prefix]), recipe.pooling)[0]
    found = torch.nn.functional.normalize(eval(said["pooled_state"], {"states": states, "pooled": pooled}), dim=0)
    torch.testing.assert_close(found, expected)
    assert ("both directions" in said["attention"]) == (recipe.attention is Attention.bidirectional)


def test_the_card_tells_what_the_run_counted(model):
    text = (model / "README.md").read_text()
    manifest = json.loads((model.parent / "manifest.json").read_text())
    counts = manifest["counts"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if ".jsonl |" in line]
    assert [(row[0], row[1], row[2], row[5], row[7]) for row in rows] == [
        ("a.jsonl", "a.jsonl", "11", f"{counts['sources'][0]['rows_drawn']}", "not given"),
        ("b.jsonl", "b.jsonl", "7", f"{counts['sources'][1]['rows_drawn']}", "not given"),
        ("hard", "hard.jsonl", "4", f"{counts['sources'][2]['rows_drawn']}", "cc-by-4.0"),
    ]
    assert {row[6] for row in rows} == {INSTRUCTION}
    assert f"{STEPS} steps of 4 queries ({4 * STEPS} in all), {counts['tokens']:,} tokens" in text
    assert f"{manifest['model_parameters']:,} parameters" in text
    assert f"1 rank (single), precision {manifest['precision']}" in text
    for option in ("| `learning_rate` | 0.001 |", "| `warmup_steps` | 3 |", "| `temperature` | 0.02 |"):
        assert option in text
    assert "Rows of hard name documents of tasks by id" in text
    assert "Not measured: whether texts of an evaluation stand in the training data is not known" in text
    assert "rows=[a.jsonl,b.jsonl,hard.jsonl] documents=[tasks]" in text
    assert str(model.parent.parent) not in text, "a path of this machine"


def test_the_hub_library_reads_the_front_matter(model):
    from huggingface_hub import ModelCard

    data = ModelCard.load(model / "README.md").data
    assert (data.library_name, data.license, data.base_model) == ("sentence-transformers", "apache-2.0", None)
    assert {"sentence-transformers", "feature-extraction"} <= {*data.tags}


@pytest.mark.filterwarnings("ignore")  # sentence-transformers warns of its own renamed modules
def test_every_block_of_code_gives_the_same_embeddings(model, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (model / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(model)
    found = []
    for block in blocks:
        names: dict = {}
        exec(block, names)
        found.append(names)
    ours, theirs, bare = found
    assert np.abs(ours["documents"] - theirs["documents"]).max() < 1e-5
    assert np.abs(ours["queries"] - theirs["queries"]).max() < 1e-5
    assert np.abs(ours["documents"][0] - bare["document"].numpy()).max() < 1e-5
    asked = Encoder.from_pretrained(str(model)).encode(["why does rice take long here"], INSTRUCTION, max_tokens=90)
    assert np.array_equal(asked, ours["queries"]), "not the instruction of the training rows"


@pytest.mark.seconds(15)  # four commands
def test_scores_and_overlap_are_written_into_it_afterwards(model, options, tmp_path, capsys):
    tasks = bright_folder(tmp_path / "tasks")
    results, overlap = tmp_path / "results", tmp_path / "overlap"
    run(evaluate, "bright", f"data.dir={tasks}", f"model.path={model}", f"output_dir={results}")
    rows = model.parent.parent / "hard.jsonl"
    run(evaluate, "contamination", f"rows=[{rows}]", f"documents=[{tasks}]", f"data.dir={tasks}",
        f"output_dir={overlap}")  # fmt: skip
    before = (model / "README.md").read_text()
    for _ in range(2):
        run(evaluate, "card", f"model.path={model}", f"results=[{results}]", f"contamination={overlap}")
        text = (model / "README.md").read_text()
    ndcg = json.loads((results / "results.json").read_text())["average"]["ndcg_at_10"]
    assert text.count(f"| {100 * ndcg:.1f} | {100 * ndcg:.1f} |") == 1
    assert "tasks, retriever=dense, queries=original, long=False, instruction=bright" in text
    statement = json.loads((overlap / "contamination.json").read_text())["statement"]
    assert "4 documents are seeds of training rows by id, 2 of them gold" in statement
    assert statement in text
    assert "Compared: tasks with hard.jsonl (4 rows)." in text
    assert "Not measured" in before
    assert "Not measured" not in text
    assert text.split("## Evaluation")[0] == before.split("## Evaluation")[0]

    other = tmp_path / "other"
    capsys.readouterr()
    bm25 = tmp_path / "bm25"
    run(evaluate, "bright", f"data.dir={tasks}", "retriever=bm25", f"output_dir={bm25}")
    for wrong, said in (
        ([f"model.path={model}", f"results=[{bm25}]"], "were not measured with the weights"),
        ([f"model.path={other}", f"contamination={overlap}"], "README.md: no such file"),
        ([f"model.path={model}", f"contamination={other}"], "contamination.json: no such file"),
        ([f"model.path={model}"], "nothing to write"),
        ([f"model.path={model}", f"results=[{results}]", "metric=ndcg"], "metric=ndcg is not in results="),
    ):
        with pytest.raises(SystemExit) as done:
            evaluate(["card", *wrong])
        assert done.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line
    assert (model / "README.md").read_text() == text

    run(train, *options, "resume=true")
    assert "trained 5 steps" in capsys.readouterr().out
    assert (model / "README.md").read_text() == text, "a finished run started again forgets what was measured"


def test_a_section_is_found_by_its_comments_alone(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"# Mine\n\n{section('evaluation', 'old')}\n\nmore\n")
    replace_section(card, "evaluation", markdown_table(["a", "b"], [["x | y", 1]], compact=True))
    head = "# Mine\n\n<!-- evaluation -->\n| a | b |\n|---|---|\n| x \\| y | 1 |\n"
    assert card.read_text() == f"{head}<!-- end of evaluation -->\n\nmore\n"
    with pytest.raises(UserError, match="has no section"):
        replace_section(card, "contamination", "")


class Hub(BaseHTTPRequestHandler):
    """What the hub answers to the upload of a folder: every file is taken whole, within the commit."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        status, answer = self.answer(body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, body: bytes) -> tuple[int, dict]:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if self.path == "/api/repos/create":
            return 200, {"url": f"http://{self.headers['Host']}/someone/tiny"}
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if "/commit/" in self.path:
            return 200, {
                "commitUrl": f"http://{self.headers['Host']}/someone/tiny/commit/c0ffee",
                "commitOid": "c0ffee",
            }
        return 200, {}

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_the_folder_is_pushed_whole_with_the_environments_token(model, options, hub, tmp_path):
    hub_at = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    program = (
        "import sys, pathlib; from reasonir.train.card import push; push(pathlib.Path(sys.argv[1]), 'someone/tiny')"
    )
    refused = launch(1, ["-c", program, str(model)], cold=True, HF_TOKEN="", **hub_at)
    said = refused.stdout.strip().splitlines()[-1]
    assert re.search(
        "RunStopped: push_to_hub=someone/tiny: the upload failed, the model is kept in .*401 Unauthorized", said
    )

    hub.asked.clear()
    command = ["-m", "reasonir.train", *options, "resume=true", "push_to_hub=someone/tiny"]
    pushed = launch(1, command, cold=True, HF_TOKEN=TOKEN, **hub_at)
    assert pushed.returncode == 0, pushed.stdout
    assert "to someone/tiny: c0ffee" in pushed.stdout
    created = json.loads(next(body for path, _, body in hub.asked if path == "/api/repos/create"))
    assert (created["name"], created["organization"], created["visibility"]) == ("tiny", "someone", "private")
    commits = [body for path, _, body in hub.asked if "/commit/" in path]
    sent = [json.loads(line) for commit in commits for line in commit.splitlines()]
    files = {row["value"]["path"]: base64.b64decode(row["value"]["content"]) for row in sent if row["key"] == "file"}
    assert files == {str(p.relative_to(model)): p.read_bytes() for p in model.rglob("*") if p.is_file()}
    assert b'from_pretrained("someone/tiny")' in files["README.md"]
    assert TOKEN not in pushed.stdout
    written = [path for path in model.parent.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_an_upload_that_fails_is_one_line_and_keeps_the_model(model, options, capsys):
    weights = (model / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit) as done:  # the tests' environment holds HF_HUB_OFFLINE=1
        train([*options, "resume=true", "push_to_hub=someone/tiny"])
    assert done.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(r"error: push_to_hub=someone/tiny: the upload failed, the model is kept in .*offline mode", line)
    assert (model / "model.safetensors").read_bytes() == weights
    assert (model.parent / "manifest.json").is_file()
