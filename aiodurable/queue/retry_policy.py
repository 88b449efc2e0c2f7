"""When a run that failed is tried again, and when it is set aside."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from aiodurable.errors import InvalidArgumentError

__all__ = ["RetryPolicy", "Snooze"]


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

    Raises:
        InvalidArgumentError: a number is out of range.
    """

    max_attempts: int = 3
    initial_s: float = 1.0
    factor: float = 2.0
    max_s: float = 300.0
    jitter: float = 0.2
    non_retryable: tuple[type[BaseException] | str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("max_attempts", 1), ("initial_s", 0), ("factor", 1), ("max_s", 0)):
            value = getattr(self, name)
            if not value >= least:
                raise InvalidArgumentError(
                    f"cannot retry with {name}={value!r}: it must be {least} or more", argument=name
                )
        if not 0 <= self.jitter <= 1:
            raise InvalidArgumentError(
                f"cannot retry with jitter={self.jitter!r}: it must be 0 to 1", argument="jitter"
            )

    def wait_s(self, attempts: int) -> float:
        """Seconds to wait after that many attempts have failed."""
        try:
            wait = min(self.initial_s * self.factor ** (attempts - 1), self.max_s)
        except OverflowError:
            wait = self.max_s
        return wait * random.uniform(1 - self.jitter, 1 + self.jitter)

    def retries(self, error: BaseException) -> bool:
        """Whether another attempt may follow `error`."""
        names = {_name(kind) for kind in self.non_retryable}
        return names.isdisjoint(_name(kind) for kind in type(error).__mro__)

    def as_json(self) -> dict[str, Any]:
        """What is stored with a run."""
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
        known["non_retryable"] = tuple(known.get("non_retryable", ()))
        return cls(**known)


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
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"to go on in {seconds:g} s")
        self.seconds = seconds
