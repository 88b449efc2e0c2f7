"""Runs that may have killed their workers: each is executed alone, so that no other pays for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from aiodurable.models import ClaimState, RunStatus
from aiodurable.runs.retry_policy import RetryPolicy
from aiodurable.worker.claims import Claimed, Claims
from aiodurable.worker.executor import Execution, died_too_often, policy_of

__all__ = ["Suspects"]

_PASSES: Final = 5
"""How often a worker that has other runs leaves a suspect to one that has none."""
_REMEMBERED: Final = 1000
_PASS_S: Final = 1.0
"""Seconds until it looks at it again."""


class Suspects:
    """The suspects that one worker claims.

    A run whose workers have died so often that one more death would set it aside is a suspect,
    until it makes progress. It begins where nothing else is at work, and nothing else is claimed
    meanwhile: a worker without runs takes it at once, one that has some leaves it to others for a
    while, then claims no more and executes it when its own runs have ended.

    Args:
        claims: of the worker.
        policies: when a run is tried again, by graph.
    """

    def __init__(self, claims: Claims, policies: Mapping[str, RetryPolicy]) -> None:
        self._claims = claims
        self._policies = policies
        self._passed = Counter[str]()
        self._next: Claimed | None = None

    @property
    def mine(self) -> list[str]:
        """What is claimed, and begins when nothing else is at work."""
        return [] if self._next is None else [self._next.run_id]

    def busy_with(self, active: Collection[Execution]) -> bool:
        """Whether the worker may not claim anything, for the sake of a suspect."""
        return self._next is not None or any(
            not one.progressed for one in active if self._suspected(one.claimed)
        )

    async def admit(
        self, claimed: Sequence[Claimed], active: Collection[Execution]
    ) -> list[Claimed]:
        """What may begin now of the runs just claimed; the rest is put back."""
        if self._next is not None and not active:
            first, self._next = self._next, None
            await self._pass([one for one in claimed if one.run_id != first.run_id])
            return [first]
        suspects = [one for one in claimed if self._suspected(one)]
        if not suspects:
            return list(claimed)
        others = [one for one in claimed if one not in suspects]
        if not active and not others:
            await self._pass(suspects[1:])
            return suspects[:1]
        left = list[Claimed]()
        if len(self._passed) > _REMEMBERED:  # of those that other workers have executed
            self._passed.clear()
        for one in suspects:
            self._passed[one.run_id] += 1
            if self._next is None and self._passed[one.run_id] > _PASSES:
                self._passed.clear()
                self._next = one
            else:
                left.append(one)
        await self._pass(left)
        return others

    async def give_back(self) -> None:
        """Leave what has not begun to other workers."""
        if self._next is not None:
            left, self._next = self._next, None
            await self._claims.put_back([left], ClaimState.READY)

    def _suspected(self, claimed: Claimed) -> bool:
        policy = policy_of(claimed, self._policies)
        return (
            claimed.status == RunStatus.RUNNING
            and 1 < policy.max_attempts <= claimed.failures + 1
            and not died_too_often(claimed, policy)
        )

    async def _pass(self, left: Sequence[Claimed]) -> None:
        if left:
            await self._claims.put_back(left, ClaimState.SCHEDULED, _PASS_S)
