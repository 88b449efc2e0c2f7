"""Questions of one kind that many runs ask at once travel as one statement. No timer: a lone one goes at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from aiodurable.errors import ClosedError, PostgresUnavailableError

__all__ = ["Batcher"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Batcher(Generic[K, V]):
    """Asks for what came in while the question before it was under way, all in one.

    A question is asked after it came in, never answered from an earlier answer: it sees what was committed before it.

    Args:
        ask: given distinct keys, answers with what there is for them; a key left out is answered with None.
        limit: how many keys one statement carries at most.
        shared: calls with the same key share an answer; otherwise each of them gets one of its own.
        name: of the task, for debuggers.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        limit: int = 100,
        shared: bool = False,
        name: str,
    ) -> None:
        self._ask = ask
        self._limit = limit
        self._shared = shared
        self._name = name
        self._waiting: deque[tuple[K, asyncio.Future[V | None]]] = deque()
        self._asked: Mapping[K, Sequence[asyncio.Future[V | None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def __call__(self, key: K) -> V | None:
        """The answer for one key. Raises what `ask` raises for it alone, and `ClosedError` after `aclose`."""
        if self._closed:
            raise ClosedError("the connection was closed: keep it open for as long as graphs run")
        loop = asyncio.get_running_loop()
        if self._task is not None and self._task.get_loop() is not loop:  # it could not answer a future of ours
            raise ClosedError("this Durable belongs to another event loop: open one in each loop")
        answer: asyncio.Future[V | None] = loop.create_future()
        self._waiting.append((key, answer))
        if self._task is None or self._task.done():  # an eager task may be done before it is stored
            self._task = asyncio.create_task(self._serve(), name=self._name)
        return await answer

    async def aclose(self, timeout_s: float = 1.0) -> None:
        """Answer nothing more. Idempotent; what waits fails with `ClosedError`, at the latest after `timeout_s` seconds."""
        self._closed = True
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=timeout_s)
            self._give_up()

    def _give_up(self) -> None:
        asked = (answer for answers in self._asked.values() for answer in answers)
        for answer in (*asked, *(waiting[1] for waiting in self._waiting)):
            if not answer.done():
                answer.set_exception(ClosedError("the connection was closed before the answer came"))
        self._waiting.clear()

    async def _serve(self) -> None:
        try:
            while batch := self._take():
                self._asked = batch
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
            answers = await self._ask(tuple(batch))
        except Exception as error:  # it is somebody's answer; whose, is found out below
            if len(batch) == 1 or isinstance(error, PostgresUnavailableError | ClosedError):
                for waiting in batch.values():
                    for answer in waiting:
                        if not answer.done():
                            answer.set_exception(error)
            else:  # one key that Postgres refuses must not fail its neighbours
                for key, waiting in batch.items():
                    await self._answer({key: waiting})
            return
        for key, waiting in batch.items():
            found = answers.get(key)
            for answer in waiting:
                if not answer.done():
                    answer.set_result(found)
