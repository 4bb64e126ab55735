"""The output folder of a command: what was asked, what came out, and whether it is finished.

Invariant: `manifest.json` is written last and atomically; its absence means unfinished. A folder never mixes two
runs. Owns metrics.jsonl, the wandb sink and the progress line.
"""

import gzip
import hashlib
import json
import os
import platform
import resource
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from reasonir import __version__, settings
from reasonir.schema import UserError

CONFIG_FILE, MANIFEST_FILE, METRICS_FILE = "config.yaml", "manifest.json", "metrics.jsonl"
MANIFEST_PACKAGES = (
    "torch", "transformers", "tokenizers", "numpy", "datasets", "bm25s", "pytrec_eval-terrier", "hydra-core",
    "accelerate", "deepspeed", "peft", "vllm", "faiss-cpu",
)  # fmt: skip
SECONDS_BETWEEN_LOG_LINES = 60.0


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: complete under its final name or not there at all."""
    scratch = path.with_name(f".{path.name}.partial")
    with scratch.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(scratch, path)


def file_sha256(path: str | Path) -> str:
    """Return the hex digest of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_inputs(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Return path, sha256, bytes and rows of every input file (files inside, for a folder)."""
    described = []
    for path in map(Path, paths):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        described += [
            {"path": str(f), "sha256": file_sha256(f), "bytes": f.stat().st_size, "rows": count_rows(f)}
            for f in files
            if f.exists()
        ]
    return described


def count_rows(path: Path) -> int | None:
    """Return the rows of a table (lines that are not blank); None for other files."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return int(pyarrow.parquet.ParquetFile(path).metadata.num_rows)
    if not {".jsonl", ".tsv", ".trec", ".txt"} & set(path.suffixes):
        return None
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        return sum(1 for line in stream if line.strip())


class RunFolder:
    """One command's output folder, opened before any work."""

    def __init__(
        self,
        path: str,
        config: Any,
        *,
        resume: bool,
        ignored: Iterable[str] = (),
        ignored_groups: tuple[str, ...] = (),
    ) -> None:
        """Claim `path` for this configuration.

        Args:
            resume: whether to continue what the folder holds.
            ignored: fields that may differ from the stored configuration (its own path, how far to go).
            ignored_groups: beginnings of the names of such fields, with their dot.
        Raises:
            UserError: the folder holds another run, a run that `resume` was not given for, or other files.
        """
        self.path = Path(path)
        self._config = config
        self._started = time.time()
        self._refuse_strangers(resume, list(ignored), ignored_groups)

    def _refuse_strangers(self, resume: bool, ignored: list[str], ignored_groups: tuple[str, ...]) -> None:
        if not self._config.output_dir:
            raise UserError("output_dir is empty; name a folder")
        for path in (self.path, *self.path.parents):
            if path.exists() and not path.is_dir():
                raise UserError(f"output_dir={self.path}: {path} is a file; name a folder")
        stored = self.path / CONFIG_FILE
        if not self.path.exists() or set(self.path.iterdir()) <= {stored}:
            return  # options alone: a run that was refused, or ended, before it wrote anything binds nobody
        if not stored.is_file():
            raise UserError(f"output_dir={self.path} holds other files; name a new folder")
        changed = settings.changed_fields(stored.read_text(encoding="utf-8"), self._config, ignored)
        changed = [field for field in changed if not field.startswith(ignored_groups)]
        if changed:
            raise UserError(
                f"output_dir={self.path} holds a run of another configuration ({'; '.join(changed[:3])}); "
                "name a new folder, or give the same options"
            )
        if not resume:
            raise UserError(f"output_dir={self.path} holds this run already; resume=true continues it")

    def start(self) -> None:
        """Create the folder and write the resolved configuration; an older manifest no longer counts."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / MANIFEST_FILE).unlink(missing_ok=True)
        text = settings.to_yaml(self._config)
        scratch = self.path / f".{CONFIG_FILE}.partial"
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, self.path / CONFIG_FILE)

    @property
    def finished(self) -> bool:
        """Whether the last run in this folder reached its end."""
        return (self.path / MANIFEST_FILE).is_file()

    def finish(self, *, inputs: Iterable[str | Path], counts: dict[str, Any], **more: Any) -> None:
        """Write the manifest: command, versions, seeds, inputs by hash, counts in, out and rejected."""
        manifest = build_manifest(inputs, counts, self._started, seed=getattr(self._config, "seed", None), **more)
        write_json(self.path / MANIFEST_FILE, manifest)


def build_manifest(inputs: Iterable[str | Path], counts: dict[str, Any], started: float, **more: Any) -> dict[str, Any]:
    """Return what every artefact says of itself; `started` is a `time.time()`."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "reasonir": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": _package_versions(),
        "inputs": describe_inputs(inputs),
        "counts": counts,
        "wall_seconds": round(time.time() - started, 3),
        "peak_memory_gib": round(peak_memory_gib(), 3),
        **more,
    }


