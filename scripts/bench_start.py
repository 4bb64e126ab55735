"""How long a command needs to its `--help`, and Python to `import reasonir.model`: two checkouts, taken in turn.

    python scripts/bench_start.py OLD NEW [ROUNDS]

OLD and NEW are checkouts, each with its environment in `.venv`. Prints the median wall and processor seconds of each
and their ratio. In turn, so that other load on the machine slows both.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

EVALUATIONS = ("bright", "beir", "score", "fuse", "rerank", "mmlu", "gpqa", "multiple_choice", "encode", "datastore",
               "index", "compare", "card", "contamination", "report", "rewrite", "scaling")  # fmt: skip
STARTS = {
    "import reasonir.model": ["-c", "import reasonir.model"],
    "reasonir-train --help": ["-m", "reasonir.train", "--help"],
    "reasonir-synth --help": ["-m", "reasonir.synth", "--help"],
    "reasonir-eval --help": ["-m", "reasonir.eval", "--help"],
    **{f"reasonir-eval {task} --help": ["-m", "reasonir.eval", task, "--help"] for task in EVALUATIONS},
}


def seconds(tree: Path, arguments: list[str]) -> tuple[float, float]:
    """Return the wall and the processor seconds of one start."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [tree / ".venv" / "bin" / "python", *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begun, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    trees = [Path(name).resolve() for name in sys.argv[1:3]]
    rounds = int(sys.argv[3]) if sys.argv[3:] else 7
    print("| start | old, s | new, s | ratio | old, CPU s | new, CPU s | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, arguments in STARTS.items():
        # The first start writes byte code and fills the disk's cache.
        taken = [[seconds(tree, arguments) for tree in trees] for _ in range(1 + rounds)][1:]
        cells = []
        # 0 wall, 1 processor
        for kind in (0, 1):
            old, new = (median(one[tree][kind] for one in taken) for tree in (0, 1))
            cells += [f"{old:.3f}", f"{new:.3f}", f"{new / old:.2f}"]
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
