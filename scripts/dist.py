"""Build the sdist and the wheel that a release uploads: `make dist`, or `python scripts/dist.py FOLDER`.

Invariant: one commit gives the same bytes, whatever lies about in the checkout and whenever it is built. Only tracked
files take part, in a folder of their own; the wheel is built from the sdist, so that what the sdist lacks is noticed;
the time on every file is the commit's.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


def build(folder: Path, root: Path = ROOT) -> tuple[Path, Path]:
    """Write sdist and wheel of a checkout's tracked files into a folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    epoch = int(git(root, "log", "-1", "--format=%ct"))
    with tempfile.TemporaryDirectory(prefix="reasonir-dist-") as place:
        source, built = Path(place, "source"), Path(place, "built")
        for name in git(root, "ls-files", "-z").rstrip("\0").split("\0"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, source / name)
        sdist = repack(_backend("build_sdist", source, built, epoch), folder, epoch)
        with tarfile.open(sdist) as archive:
            archive.extractall(place, filter="data")
        wheel = _backend("build_wheel", Path(place, sdist.name.removesuffix(".tar.gz")), built, epoch)
        return sdist, Path(shutil.copy(wheel, folder))


def _backend(hook: str, source: Path, built: Path, epoch: int) -> Path:
    """Call a hook of the build backend that pyproject.toml names, as pip does, in the environment as it is."""
    built.mkdir(exist_ok=True)
    code = f"import sys; from setuptools import build_meta; print(build_meta.{hook}(sys.argv[1]))"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", code, str(built)]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{hook} failed:\n{done.stderr}")
    return built / done.stdout.split()[-1]


def repack(sdist: Path, folder: Path, epoch: int) -> Path:
    """Write an sdist anew: files by name, with one time, one owner and one mode; setuptools notes the build's."""
    path = folder / sdist.name
    with (
        tarfile.open(sdist) as old,
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=epoch) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted((m for m in old.getmembers() if m.isfile()), key=lambda member: member.name):
            entry = tarfile.TarInfo(member.name)
            entry.size, entry.mtime, entry.mode = member.size, epoch, 0o644
            new.addfile(entry, old.extractfile(member))
    return path


def main() -> None:
    if git(ROOT, "status", "--porcelain", "--untracked-files=no"):
        sys.exit("the checkout has changes that are not committed; a release is one commit")
    for path in build(Path(sys.argv[1])):
        print(path)


if __name__ == "__main__":
    main()