def peak_memory_gib() -> float:
    """Return the largest resident memory of this process so far."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 2**20 if sys.platform != "darwin" else kib / 2**30


def _git_commit() -> str | None:
    """Return the commit of the checkout this package runs from; None when installed elsewhere."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _package_versions() -> dict[str, str]:
    from importlib import metadata

    versions = {}
    for name in MANIFEST_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


class MetricsLog:
    """metrics.jsonl, one row a step, and wandb when asked.

    Opened at a step, it drops rows that an interrupted run wrote after its last checkpoint, so that each step
    stands exactly once.
    """

    def __init__(self, folder: Path, config: Any, *, first_step: int, tracking: str) -> None:
        self._path = folder / METRICS_FILE
        kept = []
        if self._path.exists():
            rows = self._path.read_text(encoding="utf-8").split("\n")
            kept = [row for row in rows if _step_of(row) is not None and _step_of(row) <= first_step]  # type: ignore[operator]
        scratch = folder / f".{METRICS_FILE}.partial"
        scratch.write_text("".join(row + "\n" for row in kept), encoding="utf-8")
        os.replace(scratch, self._path)
        self._stream = self._path.open("a", encoding="utf-8")
        self._tracker = Tracker(folder, config, [json.loads(row) for row in kept]) if tracking == "wandb" else None

    def append(self, row: dict[str, Any]) -> None:
        """Write one row (it must hold `step`) and flush it."""
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()
        if self._tracker is not None:
            self._tracker.log(row)

    def summarise(self, sources: list[dict[str, Any]]) -> None:
        """Give the finished run a table of its sources and its curves, one a source; in wandb only.

        Args:
            sources: what was used of each: its `path`, and counts.
        """
        if self._tracker is not None:
            rows = self._path.read_text(encoding="utf-8").splitlines()
            self._tracker.summarise(sources, [json.loads(row) for row in rows])

    def close(self) -> None:
        """Close the file and end the wandb run."""
        self._stream.close()
        if self._tracker is not None:
            self._tracker.finish()


def _step_of(row: str) -> int | None:
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return None


SECONDS_FOR_LAST_UPLOADS = 120.0
SEND_WHAT_WAS_MEASURED_ONLY: dict[str, Any] = {
    "console": "off", "save_code": False, "disable_code": True, "disable_git": True, "disable_job_creation": True,
    "host": "", "silent": True, "x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True,
    "x_save_requirements": False, "finish_timeout": SECONDS_FOR_LAST_UPLOADS,
}  # fmt: skip
"""wandb's settings that keep output, code, git, host name, hardware, environment and package list to the machine."""


