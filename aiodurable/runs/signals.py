"""Signals: a mailbox for each thread, and what of a run's waits is due."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.checkpoints.fences import Fence
from aiodurable.errors import InvalidArgumentError
from aiodurable.models import RunStatus
from aiodurable.postgres.caller import Fetch
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.sql import load
from aiodurable.runs.stored_value import StoredValue, dump_value, load_value
from aiodurable.waits import Wait, first_due, signal_answer, timeout_answer, woken_answer

__all__ = ["Due", "Signals", "Sleep", "signal_name"]

_SQL: Final = load("signals")
_MOST_CHARACTERS: Final = 200
_RECENT_S: Final = 600.0
"""How long a caller's transaction may send a signal, and its run still hears it at once."""
_MOST: Final = 500
_OWN_ID: Final = "aiodurable:"
"""How the signal_id of a signal begins that its sender gave none."""
_FAR: Final = datetime.max.replace(tzinfo=UTC)


def signal_name(name: str, thread_id: str | None = None) -> str:
    """Return `name` if a signal can have it.

    Raises:
        InvalidArgumentError: it is no text of 1 to 200 printable characters.
    """
    if not isinstance(name, str) or not (  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all type-checked
        0 < len(name) <= _MOST_CHARACTERS and name.isprintable()
    ):
        raise InvalidArgumentError(
            f"the name of a signal must have 1 to {_MOST_CHARACTERS} printable characters, got"
            f" {name!r:.80}",
            thread_id=thread_id,
            argument="name",
        )
    return name


@dataclass(frozen=True, slots=True)
class Sleep:
    """How a run sleeps: what its row says of its waits.

    Attributes:
        due: when the first of them is due; None: never.
        waiting_for: the names of the signals, one a line.
    """

    due: datetime | None
    waiting_for: str

    @classmethod
    def of(cls, waits: Sequence[Wait]) -> Sleep:
        """From the waits of a run."""
        names = dict.fromkeys(wait.name for wait in waits if wait.name is not None)
        return cls(first_due(waits), "\n".join(names))


@dataclass(frozen=True, slots=True)
class _Signal:
    name: str
    position: int
    stored: StoredValue


@dataclass(frozen=True, slots=True)
class Due:
    """The waits that are over, and how each one ended.

    Attributes:
        ended: by the id of the wait: its signal, or whether it timed out (or else woke).
    """

    ended: Mapping[str, _Signal | bool]

    def answers(self, ids: Collection[str], serde: SerializerProtocol) -> dict[str, Any]:
        """The answers to the waits of these ids, with their signals decoded."""
        return {
            key: signal_answer(load_value(serde, end.stored))
            if isinstance(end, _Signal)
            else timeout_answer()
            if end
            else woken_answer()
            for key, end in self.ended.items()
            if key in ids
        }

    def taken(self, ids: Collection[str]) -> tuple[list[str], list[int]]:
        """Names and positions of the signals that these waits take out of the mailbox."""
        signals = [
            end for key, end in self.ended.items() if key in ids and isinstance(end, _Signal)
        ]
        return [one.name for one in signals], [one.position for one in signals]


class Signals:
    """The mailboxes.

    Args:
        direct: to the database.
        serde: the saver's serializer, which encodes the values.
    """

    def __init__(self, direct: DirectPool, serde: SerializerProtocol) -> None:
        self._direct = direct
        self._serde = serde

    async def send(
        self,
        thread_id: str,
        name: str,
        value: Any,
        *,
        signal_id: str | None,
        fetch: Fetch | None,
    ) -> bool:
        """Put a signal into the mailbox, and let a run that waits for it go on.

        Returns:
            Whether it is new; not where one with this `signal_id` came before.

        Raises:
            InvalidArgumentError: the value cannot be serialised; nothing was written.
        """
        stored = dump_value("value", value, self._serde)
        if fetch is not None:
            rows = await fetch(_SQL["send"], thread_id, name, signal_id, *stored, True)
            return rows[0]["new"]
        # a statement whose connection dies is sent again: without an id it would be two signals
        once = f"{_OWN_ID}{uuid4()}" if signal_id is None else signal_id
        rows = await self._direct.fetch(_SQL["send"], thread_id, name, once, *stored, False)
        return signal_id is None or rows[0]["new"]

    async def due(self, thread_id: str, waits: Sequence[Wait]) -> Due:
        """Which of these waits are over by now, by the clock of Postgres. Reads only."""
        names = [wait.name for wait in waits if wait.name is not None]
        rows = await self._direct.fetch(_SQL["mailbox"], thread_id, names)
        now = rows[0]["at"]
        mailbox = defaultdict[str, deque[_Signal]](deque)
        for row in rows:
            if row["name"] is not None:
                signal = _Signal(row["name"], row["position"], (row["value_type"], row["value"]))
                mailbox[signal.name].append(signal)
        ended = dict[str, _Signal | bool]()
        for wait in sorted(waits, key=lambda wait: (wait.until or _FAR, wait.id)):
            if wait.name is not None and mailbox[wait.name]:
                ended[wait.id] = mailbox[wait.name].popleft()
            elif wait.until is not None and wait.until <= now:
                ended[wait.id] = wait.name is not None
        return Due(ended)

    async def sleep_on(
        self,
        run_id: str,
        *,
        fence: Fence,
        status: RunStatus,
        reason: str | None,
        checkpoint_id: str | None,
        sleep: Sleep,
        worker: str | None,
    ) -> None:
        """Write that a run sleeps which `worker` has claimed, or whose process died."""
        outcome = (status, reason, checkpoint_id, sleep.waiting_for, sleep.due, worker)
        await self._direct.fetch(_SQL["sleep_on"], run_id, *fence.standing, *outcome)

    async def stop(self, thread_id: str) -> str | None:
        """Cancel the run of a thread that sleeps or waits; its run_id, if there is one."""
        rows = await self._direct.fetch(_SQL["stop"], thread_id)
        return rows[0]["run_id"] if rows else None

    async def wake_unheard(self) -> None:
        """Make ready what waits for a signal that is there: neither saw the other."""
        await self._direct.fetch(_SQL["unheard"], _RECENT_S, _MOST)
