"""The launch scripts: exact command lines, quoting, restarts, and when a SLURM job queues itself again.

`python`, `srun`, `scontrol` and `nvidia-smi` on PATH are stand-ins for the cluster that write down their arguments;
the last tests run torch's own launcher.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
SHELL_FILES = sorted([*SCRIPTS.rglob("*.sh"), *SCRIPTS.rglob("*.sbatch")])
SPACED = "data.files=[my rows.jsonl,b.jsonl]"

# Writes "name<TAB>argument<TAB>argument..." to $CALLS; then does what $BEHAVIOUR_<name> says.
STUB = """#!/usr/bin/env bash
{ printf '%s' "$(basename "$0")"; printf '\\t%s' "$@"; printf '\\n'; } >> "$CALLS"
"""
BEHAVIOUR = {
    "python": 'for a in "$@"; do [[ $a != dry_run=true ]] || exit "${DRY_STATUS:-0}"; done\nexit "${PYTHON_STATUS:-0}"',
    "srun": '[[ -z ${NAP:-} ]] || sleep "$NAP"\nexit "${SRUN_STATUS:-0}"',
    "scontrol": '[[ $1 != show ]] || printf "node07\\nnode08\\n"',
    "nvidia-smi": '[[ -n ${GPUS:-} ]] || exit 9\nfor ((i = 0; i < GPUS; i++)); do echo "GPU $i: H100"; done',
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a SLURM allocation of two nodes whose commands are stand-ins."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, behaviour in BEHAVIOUR.items():
        file = folder / name
        file.write_text(STUB + behaviour + "\n")
        file.chmod(0o755)
    return {
        "PATH": f"{folder}:/usr/bin:/bin",
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": "4711",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "node[07-08]",
        "SLURM_SUBMIT_DIR": str(SCRIPTS.parent),
    }


def run(script: str, *arguments: str, env: dict[str, str]) -> tuple[int, list[list[str]], str]:
    """Return exit status, the commands that were started, and standard error."""
    done = subprocess.run(["bash", str(SCRIPTS / script), *arguments], env=env, capture_output=True, text=True)
    calls = Path(env["CALLS"])
    lines = calls.read_text().splitlines() if calls.exists() else []
    return done.returncode, [line.split("\t") for line in lines], done.stderr


def only(calls: list[list[str]], name: str) -> list[list[str]]:
    return [call[1:] for call in calls if call[0] == name]


@pytest.mark.parametrize("file", SHELL_FILES, ids=lambda file: file.name)
def test_shell_accepts_every_script(file: Path) -> None:
    assert subprocess.run(["bash", "-n", str(file)], capture_output=True).stderr == b""
    text = file.read_text()
    assert text.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\n" in text
    assert os.access(file, os.X_OK) or file.suffix == ".sbatch"


@pytest.mark.parametrize(("script", "name"), [("train.sh", "python"), ("slurm/launch.sh", "srun")])
def test_memory_of_a_gpu_grows_in_segments_unless_the_user_says_otherwise(cluster, script, name):
    folder = Path(cluster["PATH"].split(":")[0])
    (folder / name).write_text('#!/usr/bin/env bash\necho "$PYTORCH_ALLOC_CONF|$PYTORCH_CUDA_ALLOC_CONF" > "$CALLS"\n')
    for given, seen in (({}, "expandable_segments:True|"), ({"PYTORCH_ALLOC_CONF": "a:1"}, "a:1|"),
                        ({"PYTORCH_CUDA_ALLOC_CONF": "b:1"}, "|b:1")):  # fmt: skip
        run(script, env=cluster | given)
        assert Path(cluster["CALLS"]).read_text() == f"{seen}\n"


def test_there_are_scripts_to_test() -> None:
    names = {file.name for file in SHELL_FILES}
    assert {"train.sh", "launch.sh", "node.sh", "train.sbatch", "paper_128.sbatch", "one_node_8.sbatch"} <= names


def torchrun(processes: int, restarts: int, *options: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*launcher, "--max-restarts", str(restarts), "-m", "reasonir.train", *options]


def test_one_node_defaults(cluster):
    status, calls, _ = run("train.sh", env=cluster)
    assert status == 0
    expected = torchrun(1, 3, "+experiment=vl_hq", "output_dir=outputs/vl_hq", "resume=true")
    assert only(calls, "python") == [expected]


def test_one_node_uses_every_gpu_and_hands_on_overrides_unbroken(cluster):
    cluster |= {"GPUS": "4", "EXPERIMENT": "hq", "OUTPUT_DIR": "my out", "MAX_RESTARTS": "0"}
    status, calls, _ = run("train.sh", SPACED, "parallel=ddp", "$HOME", env=cluster)
    assert status == 0
    own = ["+experiment=hq", "output_dir=my out", "resume=true"]
    assert only(calls, "python") == [torchrun(4, 0, *own, SPACED, "parallel=ddp", "$HOME")]


def test_one_node_keeps_a_given_number_of_processes_and_the_exit_status(cluster):
    status, calls, _ = run("train.sh", env=cluster | {"GPUS": "4", "NPROC": "2", "PYTHON_STATUS": "2"})
    assert status == 2
    assert [c[c.index("--nproc_per_node") + 1] for c in only(calls, "python")] == ["2"]
    assert only(calls, "nvidia-smi") == []


def test_one_node_takes_an_empty_experiment_for_none(cluster):
    _, calls, _ = run("train.sh", SPACED, env=cluster | {"EXPERIMENT": ""})
    assert only(calls, "python") == [torchrun(1, 3, "output_dir=outputs/train", "resume=true", SPACED)]


@pytest.fixture
def rounds(cluster: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of two rounds of refresh.sh whose mining has left rows."""
    for number in (1, 2):
        rows = tmp_path / f"out/round_{number}/mined/data.jsonl"
        rows.parent.mkdir(parents=True)
        rows.write_text(f'{{"query": "{number}"}}\n')
    more = {"MODEL": "START", "ROWS": "my rows.jsonl", "CORPUS": "docs", "ROUNDS": "2", "OUTPUT_DIR": f"{tmp_path}/out"}
    return cluster | more


