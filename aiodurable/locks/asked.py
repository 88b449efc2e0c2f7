"""What a session was asked for and has not answered: futures in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aiodurable.locks.lease import Lease
from aiodurable.locks.wire import FREED, Answer

__all__ = ["BATCH", "Asked", "Batch", "Release", "Tried"]

BATCH: Final = 2000
"""Keys a statement carries at most: some 10 ms of work for the server, so that nobody waits long behind the others."""


class Release(asyncio.Future[int]):
    """What became of a key that was to be unlocked. A release is carried out whoever asked: it cannot be cancelled.

    So whoever awaits it and is cancelled meanwhile gets its `CancelledError` when the server has answered, for that is
    what a task does when the future it waits for refuses. `asyncio.shield` would end the wait at once, and costs twice as
    much as the rest of a release.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  # asyncio passes it by name
        """Refused."""
        return False


Tried = tuple[int, str, "asyncio.Future[Lease | None]"]
Released = tuple[int, Release]


@dataclass(slots=True)
class Batch:
    """What travels as one statement. `renewals` are of keys that stay locked and only want a token."""

    releases: list[Released] = field(default_factory=list[Released])
    acquires: list[Tried] = field(default_factory=list[Tried])
    renewals: list[Tried] = field(default_factory=list[Tried])

    def __bool__(self) -> bool:
        return bool(self.releases or self.acquires or self.renewals)

    @property
    def keys(self) -> tuple[list[int], list[int]]:
        """Those to unlock and those to try."""
        return [key for key, _ in self.releases], [key for key, _, _ in self.acquires]

    def settle(self, answer: Answer, make: Callable[[int, str, int], Lease]) -> list[int]:
        """Give everybody the answer. Returns keys that were granted to callers who had left: they must go back."""
        for (_, future), became in zip(self.releases, answer.released, strict=True):
            future.set_result(became)
        for (key, name, future), token in zip(self.renewals, answer.tokens, strict=True):
            if not future.done():
                future.set_result(make(key, name, token))
        unwanted: list[int] = []
        for (key, name, future), token in zip(self.acquires, answer.acquired, strict=True):
            if future.done():  # its caller was cancelled while the statement was under way
                if token is not None:
                    unwanted.append(key)
            else:
                future.set_result(None if token is None else make(key, name, token))
        return unwanted

    def fail(self, error: Callable[[], Exception]) -> None:
        """Nothing was granted, and everything is, or will be, let go of."""
        for _, released in self.releases:
            if not released.done():
                released.set_result(FREED)
        for _, _, tried in (*self.acquires, *self.renewals):
            if not tried.done():
                tried.set_exception(error())


class Asked(Batch):
    """The queue, and the batch that is under way."""

    __slots__ = ("under_way",)

    def __init__(self) -> None:
        super().__init__()
        self.under_way = Batch()

    def take(self) -> Batch:
        """The next batch. A release never waits behind an acquire: as long as there are too many, nothing else goes."""
        releases, self.releases = self.releases[:BATCH], self.releases[BATCH:]
        acquires: list[Tried] = []
        if not self.releases:
            acquires, self.acquires = self.acquires[:BATCH], self.acquires[BATCH:]
            acquires = [tried for tried in acquires if not tried[2].done()]
        renewals, self.renewals = self.renewals[:BATCH], self.renewals[BATCH:]
        self.under_way = Batch(releases, acquires, renewals)
        return self.under_way

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """The session is over."""
        for batch in (self.under_way, self):
            batch.fail(error)
        self.releases, self.acquires, self.renewals = [], [], []
        self.under_way = Batch()
