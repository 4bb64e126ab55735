"""Where a run's metrics go beside metrics.jsonl: wandb's server or offline files, TensorBoard's event files."""

import os
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from reasonir.core.command import to_yaml
from reasonir.core.files import METRICS_FILE

# Without a limit a run whose network is gone would never end.
SECONDS_FOR_LAST_UPLOADS = 120.0
SEND_WHAT_WAS_MEASURED_ONLY: dict[str, Any] = {
    "console": "off", "save_code": False, "disable_code": True, "disable_git": True, "disable_job_creation": True,
    "host": "", "silent": True, "x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True,
    "x_save_requirements": False, "finish_timeout": SECONDS_FOR_LAST_UPLOADS,
}  # fmt: skip
"""wandb's settings that keep output, code, git, host name, hardware, environment and package list to the machine."""


class Backend(Protocol):
    """What a tracker's package does with rows."""

    def log(self, row: dict[str, Any]) -> None:
        """Take the metrics of one step."""
        ...

    def summarise(self, sources: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        """Show what a finished run used of its sources."""
        ...

    def finish(self) -> None:
        """Write what is left."""
        ...


class Tracker:
    """A tracked run that a resumed process continues.

    Invariant: the work goes on whatever the tracker does. Its first failure is printed in one line and ends it.
    """

    def __init__(self, name: str, folder: Path, config: Any, rows: list[dict[str, Any]]) -> None:
        """Open the run.

        Args:
            name: wandb or tensorboard.
            folder: The run's output folder.
            config: Options shown with the run.
            rows: Metrics of the steps so far, for a tracker that lacks them.
        """
        self._name = name
        self._backend: Backend | None = None
        self._attempt(lambda: self._open(folder, config, rows))

    def _open(self, folder: Path, config: Any, rows: list[dict[str, Any]]) -> None:
        self._backend = BACKENDS[self._name](folder, config, rows)

    def log(self, row: dict[str, Any]) -> None:
        """Send the metrics of one step."""
        if backend := self._backend:
            self._attempt(lambda: backend.log(row))

    def summarise(self, sources: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        """Send what a finished run used.

        Args:
            sources: One row a source of training rows: its `path`, and counts of what was used.
            rows: Of metrics.jsonl.
        """
        if backend := self._backend:
            self._attempt(lambda: backend.summarise(sources, rows))

    def finish(self) -> None:
        """End the run."""
        if backend := self._backend:
            self._attempt(backend.finish)

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        # A tracker raises its own errors, those of the network, of its background process and of the disk.
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            print(f"tracking={self._name} ends here, {METRICS_FILE} goes on: {said}", file=sys.stderr)
            self._backend = None


class Wandb:
    """A wandb run under one id. WANDB_MODE=offline needs no account; WANDB_PROJECT names the project."""

    def __init__(self, folder: Path, config: Any, rows: list[dict[str, Any]]) -> None:
        """Open or continue the run.

        Args:
            folder: Its name becomes the run's name.
            config: Options shown with the run. `tracking_group` names its group; None takes the folder above.
            rows: Those that wandb lacks are sent again: a killed process loses wandb's buffers, and offline every
                process writes a file of its own.
        """
        self._run = _open_wandb(folder, config)
        # wandb ignores rows of steps before the one that it has reached.
        first = self._run.step
        for row in rows:
            if row["step"] >= first:
                self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        """Send the metrics of one step."""
        self._run.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])

    def summarise(self, sources: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        """Send a table of the sources, a bar chart of the rows drawn, and the loss of every source over the steps."""
        self._run.log(_tables_and_plots(sources, rows), step=rows[-1]["step"])

    def finish(self) -> None:
        """End the run; waits at most `SECONDS_FOR_LAST_UPLOADS` for the network."""
        self._run.finish()


class TensorBoard:
    """One event file of all steps in the run's folder `tensorboard`, and its options as a text."""

    def __init__(self, folder: Path, config: Any, rows: list[dict[str, Any]]) -> None:
        """Write the file anew from the steps so far: a curve of several files would show dropped steps.

        Args:
            folder: The run's output folder.
            config: Options shown with the run.
            rows: Metrics of the steps so far.
        """
        from torch.utils.tensorboard.writer import SummaryWriter

        place = folder / "tensorboard"
        shutil.rmtree(place, ignore_errors=True)
        self._writer = SummaryWriter(str(place))
        options = "".join(f"    {line}\n" for line in to_yaml(config).splitlines())
        self._writer.add_text("options", options)
        for row in rows:
            self._add(row)
        self._writer.flush()

    def log(self, row: dict[str, Any]) -> None:
        """Write the metrics of one step to the disk."""
        self._add(row)
        self._writer.flush()

    def _add(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, row["step"])

    def summarise(self, sources: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        """Add a table of the sources.

        Args:
            sources: One row a source of training rows.
            rows: Of metrics.jsonl; the curves hold them already.
        """
        lines = [list(sources[0]), ["---"] * len(sources[0]), *(list(source.values()) for source in sources)]
        self._writer.add_text("sources", "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()


BACKENDS: dict[str, Callable[[Path, Any, list[dict[str, Any]]], Backend]] = {
    "wandb": Wandb,
    "tensorboard": TensorBoard,
}


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
