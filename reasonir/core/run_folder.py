"""The output folder of a command: what was asked (config.yaml), what came out, and whether it is finished.

Invariant: `manifest.json` is written last and whole; a folder without it is unfinished. A folder never mixes two runs,
and one process at a time writes into it, from `start` to `finish`.
Leaves metrics.jsonl, its figure and trackers to `tracking/`.
"""

import gzip
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reasonir import __version__
from reasonir.core.command import changed_fields, to_yaml
from reasonir.core.errors import UserError
from reasonir.core.files import (
    CONFIG_FILE,
    LOCK_FILE,
    MANIFEST_FILE,
    FolderLock,
    file_sha256,
    lock_folder,
    read_text,
    write_text,
)
from reasonir.core.stamp import check_same_inputs, input_files, read_stamp, remove_stamp, unchanged, write_stamp

# What a folder's work was begun with: path and sha256 of every input.
INPUTS_FILE = "inputs.json"
# Packages that may change a number or a file; their versions stand in every manifest.
MANIFEST_PACKAGES = (
    "torch", "transformers", "tokenizers", "numpy", "datasets", "bm25s", "pytrec_eval-terrier", "hydra-core",
    "accelerate", "deepspeed", "peft", "vllm", "faiss-cpu",
)  # fmt: skip


def _describe_inputs(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Return path, sha256, bytes and rows of every input file (files inside, for a folder)."""
    return [
        {"path": str(file), "sha256": file_sha256(file), "bytes": file.stat().st_size, "rows": _count_rows(file)}
        for file in input_files(paths)
    ]


def _count_rows(path: Path) -> int | None:
    """Return the rows of a table (lines that are not blank); None for other files."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        # The footer knows the count: no row is read.
        return int(pyarrow.parquet.ParquetFile(path).metadata.num_rows)
    # All suffixes: rows.jsonl.gz has two.
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
            path: The folder; nothing is written before `start`.
            config: The command's options, a dataclass object; a field `seed` goes into the manifest.
            resume: Whether to continue what the folder holds.
            ignored: Dotted names of options that may differ from the stored ones (the path itself, how far to go).
            ignored_groups: Beginnings of the names of such options, with their dot.

        Raises:
            UserError: the folder holds another run, a run that `resume` was not given for, or other files.
        """
        self.path = Path(path)
        self._config = config
        self._started = time.time()
        self._lock: FolderLock | None = None
        self._rules = (resume, list(ignored), ignored_groups)
        if not path:
            raise UserError("output_dir is empty; name a folder")
        self._refuse_strangers(*self._rules)
        self._seen = self._stored_options()

    def _stored_options(self) -> str | None:
        file = self.path / CONFIG_FILE
        return read_text(file) if file.is_file() else None

    def _refuse_strangers(self, resume: bool, ignored: list[str], ignored_groups: tuple[str, ...]) -> None:
        # 1 a file stands in the way: `mkdir` in `start` would fail with a traceback after the input was read
        for path in (self.path, *self.path.parents):
            if path.exists() and not path.is_dir():
                raise UserError(f"output_dir={self.path}: {path} is a file; name a folder")
        # 2 a folder that was made but not used
        stored = self.path / CONFIG_FILE
        if not self.path.exists() or set(self.path.iterdir()) <= {stored, self.path / LOCK_FILE}:
            return  # only config.yaml is here: the earlier run produced nothing, so its options need not match
        # 3 a folder that no command of ours made
        if not stored.is_file():
            raise UserError(f"output_dir={self.path} holds other files; name a new folder")
        # 4 a run of other options
        changed = changed_fields(read_text(stored), self._config, ignored)
        changed = [field for field in changed if not field.startswith(ignored_groups)]
        if changed:
            raise UserError(
                f"output_dir={self.path} holds a run of another configuration ({'; '.join(changed[:3])}); "
                "name a new folder, or give the same options"
            )
        # 5 the same run, which the user did not ask to continue
        if not resume:
            raise UserError(f"output_dir={self.path} holds this run already; resume=true continues it")

    def start(self, inputs: Iterable[str | Path] = (), *, begun: bool = False) -> None:
        """Create the folder and write the resolved configuration; an older manifest no longer counts.

        Args:
            inputs: Files and folders whose contents the work of the folder binds itself to: they are noted.
            begun: Whether something was made of them already, which other contents must not continue.
        Raises:
            UserError: another process writes into the folder, or did since this object was made; an input changed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.path)
        if self._stored_options() != self._seen:  # another run has come and gone while this one read its input
            self._refuse_strangers(*self._rules)
        noted = [path for path in inputs if not str(path).startswith("hub:")]  # the hub has no file here
        if begun:
            self._note_inputs(noted, begun)
            require_outputs(self.path)
        # The manifest goes before the first new file: from here on the folder is unfinished.
        remove_stamp(self.path / MANIFEST_FILE)
        write_text(self.path / CONFIG_FILE, to_yaml(self._config))
        if noted and not begun:
            self._note_inputs(noted, begun)

    def _note_inputs(self, inputs: list[str | Path], begun: bool) -> None:
        refusal = f"{', '.join(map(str, inputs))}: the input changed since {self.path} was begun; name a new output_dir"
        check_same_inputs(self.path / INPUTS_FILE, inputs, begun=begun, refusal=refusal)

    @property
    def finished(self) -> bool:
        """Whether the last run in this folder reached its end."""
        return (self.path / MANIFEST_FILE).is_file()

    def finished_before(self, inputs: Iterable[str | Path], **same: Any) -> dict[str, Any] | None:
        """Return the manifest of the same run if it reached its end and its `outputs` (checksums) are as written.

        The options are the same already: `__init__` refuses others.

        Args:
            inputs: Files and folders that the run reads; other contents are another run.
            same: Further entries that the manifest must hold.
        """
        if not self.finished:
            return None  # before inputs of many gigabytes are read
        manifest = read_stamp(self.path / MANIFEST_FILE, inputs=_describe_inputs(inputs), **same)
        return manifest if manifest and unchanged(self.path, manifest.get("outputs", {})) else None

    def finish(self, *, inputs: Iterable[str | Path], counts: dict[str, Any], **more: Any) -> None:
        """Write the manifest: command, versions, seed, inputs by checksum, counts.

        Args:
            inputs: Files and folders that were read; hub data sets have no checksum and are left out by the caller.
            counts: What went in, came out and was rejected.
            more: Further entries of the manifest, such as `outputs`, which `finished_before` compares.
        """
        manifest = build_manifest(inputs, counts, self._started, seed=getattr(self._config, "seed", None), **more)
        write_stamp(self.path / MANIFEST_FILE, **manifest)
        if self._lock is not None:
            self._lock.release()


