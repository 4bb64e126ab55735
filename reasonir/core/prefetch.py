"""Makes the next thing in a thread while the present one is used: batches in training, tokens in encoding."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(make: Callable[[Item], Made], items: Iterable[Item], depth: int = 1) -> Generator[Made, None, None]:
    """Yield `make(item)` for every item in order, made up to `depth` ahead in one thread.

    An error of `make` is raised where its result is asked for. Closing the generator ends the thread once it is done
    with what it is at; where `items` fails, all that it gave is made first.

    Args:
        items: consumed in the caller's thread.
        depth: >= 1.
    """
    coming: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        try:
            for item in items:
                coming.append(thread.submit(make, item))
                if len(coming) > depth:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        except GeneratorExit:
            for future in coming:
                future.cancel()
            raise