class Tracker:
    """A wandb run that a resumed process continues under the same id.

    Invariant: whatever wandb does, the work goes on: its first failure is said in one line and ends the tracking.
    WANDB_MODE=offline needs no account; WANDB_PROJECT names the project.
    """

    def __init__(self, folder: Path, config: Any, rows: list[dict[str, Any]]) -> None:
        """Open the run.

        Args:
            config: resolved into the run; `tracking_group` names its group, null the folder that `folder` lies in.
            rows: of the steps before this one; those that wandb lacks are sent again. A killed process leaves them in
                wandb's buffers, and offline every process writes a file of its own.
        """
        self._run: Any = None
        self._run = self._attempt(lambda: _open_wandb(folder, config))
        first = self._run.step if self._run is not None else 0
        for row in rows:
            if row["step"] >= first:
                self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        """Send the metrics of one step."""
        values = {key: value for key, value in row.items() if key != "step"}
        if self._run is not None:
            self._attempt(lambda: self._run.log(values, step=row["step"]))

    def summarise(self, sources: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        """Send a table of the sources, a bar chart of the rows drawn, and the loss of every source over the steps."""
        if self._run is not None:
            self._attempt(lambda: self._run.log(_tables_and_plots(sources, rows), step=rows[-1]["step"]))

    def finish(self) -> None:
        """End the run; waits at most `SECONDS_FOR_LAST_UPLOADS` for the network."""
        if self._run is not None:
            self._attempt(lambda: self._run.finish())

    def _attempt(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:  # wandb's own, those of the network, of its background process, of the disk
            said = " ".join(str(error).split()) or type(error).__name__
            print(f"tracking=wandb ends here, {METRICS_FILE} goes on: {said}", file=sys.stderr)
            self._run = None
            return None


def _open_wandb(folder: Path, config: Any) -> Any:
    import wandb
    import yaml

    id_file = folder / "wandb_id.txt"
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4), encoding="utf-8")
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "reasonir"),
        group=getattr(config, "tracking_group", None) or folder.resolve().parent.name,
        id=id_file.read_text(encoding="utf-8").strip(),
        resume="allow",
        name=folder.name,
        dir=str(folder),
        config=yaml.safe_load(settings.to_yaml(config)),
        settings=wandb.Settings(**SEND_WHAT_WAS_MEASURED_ONLY),
    )


def _tables_and_plots(sources: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    import wandb

    named = [{**source, "path": Path(source["path"]).name} for source in sources]
    table = wandb.Table(columns=list(named[0]), data=[list(source.values()) for source in named])
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        steps, losses = curves.setdefault(Path(row["train/source"]).name, ([], []))
        steps.append(row["step"])
        losses.append(row["train/loss_nats"])
    steps_of, losses_of = zip(*curves.values(), strict=True)
    return {
        "train/sources": table,
        "train/rows_drawn_by_source": wandb.plot.bar(table, "path", "rows_drawn", title="rows drawn"),
        "train/loss_by_source": wandb.plot.line_series(
            steps_of, losses_of, keys=list(curves), title="train/loss_nats", xname="step"
        ),
    }


class Progress:
    """How far a long piece of work is: a live bar on a terminal, a log line a minute elsewhere."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._first_done, self._started = done, time.monotonic()
        self._last_line = self._started
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = _open_bar(label, total, done)

    def update(self, count: int, note: str = "") -> None:
        """Add `count` units; `note` stands behind the bar or on the log line."""
        self.done += count
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, advance=count, note=f"{self._rate()} {note}")
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LOG_LINES:
            self._last_line = time.monotonic()
            whole = f"/{self.total}" if self.total else ""
            print(f"{self.label}: {self.done}{whole} {self.unit}, {self._rate()} {note}", file=sys.stderr)

    def _rate(self) -> str:
        rate = (self.done - self._first_done) / max(time.monotonic() - self._started, 1e-9)
        left = (self.total - self.done) / rate if rate > 0 else 0.0
        remaining = f" {left / 60:.1f} min left," if self.total else ""
        return f"{rate:.3g} {self.unit}/s,{remaining}"

    def close(self) -> None:
        """Remove the live bar."""
        if self._bar is not None:
            self._bar[0].stop()


def _open_bar(label: str, total: int, done: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    bar.start()
    return bar, bar.add_task(label, total=total or None, completed=done, note="")
