"""Many requests in flight behind one plain iterator: shared by all engines that answer requests one by one.

Invariants: at most `max_concurrency` requests are in flight and half as many more wait for their turn; as many answers
again may be unread. A key that is being paid for is never asked for a second time. Leaves to the engine how one request
is answered.
"""

import asyncio
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from reasonir.llm.engines.completions import Budget, CompletionLog, look_up, stop_for
from reasonir.llm.engines.verdicts import Verdicts
from reasonir.llm.records import Completion, Request

# Pause before a source that had no request is asked again.
SECONDS_BETWEEN_LOOKS = 0.02


class ConcurrentGenerator:
    """Answers requests through the coroutine `ask` of a subclass, on an event loop in a thread of its own."""

    def __init__(
        self,
        model: str,
        log: CompletionLog,
        budget: Budget,
        max_concurrency: int,
        *,
        max_attempts: int = 1,
        key_options: Mapping[str, Any] | None = None,
        finish_seconds: float = 0.0,
    ) -> None:
        """Start the event loop's thread.

        Args:
            model: Its name, part of the keys.
            log: The paid answers.
            budget: What may be spent.
            max_concurrency: Requests in flight at once.
            max_attempts: Attempts that the engine makes at a request, for messages.
            key_options: Options that shape every answer, part of the keys.
            finish_seconds: How long `finish_in_flight` waits.
        """
        self.model = model
        self._log, self._budget, self._key_options = log, budget, key_options
        self._max_concurrency, self._max_attempts, self._finish_seconds = max_concurrency, max_attempts, finish_seconds
        self._asked: dict[str, asyncio.Task[Completion]] = {}
        self._in_flight: set[asyncio.Task[Completion]] = set()
        self._seats = asyncio.Semaphore(max_concurrency)
        # Half as many more than are in flight, so that a free seat need not wait for the caller.
        self._most_waiting = max_concurrency + max_concurrency // 2
        self._closed, self._closing = False, threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="generator", daemon=True)
        self._thread.start()

    async def ask(self, request: Request) -> Completion:
        """Answer one request; a failure that ends the run is raised, any other is a completion without an answer."""
        raise NotImplementedError

    async def shut(self) -> None:
        """Give back what the engine holds; runs on the loop, after its last request."""

    def complete(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield the answer of every request, in any order; see `Generator.complete`.

        Raises:
            UserError: the server refuses for good (key, model, parameters).
            RunStopped: the budget is spent and everything in flight was yielded; or the server is down; or the server
                failed some requests and everything else was yielded.
        """
        source = look_up(requests, lambda request: request.key(self.model, self._key_options), self._log, self._budget)
        done: queue.SimpleQueue[Future[tuple[str, Completion]]] = queue.SimpleQueue()
        verdicts = Verdicts(self._log, self.model, self._max_concurrency, self._max_attempts)
        unread, spent, more = 0, "", True
        while more or unread or verdicts.holds_back:
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
                yield from verdicts.hear(*answer.result())
            # Nothing is in flight, so that no further answer can tell.
            elif verdicts.holds_back:
                yield from verdicts.settle()
            elif waiting:
                time.sleep(SECONDS_BETWEEN_LOOKS)
        if spent:
            raise stop_for(spent)
        verdicts.end()

    def _has_room(self, unread: int, ended: int) -> bool:
        return unread - ended < self._most_waiting and unread < 2 * self._most_waiting

    async def _answer(self, key: str, request: Request) -> tuple[str, Completion]:
        twin = self._asked.get(key)
        if twin is not None:
            # Shielded: where this request is dropped, the one that pays goes on.
            answer = await asyncio.shield(twin)
            return key, replace(answer, id=request.id, cached=answer.answered)
        known = self._log.find(key, request.id)  # a twin may have ended since `complete` looked
        if known is not None:
            return key, known
        task = self._asked[key] = asyncio.create_task(self._pay(key, request))
        try:
            return key, await task
        finally:
            del self._asked[key]

    async def _pay(self, key: str, request: Request) -> Completion:
        started, task = time.monotonic(), asyncio.current_task()
        assert task is not None
        async with self._seats:
            self._in_flight.add(task)
            try:
                completion = await self.ask(request)
            finally:
                self._in_flight.discard(task)
        # A failed request is not logged, so that the next run asks again.
        if completion.answered:
            self._log.append(key, self.model, completion, time.monotonic() - started)
        return completion

    def finish_in_flight(self) -> None:
        """Wait up to finish_seconds for the requests in flight, so that their answers reach the log; drop the others.

        A further Ctrl-C ends the waiting.
        """
        if self._closed or not self._in_flight or not self._finish_seconds:
            return
        waited, before = len(self._in_flight), len(self._log)
        limit = f"{self._finish_seconds:g} s"
        print(f"waiting up to {limit} for {waited} answers in flight; Ctrl-C again ends at once", file=sys.stderr)
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        print(f"{len(self._log) - before} of {waited} answers in flight were kept", file=sys.stderr)

    async def _finish(self) -> None:
        for task in set(self._asked.values()) - self._in_flight:
            task.cancel()
        if self._in_flight:
            await asyncio.wait(set(self._in_flight), timeout=self._finish_seconds)

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
