"""A lone request: sent in the turn of the event loop in which it is made, and answered in that in
which its statement is.

A session that has nothing else to do, and whose last statement carried one request at most, sends
so. The way through the task of the `Sender` and back would take two more turns for each statement,
which a request that shares it with nobody pays alone. All the same nobody who leaves cancels the
statement: it is the session's, and a callback receives its answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Self, TypeVar

import asyncpg

from aiodurable.locks.lease import SessionLease
from aiodurable.locks.statements import FREED, NOT_HELD, Statement
from aiodurable.postgres.errors import DRIVER_FAILURES

if TYPE_CHECKING:
    from aiodurable.locks.session import LockSession

__all__ = ["LoneRelease", "LoneRequest", "LoneTry"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


class LoneRequest(asyncio.Future[T]):
    """The future of one key that is tried, or unlocked, in a statement of its own.

    Its first callback, which wakes the task that awaits it, runs in the turn in which the statement
    is answered, and not in the next one.

    Attributes:
        key: the key.
        refused: the server had no memory for the lock: the `Sender` undoes the statement.
    """

    __slots__ = ("_first", "_sent", "_session", "_statement", "key", "refused")

    tries = 0

    def send(self, session: LockSession, key: int, statement: Callable[[int], Statement]) -> Self:
        """Begin the statement, and be called back with its answer. Raises nothing of the driver's:
        what fails fails the future."""
        self.key = key
        self.refused: asyncpg.OutOfMemoryError | None = None
        self._session = session
        self._first: tuple[Callable[[Self], object], Context] | None = None
        session.quiet = False
        session.lone = self
        self._sent = time.monotonic()
        try:
            self._statement = statement(key)
            self._statement.send(None).add_done_callback(self._answered)
        except BaseException as error:
            self._failed(error)
        return self

    def _answered(self, _answer: object) -> None:
        try:
            self._statement.send(None).add_done_callback(self._answered)
        except StopIteration as end:
            [(pid, result)] = end.value
        except BaseException as error:
            self._failed(error)
            return
        else:  # it waits for more than its answer, which asyncpg has no reason for today
            return
        # Not while StopIteration is handled: it would be the context of what the task raises.
        session = self._session
        if session.over is None and session.note_answer(pid, self._sent):
            session.lone_answered()
            self._settle(session, result)
            if (first := self._first) is not None:  # _wake, without another call
                self._first = None
                fn, context = first
                context.run(fn, self)

    def _failed(self, error: BaseException) -> None:
        session = self._session
        if isinstance(error, asyncpg.OutOfMemoryError):
            self.refused = error
            session.work.set()
        elif isinstance(error, DRIVER_FAILURES):
            session.failed(error)
        else:  # nobody may trust this session any longer, or wait for it
            session.lose(type(error).__name__)
            if not isinstance(error, Exception):
                raise error
            _log.error("a lock session failed unexpectedly: please report this", exc_info=error)

    @abstractmethod
    def _settle(self, session: LockSession, result: Any) -> None: ...

    @abstractmethod
    def fail(self, error: Callable[[], Exception]) -> None:
        """As `Batch.fail`."""

    def add_done_callback(
        self, fn: Callable[[Self], object], /, *, context: Context | None = None
    ) -> None:
        """Like that of any future."""
        if self._first is None and not self.done():
            self._first = fn, copy_context() if context is None else context
        else:
            super().add_done_callback(fn, context=context)

    def _wake_soon(self) -> None:
        self.get_loop().call_soon(self._wake)

    def _wake(self) -> None:
        if (first := self._first) is not None:
            self._first = None
            fn, context = first
            context.run(fn, self)


class LoneTry(LoneRequest["SessionLease | None"]):
    """A key to try. Gives what `LockSession.acquire` gives."""

    __slots__ = ("name",)

    tries = 1

    name: str

    def _settle(self, session: LockSession, result: int | None) -> None:
        key = self.key
        if self.done():  # cancelled while the statement was under way
            if result is not None:
                session.release(key)
        elif result is None:
            self.set_result(None)
        else:
            granting = session.granting
            lease = session.held[key] = SessionLease(
                self.name, key, result, granting.release, granting.trust, session.clock.answered
            )
            self.set_result(lease)

    def fail(self, error: Callable[[], Exception]) -> None:
        """As `Batch.fail`."""
        if not self.done():
            self.set_exception(error())
            self._wake_soon()

    def cancel(self, msg: object = None) -> bool:
        """Like that of any future."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._wake_soon()
        return cancelled


class LoneRelease(LoneRequest[Mapping[int, int]]):
    """A key to unlock. Gives what a `ReleaseFuture` gives, and cannot be cancelled either."""

    __slots__ = ()

    def _settle(self, session: LockSession, result: int) -> None:
        if result == NOT_HELD:
            session.lose("a lock was not there any more when it was to be unlocked")
        self.set_result({} if result == FREED else {self.key: result})

    def fail(self, error: Callable[[], Exception]) -> None:  # noqa: ARG002  # it is, or will be, unlocked
        """As `Batch.fail`."""
        if not self.done():
            self.set_result({})
            self._wake_soon()

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  # asyncio passes it by name
        """Refused."""
        return False
