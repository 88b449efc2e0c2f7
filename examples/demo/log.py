"""What a process of the demo says: one JSON object a line."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

__all__ = ["Entry", "What"]

What = Literal["ready", "waiting", "started", "began", "ended", "refused", "finished"]
"""ready: connected · waiting: asks for the thread · started: has it, an attempt begins · began,
ended: a step · refused: somebody else has it · finished: the attempt is over.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened in a process.

    Attributes:
        what: which kind of thing.
        step: the step that began or ended.
        details: of the thing: a run's id and attempt, an error's name and holder.
        at: when, in seconds of the monotonic clock, which all processes of a host share (Linux and
            macOS count from boot).
    """

    what: What
    step: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)

    def line(self) -> bytes:
        """The entry as it travels."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """The entry of a line."""
        return cls(**json.loads(line))
