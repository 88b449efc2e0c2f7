"""Calls of one kind that many runs make at once share one statement. No timer: a single call is
sent at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from aiodurable.errors import ClosedError, PostgresUnavailableError

__all__ = ["Batcher"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Batcher(Generic[K, V]):
    """Collects the calls that arrive while a statement is under way, and sends them in the next
    one.

    A statement starts after the calls that it answers: they see everything that was committed
    before them.

    It belongs to the event loop in which it is made, or first called where none runs then: a
    statement of one loop could not wake a call of another one, which is in another thread.

    Args:
        fetch: given distinct keys, returns a value for each; for a missing key the call returns
            None.
        limit: the most keys in one statement.
        shared: calls with the same key share a value; otherwise each gets a statement of its own.
        name: of the task, for debuggers.
    """

    def __init__(
        self,
        fetch: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        limit: int = 100,
        shared: bool = False,
        name: str,
    ) -> None:
        self._fetch = fetch
        self._limit = limit
        self._shared = shared
        self._name = name
        self._waiting: deque[tuple[K, asyncio.Future[V | None]]] = deque()
        self._sent: Mapping[K, Sequence[asyncio.Future[V | None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):  # none runs
            self._loop = asyncio.get_running_loop()

    async def __call__(self, key: K) -> V | None:
        """The value for one key; None if there is none.

        Raises:
            ClosedError: after `aclose`, or in another event loop.
            Exception: what `fetch` raises for this key alone, or because Postgres is away.
        """
        if self._closed:
            raise ClosedError("the connection was closed: keep it open for as long as graphs run")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise ClosedError("this Durable belongs to another event loop: open one in each loop")
        answer: asyncio.Future[V | None] = loop.create_future()
        self._waiting.append((key, answer))
        if self._task is None or self._task.done():  # an eager task may be done before it is stored
            self._task = asyncio.create_task(self._serve(), name=self._name)
        return await answer

    async def aclose(self, timeout_s: float = 1.0) -> None:
        """Fail the waiting calls, and all later ones, with `ClosedError` within `timeout_s`
        seconds. Idempotent.
        """
        self._closed = True
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=timeout_s)
            self._give_up()

    def _give_up(self) -> None:
        sent = (answer for answers in self._sent.values() for answer in answers)
        for answer in (*sent, *(waiting[1] for waiting in self._waiting)):
            if not answer.done():
                answer.set_exception(
                    ClosedError("the connection was closed before the answer came")
                )
        self._waiting.clear()

    async def _serve(self) -> None:
        try:
            while batch := self._take():
                self._sent = batch
                await self._answer(batch)
        finally:
            self._task = None
            self._give_up()

    def _take(self) -> dict[K, list[asyncio.Future[V | None]]]:
        batch: dict[K, list[asyncio.Future[V | None]]] = {}
        later: list[tuple[K, asyncio.Future[V | None]]] = []
        while self._waiting and len(batch) < self._limit:
            key, answer = self._waiting.popleft()
            if answer.done():  # its caller was cancelled
                continue
            if key not in batch:
                batch[key] = [answer]
            elif self._shared:
                batch[key].append(answer)
            else:
                later.append((key, answer))
        self._waiting.extendleft(reversed(later))
        return batch

    async def _answer(self, batch: Mapping[K, Sequence[asyncio.Future[V | None]]]) -> None:
        try:
            answers = await self._fetch(tuple(batch))
        except Exception as error:  # one of the calls caused it; below it turns out which
            if len(batch) == 1 or isinstance(error, PostgresUnavailableError | ClosedError):
                for waiting in batch.values():
                    for answer in waiting:
                        if not answer.done():
                            answer.set_exception(error)
            else:  # a key that Postgres refuses must not fail the others
                for key, waiting in batch.items():
                    await self._answer({key: waiting})
            return
        for key, waiting in batch.items():
            found = answers.get(key)
            for answer in waiting:
                if not answer.done():
                    answer.set_result(found)
