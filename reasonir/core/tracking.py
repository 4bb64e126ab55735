"""Measurements of a run: `metrics.jsonl`, and wandb where the options ask for it."""

import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reasonir.core.command import to_yaml
from reasonir.core.files import METRICS_FILE, write_text


class MetricsLog:
    """metrics.jsonl, one row a step, and a wandb run where `tracking` is "wandb".

    An interrupted run may have written rows after its last checkpoint. The log is opened at the checkpoint's step and
    drops them, so that each step has exactly one row.
    """

    def __init__(self, folder: Path, config: Any, *, first_step: int, tracking: str) -> None:
        self._path = folder / METRICS_FILE
        kept = []
        if self._path.exists():
            rows = self._path.read_text(encoding="utf-8").split("\n")
            kept = [row for row in rows if _step_of(row) is not None and _step_of(row) <= first_step]  # type: ignore[operator]
        # Written anew as a whole: a kill during the write leaves the old rows.
        write_text(self._path, "".join(row + "\n" for row in kept))
        self._stream = self._path.open("a", encoding="utf-8")
        self._tracker = Tracker(folder, config, [json.loads(row) for row in kept]) if tracking == "wandb" else None

    def append(self, row: dict[str, Any]) -> None:
        """Write one row (it must hold `step`) and flush it."""
        self._stream.write(json.dumps(row) + "\n")
        # A killed process keeps every step that it finished.
        self._stream.flush()
        if self._tracker is not None:
            self._tracker.log(row)

    def summarise(self, sources: list[dict[str, Any]]) -> None:
        """Give the finished run a table of its sources and its curves, one a source; in wandb only.

        Args:
            sources: One row a source of training rows: its `path`, and counts of what was used.
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


# Without a limit a run whose network is gone would never end.
SECONDS_FOR_LAST_UPLOADS = 120.0
SEND_WHAT_WAS_MEASURED_ONLY: dict[str, Any] = {
    "console": "off", "save_code": False, "disable_code": True, "disable_git": True, "disable_job_creation": True,
    "host": "", "silent": True, "x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True,
    "x_save_requirements": False, "finish_timeout": SECONDS_FOR_LAST_UPLOADS,
}  # fmt: skip
"""wandb's settings that keep output, code, git, host name, hardware, environment and package list to the machine."""


class Tracker:
    """A wandb run that a resumed process continues under the same id.

    Invariant: the work goes on whatever wandb does. Its first failure is printed in one line and ends the tracking.
    WANDB_MODE=offline needs no account; WANDB_PROJECT names the project.
    """

    def __init__(self, folder: Path, config: Any, rows: list[dict[str, Any]]) -> None:
        """Open the run.

        Args:
            folder: The run's output folder; its name becomes the run's name.
            config: Options shown with the run. `tracking_group` names its group; None takes the folder above.
            rows: Metrics of the steps so far. Those that wandb lacks are sent again: a killed process loses wandb's
                buffers, and offline every process writes a file of its own.
        """
        self._run: Any = None
        self._run = self._attempt(lambda: _open_wandb(folder, config))
        # wandb ignores rows of steps before the one that it has reached.
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
        # wandb raises its own errors, those of the network, of its background process and of the disk.
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            print(f"tracking=wandb ends here, {METRICS_FILE} goes on: {said}", file=sys.stderr)
            self._run = None
            return None


def _open_wandb(folder: Path, config: Any) -> Any:
    import wandb
    import yaml

    # The id lies in the run's folder, so that a resumed process continues the same curve.
    id_file = folder / "wandb_id.txt"
    if not id_file.exists():
        # Eight characters, as wandb's own ids.
        id_file.write_text(secrets.token_hex(4), encoding="utf-8")
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "reasonir"),
        group=getattr(config, "tracking_group", None) or folder.resolve().parent.name,
        id=id_file.read_text(encoding="utf-8").strip(),
        # Continues the run of this id where wandb has it, opens one where it has not.
        resume="allow",
        name=folder.name,
        dir=str(folder),
        config=yaml.safe_load(to_yaml(config)),
        settings=wandb.Settings(**SEND_WHAT_WAS_MEASURED_ONLY),
    )


def _tables_and_plots(sources: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    import wandb

    named = [{**source, "path": Path(source["path"]).name} for source in sources]
    table = wandb.Table(columns=list(named[0]), data=[list(source.values()) for source in named])
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        if row["train/loss_nats"] is None:  # a skipped step
            continue
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
