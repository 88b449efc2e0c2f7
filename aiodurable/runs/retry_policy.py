"""When a run that failed is tried again, and when it is set aside."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from aiodurable.errors import InvalidArgumentError
from aiodurable.models import RunStatus
from aiodurable.runs.ending import Ending
from aiodurable.runs.outcome import Outcome

__all__ = ["Retries", "RetryPolicy", "Snooze", "limited", "stored_policy"]

_log = logging.getLogger(__name__)
_LONGEST_S: Final = 3.2e10
"""A thousand years."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff: `RetryPolicy(max_attempts=5, initial_s=2.0)`.

    Attributes:
        max_attempts: after so many attempts without progress the run is quarantined.
        initial_s: seconds before the second attempt.
        factor: each later wait is so many times as long as the one before.
        max_s: the longest wait.
        jitter: a wait is longer or shorter by at most this part of it.
        non_retryable: exceptions after which there is no other attempt, as types or dotted names;
            subclasses too.
        delay: the seconds to wait after this exception, such as a server's "retry after"; None: as
            the other fields say. A function cannot be stored: only policies of a worker have one.

    Raises:
        InvalidArgumentError: a number is out of range.
    """

    max_attempts: int = 3
    initial_s: float = 1.0
    factor: float = 2.0
    max_s: float = 300.0
    jitter: float = 0.2
    non_retryable: tuple[type[BaseException] | str, ...] = ()
    delay: Callable[[BaseException], float | None] | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_attempts", 1), ("initial_s", 0), ("factor", 1), ("max_s", 0)):
            value = getattr(self, name)
            if not (value >= least and math.isfinite(value)):
                raise InvalidArgumentError(
                    f"cannot retry with {name}={value!r}: it must be {least} or more", argument=name
                )
        if self.delay is not None and not callable(self.delay):
            raise InvalidArgumentError(
                f"cannot retry with delay={self.delay!r}: it must be a function of the exception;"
                " a fixed wait is initial_s",
                argument="delay",
            )
        if not 0 <= self.jitter <= 1:
            raise InvalidArgumentError(
                f"cannot retry with jitter={self.jitter!r}: it must be 0 to 1", argument="jitter"
            )

    def wait_s(self, attempts: int, error: BaseException | None = None) -> float:
        """Seconds to wait after that many attempts have failed, the last one with `error`."""
        if self.delay is not None and error is not None:
            try:
                given = self.delay(error)
                if given is not None and given >= 0:
                    return min(given, _LONGEST_S)
            except Exception:  # it must not keep the run from being tried again
                _log.exception("the delay of a retry policy failed; its other fields decide")
        try:
            wait = min(self.initial_s * self.factor ** (attempts - 1), self.max_s)
        except OverflowError:
            wait = self.max_s
        return min(wait * random.uniform(1 - self.jitter, 1 + self.jitter), _LONGEST_S)

    def retries(self, error: BaseException) -> bool:
        """Whether another attempt may follow `error`."""
        names = {_name(kind) for kind in self.non_retryable}
        return names.isdisjoint(_name(kind) for kind in type(error).__mro__)

    def as_json(self) -> dict[str, Any]:
        """What is stored with a run.

        Raises:
            InvalidArgumentError: it has a function.
        """
        if self.delay is not None:
            raise InvalidArgumentError(
                "cannot store a retry policy with delay: another process has no such function; give"
                " the policy to the workers, durable.work(retry_policy=…)",
                argument="retry_policy",
            )
        return {
            "max_attempts": self.max_attempts,
            "initial_s": self.initial_s,
            "factor": self.factor,
            "max_s": self.max_s,
            "jitter": self.jitter,
            "non_retryable": [_name(kind) for kind in self.non_retryable],
        }

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Self:
        """The policy that was stored with a run."""
        known: dict[str, Any] = {
            name: stored[name] for name in cls.__dataclass_fields__ if name in stored
        }
        known.pop("delay", None)
        known["non_retryable"] = tuple(known.get("non_retryable", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Retries:
    """What becomes of a run of a queue whose attempt has failed.

    Attributes:
        policy: when it is tried again.
        failures: how many attempts in a row have failed before this one.
        max_attempts: its own number of attempts; None: that of the policy.
        own: whether it was accepted with a policy.
    """

    policy: RetryPolicy
    failures: int
    max_attempts: int | None = None
    own: bool = True

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self | None:
        """Those of a run that was accepted for workers; None: it was not."""
        if row["queue"] is None:
            return None
        policy, most = stored_policy(row["retry_policy"]), row["max_attempts"]
        kept = limited(policy or RetryPolicy(), most)
        return cls(kept, row["failures"], most, own=policy is not None)

    def or_by(self, policy: RetryPolicy | None) -> Retries:
        """The same by `policy`, that of its graph, if it was accepted with none."""
        if self.own or policy is None:
            return self
        return replace(self, policy=limited(policy, self.max_attempts))

    def after(self, outcome: Outcome, error: BaseException | None, progressed: bool) -> Ending:
        """How the run ends after this attempt; see `DecideEnding`."""
        so_far = 0 if progressed else None
        if outcome.status is not RunStatus.FAILED:
            return Ending(outcome, error, failures=so_far)
        if isinstance(error, Snooze):
            outcome, wait_s = Outcome(RunStatus.FAILED, "snoozed"), max(error.seconds, 0.001)
            return Ending(outcome, error, again_after_s=wait_s, failures=so_far)
        failures = 1 if progressed else self.failures + 1
        retries = error is None or self.policy.retries(error)
        if not retries or failures >= self.policy.max_attempts:
            reason = outcome.reason or ("failed too often" if retries else "not retryable")
            return Ending(Outcome(RunStatus.QUARANTINED, reason), error, failures=failures)
        wait_s = max(self.policy.wait_s(failures, error), 0.001)
        return Ending(outcome, error, again_after_s=wait_s, failures=failures)


def limited(policy: RetryPolicy, max_attempts: int | None) -> RetryPolicy:
    """The policy with the number of attempts of one run, if it has its own."""
    return policy if max_attempts is None else replace(policy, max_attempts=max_attempts)


def stored_policy(stored: Any) -> RetryPolicy | None:
    """The policy in a row, which asyncpg gives as text and psycopg as an object; None: none."""
    if isinstance(stored, str):
        stored = json.loads(stored)
    return None if stored is None else RetryPolicy.of_json(stored)


def _name(kind: type[BaseException] | str) -> str:
    if isinstance(kind, str):
        return kind
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


class Snooze(Exception):  # noqa: N818 - no error: a node's word to its worker
    """Raised by a node: the run goes on from this node later, and no attempt is counted.

    Attributes:
        seconds: how much later.

    Raises:
        InvalidArgumentError: that is no number of seconds, or negative.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds <= _LONGEST_S:
            raise InvalidArgumentError(
                f"cannot snooze for {seconds!r} s: it must be 0 to a thousand years of seconds",
                argument="seconds",
            )
        super().__init__(f"to go on in {seconds:g} s")
        self.seconds = seconds
