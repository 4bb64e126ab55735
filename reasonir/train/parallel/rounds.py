"""A store of its own for every round of ranks: ranks that start again never read what an earlier round has written.

torchrun's store outlives the ranks, and nothing in their environment names the round: TORCHELASTIC_RESTART_COUNT is the
count of one node, so after a crash two nodes show different ones. Rank 0 therefore numbers the round, and answers every
rank's question for that number. A question holds a word made by chance: an answer to an older process is nobody's.
"""

import secrets
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from reasonir.core.errors import RunStopped

# Between two looks at the store: one round trip a rank.
SECONDS_BETWEEN_LOOKS = 0.05


def join_round(store: Any, rank: int, world: int, seconds: float) -> tuple[Any, int]:
    """Meet all other ranks, and return the store of this round and its number, from 1 on.

    Collective.

    Args:
        store: Shared by all ranks, and perhaps by those of earlier rounds.
        rank: This rank.
        world: Number of ranks.
        seconds: How long to wait for the others.
    Raises:
        RunStopped: The others did not come in time.
    """
    if rank == 0:
        number = store.add("rounds", 1)
        own = dist.PrefixStore(f"round_{number}", store)
        _answer(store, own, number, world, time.monotonic() + seconds)
        return own, number
    word = secrets.token_hex(8)
    store.set(f"question/{rank}", word)
    try:
        store.wait([f"answer/{word}"], timedelta(seconds=seconds))
    except dist.DistStoreError as error:
        raise RunStopped(f"rank {rank} waited {seconds:.0f} s for rank 0 to begin; does it run?") from error
    number = int(store.get(f"answer/{word}"))
    own = dist.PrefixStore(f"round_{number}", store)
    own.set(f"joined/{rank}", "1")
    return own, number


def _answer(store: Any, own: Any, number: int, world: int, until: float) -> None:
    """Tell the round's number to every rank that asks, until all have joined."""
    answered: dict[int, bytes] = {}
    missing = list(range(1, world))
    while missing:
        for other in missing:
            # A rank of an earlier round may have left a question; the rank of this one asks again.
            if store.check([f"question/{other}"]) and (word := store.get(f"question/{other}")) != answered.get(other):
                answered[other] = word
                store.set(f"answer/{word.decode()}", str(number))
        missing = [other for other in missing if not own.check([f"joined/{other}"])]
        if missing and time.monotonic() > until:
            raise RunStopped(f"ranks {', '.join(map(str, missing[:8]))} did not begin in time; do they run?")
        time.sleep(SECONDS_BETWEEN_LOOKS if missing else 0)
