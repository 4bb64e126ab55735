"""`reasonir-eval` with blocks of three texts; one rank is killed (SIGKILL) before its n-th block is written.

    python -m tests.distributed.evaluation_worker RANK BLOCK MARKER task [options]

The fault strikes once: MARKER says that it has. BLOCK 0 strikes never.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from reasonir.core.processes import rank
from reasonir.eval import cli
from reasonir.retrieval import sharding

sharding.BLOCK_TEXTS = 3


def main() -> None:
    struck_rank, struck_block, marker = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    plain, done = sharding.ShardedEncoding._write, []

    def fragile(self: sharding.ShardedEncoding, *args: Any) -> Any:
        done.append(1)
        if rank() == struck_rank and len(done) == struck_block and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        print(f"rank {rank()} has encoded a block", flush=True)
        return plain(self, *args)

    sharding.ShardedEncoding._write = fragile  # type: ignore[method-assign]
    cli.main(sys.argv[4:])


if __name__ == "__main__":
    main()
