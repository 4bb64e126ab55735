"""Make the next items in a thread or in processes while the present one is used: batches in training, tokens."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(
    make: Callable[[Item], Made], items: Iterable[Item], depth: int = 1, pool: Executor | None = None
) -> Generator[Made, None, None]:
    """Yield `make(item)` for every item in order, computed up to `depth` items ahead.

    An error of `make` is raised where its result is asked for. Closing the generator ends the pool as soon as the
    items in progress are done. Where `items` itself raises, the items before are still made.

    Args:
        make: Runs in the pool; it needs no locks where that is one thread.
        items: Consumed in the caller's thread.
        depth: How many results may wait, 1 or more; each stays in memory.
        pool: Threads or processes, which end with the generator; None is one thread.
    """
    coming: deque[Future[Made]] = deque()
    with pool or ThreadPoolExecutor(1, thread_name_prefix="prefetch") as workers:
        try:
            for item in items:
                coming.append(workers.submit(make, item))
                if len(coming) > depth:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        # Other errors cancel nothing: what was submitted before `items` failed is still made.
        # The pool waits for its workers at the end of the block: what has not begun must not be made first.
        except GeneratorExit:
            for future in coming:
                future.cancel()
            raise
