"""Make the next item in a thread while the present one is used: batches in training, tokens in encoding."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(make: Callable[[Item], Made], items: Iterable[Item], depth: int = 1) -> Generator[Made, None, None]:
    """Yield `make(item)` for every item in order, computed up to `depth` items ahead in one thread.

    An error of `make` is raised where its result is asked for. Closing the generator ends the thread as soon as the
    item in progress is done. Where `items` itself raises, the items before are still made.

    Args:
        make: Runs in the thread, one item at a time.
        items: Consumed in the caller's thread.
        depth: How many results may wait, 1 or more; each stays in memory.
    """
    coming: deque[Future[Made]] = deque()
    # One thread: results stay in order, and `make` needs no locks.
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        try:
            for item in items:
                coming.append(thread.submit(make, item))
                if len(coming) > depth:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        # Other errors cancel nothing: what was submitted before `items` failed is still made.
        # The pool waits for its thread at the end of the block: what has not begun must not be made first.
        except GeneratorExit:
            for future in coming:
                future.cancel()
            raise