def require_outputs(folder: Path) -> None:
    """Refuse a folder whose finished files were changed or damaged; an unfinished folder tells of none."""
    stamp = read_stamp(folder / MANIFEST_FILE) or {}
    for name, checksum in stamp.get("outputs", {}).items():
        if not unchanged(folder, {name: checksum}):
            raise UserError(f"{folder / name} is not what its command wrote; remove it and run that command again")


def build_manifest(inputs: Iterable[str | Path], counts: dict[str, Any], started: float, **more: Any) -> dict[str, Any]:
    """Return the manifest that lies beside every artefact.

    Args:
        inputs: Files and folders that were read.
        counts: What went in, came out and was rejected.
        started: `time.time()` at the start of the work.
        more: Further entries.
    """
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "reasonir": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": _package_versions(),
        "inputs": _describe_inputs(inputs),
        "counts": counts,
        "wall_seconds": round(time.time() - started, 3),
        "peak_memory_gib": round(peak_memory_gib(), 3),
        **more,
    }


def peak_memory_gib() -> float:
    """Return the largest resident memory of this process so far."""
    # Linux counts kibibytes, macOS bytes.
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 2**20 if sys.platform != "darwin" else kib / 2**30


def _git_commit() -> str | None:
    """Return the commit of the checkout this package runs from; None when installed elsewhere."""
    root = Path(__file__).resolve().parents[2]
    # Asked first: git would find the repository of whoever holds a virtual environment inside theirs.
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