def test_each_round_mines_with_the_model_of_the_round_before_and_trains_it(rounds):
    status, calls, errors = run("refresh.sh", "learning_rate=1e-5", env=rounds | {"MINE": "last_rank=9 first_rank=3"})
    assert status == 0, errors
    out, current, expected = rounds["OUTPUT_DIR"], "START", []
    for number in (1, 2):
        folder = f"{out}/round_{number}"
        common = [f"model.path={current}", f"seed={number}"]
        expected += [
            [*("-m", "reasonir.synth", "recipe=mine", "retriever=dense", "rows=my rows.jsonl", "corpus=docs"), *common,
             f"output_dir={folder}/mined", "first_rank=1", "last_rank=50", "margin=0.05", "relative_margin=true",
             "replace_negatives=true", "last_rank=9", "first_rank=3"],
            torchrun(1, 3, f"output_dir={folder}/train", "resume=true", f"data.files=[{folder}/mined/data.jsonl]",
                     *common, "learning_rate=1e-5"),
        ]  # fmt: skip
        current = f"{folder}/train/model"
    assert only(calls, "python") == expected and f"model: {current}" in errors


def test_a_round_is_trained_once_for_its_rows_and_options(rounds):
    def trained(*options: str, **more: str) -> int:
        earlier = len(only(run("refresh.sh", env=rounds | {"ROUNDS": "0"})[1], "python"))
        status, calls, errors = run("refresh.sh", *options, env=rounds | more)
        assert status == 0, errors
        return sum("reasonir.train" in call for call in only(calls, "python")[earlier:])

    out = Path(rounds["OUTPUT_DIR"])
    assert trained() == 2
    assert trained() == 2, "without a manifest the training has not ended"
    for number in (1, 2):
        (out / f"round_{number}/train").mkdir()
        (out / f"round_{number}/train/manifest.json").touch()
    assert trained() == 0
    (out / "round_2/mined/data.jsonl").write_text('{"query": "other"}\n')
    assert trained() == 1
    assert trained("epochs=2") == 2
    assert trained("epochs=2", EXPERIMENT="hq") == 2
    assert trained("epochs=2", EXPERIMENT="hq") == 0


def test_a_round_that_fails_ends_the_rounds_with_its_status(rounds):
    status, calls, _ = run("refresh.sh", env=rounds | {"PYTHON_STATUS": "143"})
    assert status == 143 and len(only(calls, "python")) == 1
    assert run("refresh.sh", env=rounds | {"MODEL": ""})[0] != 0


def test_slurm_launches_one_torchrun_a_node(cluster):
    status, calls, errors = run("slurm/launch.sh", SPACED, "max_steps=5", env=cluster)
    assert (status, errors) == (0, "")
    options = ["+experiment=vl_hq", "output_dir=outputs/vl_hq", "resume=true", SPACED, "max_steps=5"]
    (check,) = only(calls, "python")
    assert check == ["-m", "reasonir.train", *options, "dry_run=true", "planned_ranks=16"]
    (launched,) = only(calls, "srun")
    assert launched == [
        *("--ntasks-per-node=1", "--kill-on-bad-exit=0", "--wait=0", str(SCRIPTS / "slurm" / "node.sh")),
        *("python", "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "8", "--max-restarts", "3"),
        *("--rdzv_backend", "c10d", "--rdzv_endpoint", "node07:30211", "--rdzv_id", "4711"),
        *("-m", "reasonir.train", *options),
    ]
    assert only(calls, "scontrol") == [["show", "hostnames", "node[07-08]"]]


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (2, False), (137, False), (143, True)])
def test_a_job_queues_itself_again_only_when_it_was_stopped_for_time(cluster, status, requeued):
    ended, calls, errors = run("slurm/launch.sh", env=cluster | {"SRUN_STATUS": str(status)})
    assert ended == (0 if requeued else status)
    assert (["requeue", "4711"] in only(calls, "scontrol")) == requeued
    assert ("queues again" in errors) == requeued


