"""`drain_queue`: execute what is ready, in the test's own process, until nothing is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError, InvalidArgumentError
from aiodurable.models import ClaimState, RunRecord, RunStatus
from aiodurable.postgres.sql import load
from aiodurable.queue import RetryPolicy
from aiodurable.testing.services import services_of
from aiodurable.testing.sleepers import let_sleepers_pass
from aiodurable.worker.claims import Claimed, Claims
from aiodurable.worker.executor import Execution

__all__ = ["DrainReport", "drain_queue"]

_SQL: Final = load("testing")
_MOMENT_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What `drain_queue` executed.

    Attributes:
        runs: each attempt: the run_id, and its outcome: complete, retry (failed, to be tried
            again), quarantined, snoozed, interrupted, paused, not_begun.
        limit_reached: whether it stopped at its limit: more may be ready.
    """

    runs: tuple[tuple[str, str], ...]
    limit_reached: bool

    @property
    def counts(self) -> Mapping[str, int]:
        """Attempts by outcome."""
        return Counter(outcome for _, outcome in self.runs)

    def __len__(self) -> int:
        return len(self.runs)


async def drain_queue(
    durable: Durable,
    *,
    queues: Sequence[str] = ("default",),
    with_scheduled: bool = False,
    with_retries: bool = False,
    limit: int = 1000,
    retry_policy: RetryPolicy | Mapping[str, RetryPolicy] | None = None,
) -> DrainReport:
    """Execute the runs that are ready, one after the other, until none is; also those that these
    runs accept.

    It claims and executes them as a worker does, with limits, priorities and retry policies, and
    waits for nothing. It fires no schedule: `advance` does.

    Args:
        durable: has the graphs by name.
        queues: those to drain.
        with_scheduled: also what is due later or sleeps, the earliest first, as if it were due now.
        with_retries: also the retries of what failed, without their waits: until each run is
            complete or quarantined.
        limit: attempts, at most.
        retry_policy: as for `Durable.work`.

    Raises:
        ConfigurationError: this `Durable` has no graphs by name.
        InvalidArgumentError: an argument cannot be used.
        ClosedError: it is not open.
    """
    if isinstance(queues, str) or not queues:
        raise InvalidArgumentError(
            f"cannot drain queues={queues!r}: name at least one, in a list", argument="queues"
        )
    if not limit >= 1:
        raise InvalidArgumentError(
            f"cannot drain with limit={limit!r}: it must be 1 or more", argument="limit"
        )
    services = services_of(durable)
    if not services.graphs.registered:
        raise ConfigurationError(
            "cannot drain a queue: this Durable has no graphs by name; open it with graphs={…}"
        )
    policies = (
        {"": retry_policy or RetryPolicy()}
        if retry_policy is None or isinstance(retry_policy, RetryPolicy)
        else {"": RetryPolicy(), **retry_policy}
    )
    executed = list[tuple[str, str]]()
    left = set[str]()  # could not be begun, as their threads are held: once is enough
    kept = list[str]()  # of these what became ready again: claimed until the end
    claims = Claims(services, queues)
    try:
        while len(executed) < limit:
            await claims.tidy(kept)
            if not (claimed := await claims.claim(1)):
                wanted = (with_scheduled, with_retries)
                arguments = (list(queues), claims.graphs, *wanted, sorted(left))
                due = await services.checkpoints.direct.fetch(_SQL["earliest_due_now"], *arguments)
                if not due:
                    return DrainReport(tuple(executed), limit_reached=False)
                for row in due:
                    if row["passed_s"] is not None:
                        slept = timedelta(seconds=row["passed_s"] + _MOMENT_S)
                        await let_sleepers_pass(services, row["thread_id"], slept)
                continue
            run_id = claimed[0].run_id
            if run_id in left:
                kept.append(run_id)
                continue
            await Execution(services, claims, claimed[0], policies).execute()
            outcome = _outcome(claimed[0], await durable.runs.get(run_id))
            executed.append((run_id, outcome))
            if outcome == "not_begun":
                left.add(run_id)
        return DrainReport(tuple(executed), limit_reached=True)
    finally:
        await claims.give_back([])
        claims.close()


def _outcome(claimed: Claimed, run: RunRecord) -> str:
    if run.status is RunStatus.QUEUED and claimed.status == RunStatus.QUEUED:
        return "not_begun"
    if run.claim_state is ClaimState.SCHEDULED and run.status is RunStatus.FAILED:
        return "snoozed" if run.reason == "snoozed" else "retry"
    return str(run.status)
