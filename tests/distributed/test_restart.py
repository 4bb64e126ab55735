"""Two agents of torchrun, as on two nodes: one rank crashes, all start again, and the job ends with the same bytes."""

import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from reasonir.core.errors import RunStopped
from reasonir.train.parallel.rounds import join_round
from tests.kit.launch import environment, launch
from tests.kit.texts import tiny_training

STEPS = 6


def start_agent(node: int, port: int, arguments: list[str]) -> subprocess.Popen:
    launcher = [
        "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--max-restarts", "2",
        "--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{port}", "--rdzv_id", "two-nodes",
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "tests.distributed.faulty_run", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(2, NODE=str(node)),
    )  # fmt: skip


@pytest.mark.slow
def test_after_a_crash_on_one_of_two_nodes_the_job_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    options = [*tiny_training(tmp_path, STEPS), "parallel=ddp", f"data.cache_dir={tmp_path}/cache"]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    done = launch(2, ["-m", "reasonir.train", *options, f"output_dir={unbroken}"])
    assert done.returncode == 0, done.stdout[-4000:]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    # Without resume=true: on the node that did not crash torchrun's own count is 0 in the second round too.
    arguments = ["kill", "1", "5", str(tmp_path / "struck"), *options, f"output_dir={broken}"]
    begun = time.monotonic()
    agents = [start_agent(node, port, arguments) for node in range(2)]
    try:
        said = [agent.communicate(timeout=240)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    print(f"{time.monotonic() - begun:.0f} s from the start of two agents to their end, a crash between")
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(text[-3000:] for text in said)
    assert (tmp_path / "struck").exists() and "continuing after step 4" in "".join(said)
    model = "model/model.safetensors"
    assert (broken / model).read_bytes() == (unbroken / model).read_bytes()


def join_all(store: dist.Store, ranks: list[int], world: int) -> dict[int, tuple[dist.Store, int]]:
    """Join from one thread a rank, each with a connection of its own, and return what each rank got."""
    found: dict[int, tuple[dist.Store, int]] = {}

    def join(rank: int) -> None:
        found[rank] = join_round(store.clone(), rank, world, 20.0)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture
def store() -> dist.Store:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))


def test_every_round_has_a_store_that_holds_nothing_of_the_rounds_before(store: dist.Store) -> None:
    for number in (1, 2, 3):
        # Rank 2 comes last, in an order of its own, as a node that starts later does.
        found = join_all(store, [1, 0, 2], 3)
        assert {rank: got for rank, (_, got) in found.items()} == dict.fromkeys(range(3), number)
        assert not found[1][0].check(["word"])
        found[0][0].set("word", str(number))
        assert found[2][0].get("word") == str(number).encode()


def test_a_rank_that_died_while_it_waited_leaves_a_question_that_harms_nobody(store: dist.Store) -> None:
    store.set("question/1", "of a process that is gone")
    found = join_all(store, [0, 1], 2)
    assert {got for _, got in found.values()} == {1}


@pytest.mark.parametrize(("rank", "said"), [(0, "ranks 1, 2 did not begin"), (2, "waited 0 s for rank 0")])
def test_ranks_that_never_come_are_named(store: dist.Store, rank: int, said: str) -> None:
    with pytest.raises(RunStopped, match=said):
        join_round(store, rank, 3, 0.2)


SLOW_SECOND_RANK = """
import time
from reasonir.train.parallel.ranks import open_ranks

with open_ranks(1.0) as ranks:  # a second in a phase is a hang
    with ranks.leader_first("preparing"):
        if ranks.rank == 1:
            time.sleep(4)  # loads a large model from a shared disk
    ranks.phase("training")
    ranks.barrier()
"""


@pytest.mark.seconds(60)
def test_rank_0_may_wait_for_the_others_as_long_as_they_prepare(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW_SECOND_RANK)
    done = launch(2, [str(script)])
    assert done.returncode == 0, done.stdout
