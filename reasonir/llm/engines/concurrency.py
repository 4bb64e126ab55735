"""Many requests in flight behind one plain iterator: shared by all engines that answer requests one by one.

Invariants: at most `max_concurrency` requests are in flight and half as many more wait for their turn; as many answers
again may be unread. A key that is being paid for is never asked for a second time. Leaves to the engine how one request
is answered.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace

from reasonir.llm.engines.completions import Budget, CompletionLog, look_up, stop_for
from reasonir.llm.records import Completion, Request

# Pause before a source that had no request is asked again.
SECONDS_BETWEEN_LOOKS = 0.02


class ConcurrentGenerator:
    """Answers requests through the coroutine `ask` of a subclass, on an event loop in a thread of its own."""

    def __init__(self, model: str, log: CompletionLog, budget: Budget, max_concurrency: int) -> None:
        self.model = model
        self._log, self._budget = log, budget
        self._asked: dict[str, asyncio.Task[Completion]] = {}
        self._seats = asyncio.Semaphore(max_concurrency)
        # Half as many more than are in flight, so that a free seat need not wait for the caller.
        self._most_waiting = max_concurrency + max_concurrency // 2
        self._closed, self._closing = False, threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="generator", daemon=True)
        self._thread.start()

    async def ask(self, request: Request) -> Completion:
        """Answer one request; a failure that ends the run is raised, any other is a `finish="error"`."""
        raise NotImplementedError

    async def shut(self) -> None:
        """Give back what the engine holds; runs on the loop, after its last request."""

    def complete(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield the answer of every request, in any order; see `Generator.complete`.

        Raises:
            UserError: the server refuses for good (key, model, parameters).
            RunStopped: the budget is spent and everything in flight was yielded, or the server is down.
        """
        source = look_up(requests, self.model, self._log, self._budget)
        done: queue.SimpleQueue[Future[Completion]] = queue.SimpleQueue()
        unread, spent, more = 0, "", True
        while more or unread:
            waiting = False
            while more and not waiting and self._has_room(unread, done.qsize()):
                try:
                    found = next(source)
                except StopIteration as end:
                    more, spent = False, end.value
                    break
                if found is None:
                    waiting = True
                elif isinstance(found, Completion):
                    yield found
                else:
                    unread += 1
                    asyncio.run_coroutine_threadsafe(self._answer(*found), self._loop).add_done_callback(done.put)
            if unread:
                # With a timeout only where the caller may have a request soon, else an answer is all that can happen.
                try:
                    answer = done.get(timeout=SECONDS_BETWEEN_LOOKS if waiting else None)
                except queue.Empty:
                    continue
                unread -= 1
                yield answer.result()
            elif waiting:
                time.sleep(SECONDS_BETWEEN_LOOKS)
        if spent:
            raise stop_for(spent)

    def _has_room(self, unread: int, ended: int) -> bool:
        return unread - ended < self._most_waiting and unread < 2 * self._most_waiting

    async def _answer(self, key: str, request: Request) -> Completion:
        twin = self._asked.get(key)
        if twin is not None:
            # Shielded: where this request is dropped, the one that pays goes on.
            answer = await asyncio.shield(twin)
            return replace(answer, id=request.id, cached=answer.finish != "error")
        known = self._log.find(key, request.id)  # a twin may have ended since `complete` looked
        if known is not None:
            return known
        task = self._asked[key] = asyncio.create_task(self._pay(key, request))
        try:
            return await task
        finally:
            del self._asked[key]

    async def _pay(self, key: str, request: Request) -> Completion:
        started = time.monotonic()
        async with self._seats:
            completion = await self.ask(request)
        # A failed request is not logged, so that the next run asks again.
        if completion.finish != "error":
            self._log.append(key, self.model, completion, time.monotonic() - started)
        return completion

    def close(self) -> None:
        """Drop what is in flight, end the thread, close the log. Any thread may call it, once or more often."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._log.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        # The engine may only be shut once no request uses it.
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.shut()
        await self._loop.shutdown_default_executor()  # its threads looked up host names