def test_a_mistake_in_the_options_starts_nothing(cluster):
    status, calls, _ = run("slurm/launch.sh", "learning_rat=1", env=cluster | {"DRY_STATUS": "2"})
    assert status == 2
    assert only(calls, "srun") == [] and only(calls, "scontrol") == []


def test_requeueing_ends_after_so_many_times(cluster):
    stopped = cluster | {"SRUN_STATUS": "143", "MAX_REQUEUES": "2"}
    assert run("slurm/launch.sh", env=stopped | {"SLURM_RESTART_COUNT": "1"})[0] == 0
    status, calls, errors = run("slurm/launch.sh", env=stopped | {"SLURM_RESTART_COUNT": "2"})
    assert status == 143 and "giving up" in errors
    assert only(calls, "scontrol").count(["requeue", "4711"]) == 1


@pytest.mark.parametrize(("status", "requeued"), [("0", False), ("1", True)])
def test_the_batch_shell_survives_the_signal_and_waits_for_the_step(cluster, status, requeued):
    env = cluster | {"NAP": "1.5", "SRUN_STATUS": status}
    with subprocess.Popen(["bash", str(SCRIPTS / "slurm/launch.sh")], env=env, stderr=subprocess.PIPE) as job:
        deadline = time.monotonic() + 20
        while "srun" not in (Path(env["CALLS"]).read_text() if Path(env["CALLS"]).exists() else ""):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        _, errors = job.communicate(timeout=20)
    assert job.returncode == 0
    assert (b"queues again" in errors) == requeued


@pytest.mark.parametrize(
    ("file", "ranks", "expected"),
    [
        ("train.sbatch", 16, []),
        ("paper_128.sbatch", 128, ["global_batch_queries=2048"]),
        ("one_node_8.sbatch", 8, ["global_batch_queries=2048", "save_every_steps=20", "parallel=zero3"]),
    ],
)
def test_batch_files_ask_for_what_they_need(cluster, file, ranks, expected):
    nodes = ranks // 8
    status, calls, _ = run(f"slurm/{file}", SPACED, env=cluster | {"SLURM_NNODES": str(nodes)})
    assert status == 0
    (check,) = only(calls, "python")
    assert check[-1] == f"planned_ranks={ranks}" and check[5:-2] == [*expected, SPACED]
    wanted = {line.removeprefix("#SBATCH ") for line in (SCRIPTS / "slurm" / file).read_text().splitlines()}
    assert {"--requeue", "--open-mode=append", "--signal=TERM@300", "--ntasks-per-node=1"} <= wanted
    assert f"--nodes={1 if file == 'train.sbatch' else nodes}" in wanted


def test_a_group_that_the_user_names_is_given_once(cluster):
    _, calls, _ = run("slurm/one_node_8.sbatch", "parallel=fsdp2", env=cluster)
    assert [a for a in only(calls, "srun")[0] if a.startswith("parallel=")] == ["parallel=fsdp2"]


RANK = """
import signal, sys, time
from pathlib import Path
def stop(number, frame):
    time.sleep(1)
    Path("saved").write_text("yes")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
Path("ready").touch()
time.sleep(60 if sys.argv[1] == "long" else 0)
sys.exit(int(sys.argv[1]))
"""


def start_node(folder: Path, argument: str) -> subprocess.Popen[bytes]:
    (folder / "rank.py").write_text(RANK)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", "rank.py", argument]
    command = ["bash", str(SCRIPTS / "slurm" / "node.sh"), sys.executable, *launcher]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_torchrun_lets_its_ranks_save_and_the_node_says_143(tmp_path):
    node = start_node(tmp_path, "long")
    deadline = time.monotonic() + 120
    while not (tmp_path / "ready").exists():
        assert node.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    node.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    node.send_signal(signal.SIGTERM)  # SLURM may ask again
    assert node.wait(timeout=60) == 143
    assert (tmp_path / "saved").read_text() == "yes"


@pytest.mark.parametrize(("argument", "expected"), [pytest.param("0", 0, marks=pytest.mark.slow), ("7", 1)])
def test_the_node_hands_on_torchruns_own_status(tmp_path, argument, expected):
    assert start_node(tmp_path, argument).wait(timeout=120) == expected
