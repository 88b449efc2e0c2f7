"""Signals: a mailbox for each thread, and what of a run's waits is due."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import uuid4

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.stored_values import SAFE, classes_in
from aiodurable.errors import AiodurableError, InvalidArgumentError
from aiodurable.models import RunStatus
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.fetch import Fetch
from aiodurable.postgres.locked_rows import patiently
from aiodurable.postgres.sql import load
from aiodurable.runs.stored_value import StoredValue, dump_value, load_value
from aiodurable.waits import (
    Wait,
    first_due,
    signal_answer,
    timeout_answer,
    unreadable_answer,
    unreadable_signal,
    woken_answer,
)

__all__ = ["Due", "Signals", "Sleep", "TakenSignals", "signal_name"]

_SQL: Final = load("signals")
_OWN_SEND: Final = load("signals", "own_transaction")["send"]
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


class TakenSignals(NamedTuple):
    """Signals that leave the mailbox.

    Attributes:
        names, positions: of each.
        set_aside: whether its value stays in its row, as nobody could read it.
    """

    names: Sequence[str] = ()
    positions: Sequence[int] = ()
    set_aside: Sequence[bool] = ()


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
            key: _answer_of(end, serde)
            if isinstance(end, _Signal)
            else timeout_answer()
            if end
            else woken_answer()
            for key, end in self.ended.items()
            if key in ids
        }

    def taken(self, answers: Mapping[str, Any]) -> TakenSignals:
        """The signals that these answers take out of the mailbox."""
        signals = [
            (end, unreadable_signal(answers[key]) is not None)
            for key, end in self.ended.items()
            if key in answers and isinstance(end, _Signal)
        ]
        return TakenSignals(
            [one.name for one, _ in signals],
            [one.position for one, _ in signals],
            [aside for _, aside in signals],
        )


def _answer_of(signal: _Signal, serde: SerializerProtocol) -> dict[str, Any]:
    try:
        return signal_answer(load_value(serde, signal.stored))
    except Exception as error:  # a class that is gone or not allowed, damaged bytes, a wrong key
        known = isinstance(error, AiodurableError)
        return unreadable_answer(str(error) if known else type(error).__name__)


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
        graphs_serde: Callable[[], Awaitable[SerializerProtocol | None]],
    ) -> bool:
        """Put a signal into the mailbox, and let a run that waits for it go on.

        Args:
            thread_id, name, value, signal_id: see `Threads.signal`.
            fetch: runs a statement in a transaction of the caller's; None: in one of its own.
            graphs_serde: the serializer with which the thread's graph reads the value, if that is
                known; called where the value is more than plain data.

        Returns:
            Whether it is new; not where one with this `signal_id` came before.

        Raises:
            InvalidArgumentError: the value cannot be serialised, or the graph may not build it;
                nothing was written.
        """
        stored = dump_value("value", value, self._serde)
        if not _is_plain(stored) and (serde := await graphs_serde()) is not None:
            dump_value("value", value, serde)
        if fetch is not None:
            rows = await fetch(_SQL["send"], thread_id, name, signal_id, *stored, True)
            return rows[0]["new"]
        # a statement whose connection dies is sent again: without an id it would be two signals
        once = f"{_OWN_ID}{uuid4()}" if signal_id is None else signal_id
        rows = await patiently(
            lambda: self._direct.fetch(_OWN_SEND, thread_id, name, once, *stored, False),
            f"send a signal to thread {thread_id!r}",
            thread_id,
        )
        return signal_id is None or rows[0]["new"]

    async def due(
        self, thread_id: str, waits: Sequence[Wait], *, fetch: Fetch | None = None
    ) -> Due:
        """Which of these waits are over by now, by the clock of Postgres. Reads only.

        Args:
            thread_id: the thread.
            waits: those of its run.
            fetch: runs the statement in a transaction of the caller's; None: in one of its own.
        """
        names = [wait.name for wait in waits if wait.name is not None]
        rows = await (fetch or self._direct.fetch)(_SQL["mailbox"], thread_id, names)
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
        await patiently(
            lambda: self._direct.fetch(_SQL["sleep_on"], run_id, *fence.standing, *outcome),
            f"let run {run_id!r} sleep",
            fence.thread_id,
        )

    async def stop(self, thread_id: str) -> str | None:
        """Cancel a run that sleeps, waits or is to be tried again; its run_id, if there is one."""
        rows = await patiently(
            lambda: self._direct.fetch(_SQL["stop"], thread_id),
            f"cancel the run of thread {thread_id!r}",
            thread_id,
        )
        return rows[0]["run_id"] if rows else None

    async def wake_unheard(self) -> None:
        """Make ready what waits for a signal that is there: neither saw the other."""
        await self._direct.fetch(_SQL["unheard"], _RECENT_S, _MOST)


def _is_plain(stored: StoredValue) -> bool:
    """Whether every graph can read the value."""
    kind, data = stored
    if kind != "msgpack" or data is None:
        return kind in (None, "null", "bytes")
    return all(one.key in SAFE for one in classes_in(data))
