"""Books about lock sessions, kept beside theirs: every statement is written down on its way to the
wire and back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.locks.session import LockSession
from aiodurable.locks.statements import Answer, LockStatements
from tests.support.internals import releases_wait


class Books:
    """Attributes: `wrong` is what broke a rule, in words; `seen` counts what came up, for tests
    that want it to.
    """

    def __init__(self, terms: LeaseTiming) -> None:
        self.wrong: list[str] = []
        self.seen: Counter[str] = Counter()
        self._terms = terms
        self._granted: dict[int, set[int]] = {}
        self._sent: dict[int, float] = {}
        self._under_way: set[int] = set()
        self._wires: list[LockStatements] = []  # kept, so that no two ever share an id

    def keep(self, patch: pytest.MonkeyPatch) -> None:
        """From now on, of every session of this process."""
        batch, flags, undo, audit = (
            LockStatements.batch,
            LockStatements.flags,
            LockStatements.undo,
            LockStatements.audit,
        )
        acquire, release = LockStatements.acquire, LockStatements.release
        init, cancel = LockSession.__init__, "asyncpg.connection.Connection._cancel_current_command"
        sessions: dict[int, LockSession] = {}

        def made(session: LockSession, wire: LockStatements, *args: Any, **options: Any) -> None:
            sessions[id(wire)] = session
            init(session, wire, *args, **options)

        async def watched_batch(
            wire: LockStatements, releases: Sequence[int], acquires: Sequence[int], tokens: int
        ) -> Answer:
            granted = self._granted[id(wire)]
            self._rule(
                granted.issuperset(releases), "a key is released on the session that took it"
            )
            self._rule(
                (granted - set(releases)).isdisjoint(acquires),
                "a session is never asked twice for a key",
            )
            behind = releases_wait(sessions[id(wire)])
            self._rule(not (behind and (acquires or tokens)), "no release waits behind a try")
            self.seen["releases in several batches"] += behind
            answer = await self._timed(wire, batch(wire, releases, acquires, tokens))
            granted.difference_update(releases)
            granted.update(
                key
                for key, token in zip(acquires, answer.acquired, strict=True)
                if token is not None
            )
            return answer

        async def watched_acquire(wire: LockStatements, key: int) -> Any:
            if id(wire) in self._under_way:  # part of a batch, which is watched
                return await acquire(wire, key)
            self.seen["lone requests"] += 1
            granted = self._granted[id(wire)]
            self._rule(key not in granted, "a session is never asked twice for a key")
            answer = await self._timed(wire, acquire(wire, key))
            [(_, token)] = answer
            if token is not None:
                granted.add(key)
            return answer

        async def watched_release(wire: LockStatements, key: int) -> Any:
            if id(wire) in self._under_way:
                return await release(wire, key)
            self.seen["lone requests"] += 1
            granted = self._granted[id(wire)]
            self._rule(key in granted, "a key is released on the session that took it")
            answer = await self._timed(wire, release(wire, key))
            granted.discard(key)
            return answer

        async def watched_flags(
            wire: LockStatements, down: Sequence[int], up: Sequence[int]
        ) -> Any:
            return await self._timed(wire, flags(wire, down, up))

        async def watched_undo(
            wire: LockStatements, keys: Sequence[int], flags: Sequence[int] = ()
        ) -> None:
            self.seen["batches given back"] += 1
            await undo(wire, keys, flags)
            self._granted[id(wire)].difference_update(keys)

        async def watched_audit(wire: LockStatements, held: int) -> Any:
            self._wires.append(wire)
            self._granted.setdefault(id(wire), set())
            return await self._timed(wire, audit(wire, held))

        patch.setattr(LockSession, "__init__", made)
        for name, watched in (
            ("batch", watched_batch),
            ("acquire", watched_acquire),
            ("release", watched_release),
            ("flags", watched_flags),
            ("undo", watched_undo),
            ("audit", watched_audit),
        ):
            patch.setattr(LockStatements, name, watched)
        patch.setattr(cancel, lambda *_: self._rule(False, "no statement is cancelled"))

    def trusted_too_long(self, session: LockSession) -> bool:
        """Whether it is trusted longer than from the sending of the last statement that was
        answered.
        """
        return session.clock.trust.until > self._terms.trusted_until(
            self._sent[id(session.statements)]
        )

    async def _timed(self, wire: LockStatements, statement: Any) -> Any:
        self._rule(id(wire) not in self._under_way, "one statement at a time")
        self._under_way.add(id(wire))
        sent = time.monotonic()  # the session took its own time before: no later than this
        try:
            answer = await statement
        finally:
            self._under_way.discard(id(wire))
        self._sent[id(wire)] = sent
        return answer

    def _rule(self, kept: bool, rule: str) -> None:
        if not kept:
            self.wrong.append(rule)
