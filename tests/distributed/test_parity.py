"""W ranks on any engine do what one process does with the whole batch, with one gradient collective a step."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from reasonir.train.parallel.ranks import Ranks
from tests.distributed.parity_worker import CASES, DOCUMENTS, DROPPED, QUERIES, build_encoder, run_case
from tests.kit.launch import launch

QUICK, SLOW = ("ddp", "fsdp2"), ("zero1", "zero2", "zero3")
ENGINES = (*QUICK, *SLOW)
TUNINGS = ("full", "lora")
TOLERANCE = 1e-6
CURVE = "curve"

EACH_ENGINE = [*QUICK, *(pytest.param(engine, marks=pytest.mark.slow) for engine in SLOW)]

Found = dict[str, dict[str, torch.Tensor]]


def train_all(folder: Path, ranks: int, engines: tuple[str, ...]) -> Path:
    done = launch(ranks, ["-m", "tests.distributed.parity_worker", str(folder), ",".join(engines), ",".join(TUNINGS)],
                  seconds=900)  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = train_all(tmp_path_factory.mktemp("single"), 1, ("single",))
    return torch.load(folder / "single-1.pt")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Path]:
    """Return a function from engines to the folder of their results on two ranks, which are launched once."""
    return cache(lambda engines: train_all(tmp_path_factory.mktemp("two"), 2, engines))


@pytest.fixture
def two(launched: Callable[[tuple[str, ...]], Path], engine: str) -> Path:
    """The folder that holds the test's engine: one launch for the quick engines, one for the rest."""
    return launched(QUICK if engine in QUICK else SLOW)


def worst(found: Found, reference: Found, tuning: str, case: str, optimizer: str) -> tuple[float, float]:
    """Return the largest error of a weight, and the largest relative one of loss or gradient norm."""
    key = f"{tuning}-{case}-{optimizer}"
    ours, theirs = dict(found[key]), dict(reference[key])
    curves = ours.pop(CURVE), theirs.pop(CURVE)
    assert ours.keys() == theirs.keys() and ours
    apart = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    return apart, float(((curves[0] - curves[1]) / curves[1]).abs().max())


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_reference_moves_every_weight_and_clips(reference: Found, tuning: str) -> None:
    start = {name: p.detach() for name, p in build_encoder(tuning == "lora").named_parameters() if p.requires_grad}
    for case in CASES:
        moved = reference[f"{tuning}-{case}-sgd"]
        assert min(float((moved[name] - start[name]).abs().max()) for name in start) > 1e-5
        norms = reference[f"{tuning}-{case}-adamw"][CURVE][1::2]
        assert len(norms) == 5 and norms.min() > 0.05, "nothing was clipped"


def test_the_reference_drops_some_negatives_and_not_all(reference: Found) -> None:
    for tuning in TUNINGS:
        dropped = reference[f"{tuning}-dropping-adamw"][DROPPED]
        assert len(dropped) == 5 and dropped.min() > 0 and dropped.max() < QUERIES * (DOCUMENTS - 1) * 0.8


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_reference_is_within_rounding_of_float64(reference: Found, tuning: str, case: str) -> None:
    """What one process cannot answer in float32, ranks cannot agree on either; it also holds the reference itself."""
    exact = run_case("single", case, tuning == "lora", "adamw", Ranks(60.0), torch.float64)
    found = reference[f"{tuning}-{case}-adamw"]
    names = [name for name in exact if name != CURVE]
    assert max(float((found[name] - exact[name]).abs().max()) for name in names) <= TOLERANCE / 3
    assert torch.allclose(found[CURVE], exact[CURVE], rtol=1e-5)


@pytest.mark.seconds(60)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("engine", EACH_ENGINE)
def test_two_ranks_equal_one_process(
    two: Path, reference: Found, engine: str, tuning: str, case: str, optimizer: str
) -> None:
    apart, curve = worst(torch.load(two / f"{engine}-2.pt"), reference, tuning, case, optimizer)
    assert apart <= TOLERANCE
    assert curve <= 1e-5


@pytest.mark.parametrize(
    "engine", ["ddp", *(pytest.param(engine, marks=pytest.mark.slow) for engine in ("zero1", "zero2"))]
)
def test_one_gradient_collective_a_step(two: Path, engine: str) -> None:
    counted = torch.load(two / "counts-2.pt")[engine]
    assert counted["chunks"] > 1
    weights = sum(p.numel() for p in build_encoder(False).parameters())
    large = {key: times for key, times in counted["reductions"].items() if key[1] > 2_000}
    assert large == {("all_reduce", weights): 1}


@pytest.mark.parametrize("engine", ["fsdp2", pytest.param("zero3", marks=pytest.mark.slow)])
def test_sharded_engines_reduce_once_a_chunk_and_group(two: Path, engine: str) -> None:
    counted = torch.load(two / "counts-2.pt")[engine]
    groups = {"zero3": 1, "fsdp2": 3}[engine]  # one bucket; two layers and the rest
    embeddings = 1
    assert counted["chunks"] > 1
    assert counted["reduce_scatters"] == groups * counted["chunks"] + embeddings


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 4])
def test_the_whole_table(tmp_path: Path, reference: Found, ranks: int) -> None:
    engines = ENGINES if ranks > 1 else ENGINES[1:]
    folder = train_all(tmp_path, ranks, engines)
    table = {
        f"{engine} {tuning} {case} {optimizer}": worst(
            torch.load(folder / f"{engine}-{ranks}.pt"), reference, tuning, case, optimizer
        )[0]
        for engine in engines
        for tuning in TUNINGS
        for case in CASES
        for optimizer in ("sgd", "adamw")
    }
    print(f"{ranks} ranks:", *(f"{name}: {apart:.1e}" for name, apart in table.items()), sep="\n")
    assert len(table) == len(engines) * len(TUNINGS) * len(CASES) * 2
    assert max(table.values()) <= TOLERANCE
