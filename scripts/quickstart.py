"""`make quickstart`: build the world, train, measure untrained, BM25 and trained, print one table.

Each stage is a command that could be typed by hand; it is printed before it runs. What is complete is not run again.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path("outputs/quickstart")
WORLD, RUN, MODEL = ROOT / "world", ROOT / "run", ROOT / "model"
SYSTEMS = {
    "untrained": [f"model.path={RUN}/initial_model"],
    "bm25": ["retriever=bm25"],
    "trained": [f"model.path={MODEL}"],
}


def run(module: str, *arguments: str) -> None:
    """Print a command, run it, stop at its failure."""
    print(f"\n$ python -m {module} {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Run the chain and write summary.json."""
    begun = time.time()
    if not (WORLD / "train").is_dir():
        run("reasonir.quickstart", f"output_dir={WORLD}")
    if not (RUN / "manifest.json").is_file():
        run("reasonir.train", "+experiment=quickstart", f"output_dir={RUN}", "resume=true")
        shutil.rmtree(MODEL, ignore_errors=True)
    if not MODEL.is_dir():
        shutil.copytree(RUN / "model", MODEL)
    for name, options in SYSTEMS.items():
        run("reasonir.eval", "bright", f"data.dir={WORLD}", f"output_dir={ROOT}/eval_{name}", *options)
    print(write_summary())
    print(f"{time.time() - begun:.0f} s; {ROOT}/summary.json, model: {MODEL}, results: {ROOT}/eval_*/results.md")


def write_summary() -> str:
    """Write the averages as fractions of 1 and return the table of points per task."""
    results = {name: json.loads((ROOT / f"eval_{name}" / "results.json").read_text()) for name in SYSTEMS}
    averages = {name: result["average"]["ndcg_at_10"] for name, result in results.items()}
    (ROOT / "summary.json").write_text(json.dumps(averages, indent=2) + "\n")
    tasks = list(results["trained"]["tasks"])
    lines = ["", f"{'nDCG@10':12}" + "".join(f"{task:>18}" for task in tasks) + f"{'average':>10}"]
    for name, result in results.items():
        cells = "".join(f"{result['tasks'][task]['ndcg_at_10']:18.3f}" for task in tasks)
        lines.append(f"{name:12}{cells}{averages[name]:10.3f}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
