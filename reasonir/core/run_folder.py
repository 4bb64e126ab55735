"""The output folder of a command: what was asked (config.yaml), what came out, and whether it is finished.

Invariant: `manifest.json` is written last and whole; a folder without it is unfinished. A folder never mixes two runs.
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
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, file_sha256, write_text
from reasonir.core.stamp import input_files, read_stamp, remove_stamp, unchanged, write_stamp

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
        if not path:
            raise UserError("output_dir is empty; name a folder")
        self._refuse_strangers(resume, list(ignored), ignored_groups)

    def _refuse_strangers(self, resume: bool, ignored: list[str], ignored_groups: tuple[str, ...]) -> None:
        # 1 a file stands in the way: `mkdir` in `start` would fail with a traceback after the input was read
        for path in (self.path, *self.path.parents):
            if path.exists() and not path.is_dir():
                raise UserError(f"output_dir={self.path}: {path} is a file; name a folder")
        # 2 a folder that was made but not used
        stored = self.path / CONFIG_FILE
        if not self.path.exists() or set(self.path.iterdir()) <= {stored}:
            return  # only config.yaml is here: the earlier run produced nothing, so its options need not match
        # 3 a folder that no command of ours made
        if not stored.is_file():
            raise UserError(f"output_dir={self.path} holds other files; name a new folder")
        # 4 a run of other options
        changed = changed_fields(stored.read_text(encoding="utf-8"), self._config, ignored)
        changed = [field for field in changed if not field.startswith(ignored_groups)]
        if changed:
            raise UserError(
                f"output_dir={self.path} holds a run of another configuration ({'; '.join(changed[:3])}); "
                "name a new folder, or give the same options"
            )
        # 5 the same run, which the user did not ask to continue
        if not resume:
            raise UserError(f"output_dir={self.path} holds this run already; resume=true continues it")

    def start(self) -> None:
        """Create the folder and write the resolved configuration; an older manifest no longer counts."""
        self.path.mkdir(parents=True, exist_ok=True)
        # The manifest goes before the first new file: from here on the folder is unfinished.
        remove_stamp(self.path / MANIFEST_FILE)
        write_text(self.path / CONFIG_FILE, to_yaml(self._config))

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
