"""Encodes a saver's calls as rows, and the rows of many calls as the arrays of one statement."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import orjson

from aiodurable.checkpoints.fences import Standing
from aiodurable.checkpoints.history import Mark
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.errors import AiodurableError
from aiodurable.postgres.direct import Origin
from aiodurable.postgres.sql import load

__all__ = [
    "COMMIT",
    "COMMITS",
    "COMMIT_ENDING",
    "COMMIT_ONE",
    "COMMIT_ONE_ENDING",
    "COMMIT_ONE_TAKING",
    "COMMIT_PROVING",
    "COMMIT_REPLACING",
    "COMMIT_REPLACING_TAKING",
    "COMMIT_TAKING",
    "COMMIT_TAKING_ENDING",
    "LOST",
    "BlobRow",
    "CheckpointRow",
    "Rows",
    "Write",
    "WriteRow",
    "commit",
    "dump_json",
    "lost_history",
]

_FILE: Final = "checkpoints"

COMMIT = load(_FILE)["commit"]
"""The statement of nearly every batch of several threads: nothing replaces a task's writes, and
there is no first checkpoint of a run. A row that is there already fails it.
"""
COMMIT_TAKING = load(_FILE, "consumed")["commit"]
"""For a batch with the first checkpoint of a run, which has consumed its input."""
COMMIT_ENDING = load(_FILE, "ended")["commit"]
"""For a batch with the last checkpoint of a run, which completes it."""
COMMIT_TAKING_ENDING = load(_FILE, "consumed", "ended")["commit"]
COMMIT_ONE = load(_FILE)["commit_one"]
"""The statements of nearly every batch of one thread."""
COMMIT_ONE_TAKING = load(_FILE, "consumed")["commit_one"]
COMMIT_ONE_ENDING = load(_FILE, "ended")["commit_one"]
COMMIT_REPLACING = load(_FILE, "again", "replaced")["commit"]
COMMIT_REPLACING_TAKING = load(_FILE, "again", "replaced", "consumed")["commit"]
COMMIT_PROVING = load(_FILE, "again", "replaced", "lost")["commit"]
"""For a connection that is newer than an acknowledged commit: it reports the threads whose commit
is gone, and does not write them.
"""
COMMIT_PROVING_TAKING = load(_FILE, "again", "replaced", "lost", "consumed")["commit"]
COMMITS: Final = (
    COMMIT,
    COMMIT_TAKING,
    COMMIT_ENDING,
    COMMIT_TAKING_ENDING,
    COMMIT_ONE,
    COMMIT_ONE_TAKING,
    COMMIT_ONE_ENDING,
    COMMIT_REPLACING,
    COMMIT_REPLACING_TAKING,
    COMMIT_PROVING,
    COMMIT_PROVING_TAKING,
)
"""All that `commit` chooses from, but for those of a batch that is sent again (`_AGAIN`)."""

_AGAIN: Final = {
    load(_FILE, *parts)["commit"]: load(_FILE, "again", *parts)["commit"]
    for parts in ((), ("consumed",), ("ended",), ("consumed", "ended"))
}
"""For each statement that a row fails which is there already, the one that it does not fail."""

LOST = load(_FILE)["lost_threads"]
"""Reports the threads whose acknowledged commit is gone, and writes nothing."""

BlobRow = tuple[str, str, str, str, str, bytes | None]
"""thread_id, checkpoint_ns, channel, version, type, blob."""

CheckpointRow = tuple[str, str, str, str | None, str, str]
"""thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata (both as
JSON).
"""

WriteRow = tuple[str, str, str, str, str, int, str, str | None, bytes]
"""thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob."""

_WriteKey = tuple[str, str, str, str, int]

_ROW_BYTES: Final = 200
"""The bytes of a row besides its payload, for its keys. A round figure, which only feeds bounds."""

_SHARED_BYTES: Final = 1 << 10
"""The size from which it pays to look for a value that another row of the thread stores."""

_STRICT: Final = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


@dataclass(slots=True, eq=False)
class Rows:
    """The rows that one call of the saver stores. Not frozen, which takes three times as long.

    Attributes:
        checkpoints: its checkpoint, if it is one; before it one that was held back for it.
        replace: whether `writes` replace existing rows; else existing rows are kept.
        consumes: the run whose input a checkpoint consumes, if it is that run's first one.
        ends: the run of which the newest checkpoint shows that nothing is left to do.
        completes_step: whether nobody reads what the tasks of the step before the newest checkpoint
            wrote, once that is there: writes in the same batch are left out.
    """

    blobs: Sequence[BlobRow] = ()
    checkpoints: Sequence[CheckpointRow] = ()
    writes: Sequence[WriteRow] = ()
    replace: bool = False
    consumes: str | None = None
    ends: str | None = None
    completes_step: bool = False

    def mark(self) -> Mark:
        """The row that proves the commit of all of them."""
        if self.writes:
            _, namespace, checkpoint_id, task_id, _, idx, *_ = self.writes[-1]
            return Mark(namespace, checkpoint_id, task_id, idx)
        assert self.checkpoints, "a call of the saver stores one or the other"
        return Mark(self.checkpoints[-1][1], self.checkpoints[-1][2])

    def size(self) -> int:
        """The size in bytes, roughly."""
        size = _ROW_BYTES * (len(self.blobs) + len(self.writes) + len(self.checkpoints))
        for blob in self.blobs:
            if blob[5] is not None:
                size += len(blob[5])
        for checkpoint in self.checkpoints:
            size += len(checkpoint[4]) + len(checkpoint[5])
        for write in self.writes:
            size += len(write[8])
        return size

    def follow(self, held: Rows) -> None:
        """Take in, before these rows, a checkpoint that was held back."""
        self.blobs = (*held.blobs, *self.blobs)
        self.checkpoints = (*held.checkpoints, *self.checkpoints)
        self.consumes = held.consumes or self.consumes


class Write:
    """The rows of one call, with the future of their commit.

    Attributes:
        session: the session of the run that writes.
        fence: the fence of the session.
        rows: the rows.
        count, size: the number of rows, and of bytes, roughly.
        done: resolves after the commit.
        deadline: the monotonic time after which it is not retried.
    """

    __slots__ = ("count", "deadline", "done", "fence", "rows", "session", "size")

    def __init__(
        self, session: WriteSession, rows: Rows, done: asyncio.Future[None], deadline: float
    ) -> None:
        self.session = session
        self.fence = session.fence
        self.rows = rows
        self.done = done
        self.deadline = deadline
        self.count = len(rows.blobs) + len(rows.writes) + len(rows.checkpoints)
        self.size = rows.size()

    def wanted(self) -> bool:
        """Whether it has to be sent: it is not settled, its caller still waits, and its fence is
        not revoked.
        """
        if self.done.done():
            return False
        if self.fence.revocation.revoked:
            self.done.set_exception(self.fence.lost())
            return False
        return True

    def succeed(self) -> None:
        """Settle it as committed."""
        if self.rows.consumes is not None and self.rows.consumes == self.session.unconsumed:
            self.session.unconsumed = None
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, error: AiodurableError) -> None:
        """Settle it as failed."""
        if not self.done.done():
            self.done.set_exception(error)


def dump_json(document: Any, *, floats: Iterable[Any] | None = None) -> str:
    """Encode a document as the stock saver does: jsonb stores the same value.

    orjson is several times faster, but writes NaN as null, where Postgres would refuse NaN, and
    rejects large integers and keys that are not strings. So a document that may contain NaN, or
    that orjson rejects, goes through `json`.

    Args:
        document: the document.
        floats: all its values that may be NaN; None: any of them.
    """
    try:
        text = orjson.dumps(document, option=_STRICT).decode()
    except TypeError:
        return json.dumps(document)
    if "null" in text and (
        floats is None or [one for one in floats if isinstance(one, float) and not isfinite(one)]
    ):
        return json.dumps(document)
    return text


def lost_history(sessions: Iterable[WriteSession]) -> tuple[str, list[Sequence[Any]]]:
    """The statement that reports the threads whose acknowledged commit is gone; its parameters."""
    return LOST, _columns([_proof(one) for one in sessions if one.history.mark is not None], 7)


def _proof(session: WriteSession) -> tuple[Any, ...]:
    assert session.history.mark is not None
    return session.thread_id, *session.history.mark, session.fence.token


def commit(
    batch: Iterable[Write], origin: Origin | None = None, *, again: bool = False
) -> tuple[str, list[Sequence[Any]]]:
    """The statement that stores a batch, and its parameters.

    Args:
        batch: the writes; those of one thread in their order.
        origin: the connection that will run it, on which some threads may have to prove their
            history.
        again: rows may be there already: the statement keeps or replaces them, as the stock saver's
            does, and does not fail with `unique_violation`.
    """
    proofs: dict[str, tuple[Any, ...]] = {}
    standings: dict[str, Standing] = {}
    blobs: dict[tuple[str, str, str, str], BlobRow] = {}
    checkpoints: dict[tuple[str, str, str], CheckpointRow] = {}
    kept: dict[_WriteKey, WriteRow] = {}
    replaced: dict[_WriteKey, WriteRow] = {}
    taken: dict[str, str] = {}
    ended: dict[str, tuple[str, str, int, str]] = {}
    completed: set[tuple[str, str, str | None]] = set()
    late: set[_WriteKey] = set()
    for write in batch:
        fence = write.fence
        if fence.thread_id not in standings:  # the sessions of a lease share their history
            standings[fence.thread_id] = fence.standing
            if origin is not None and write.session.history.unproven(origin):
                proofs[fence.thread_id] = _proof(write.session)
        if write.rows.consumes is not None:
            taken[write.rows.consumes] = fence.thread_id
        if (run_id := write.rows.ends) is not None:
            ended[run_id] = run_id, fence.thread_id, fence.token, write.rows.checkpoints[-1][2]
        for row in write.rows.blobs:
            blobs.setdefault(row[:4], row)
        for row in write.rows.checkpoints:
            earlier = checkpoints.get(row[:3])
            # The stock upsert keeps the parent of an existing row.
            checkpoints[row[:3]] = row if earlier is None else (*row[:3], earlier[3], *row[4:])
        if write.rows.completes_step:
            thread_id, namespace, _, parent_id, *_ = write.rows.checkpoints[-1]
            completed.add((thread_id, namespace, parent_id))
        for row in write.rows.writes:
            key = (row[0], row[1], row[2], row[3], row[5])
            earlier = kept.get(key) or replaced.get(key)
            if write.rows.replace:
                # It also keeps the task_path of an existing row.
                replaced[key] = row if earlier is None else (*row[:4], earlier[4], *row[5:])
                kept.pop(key, None)
            elif earlier is None:
                kept[key] = row
                if row[5] < 0:  # an answer beside an output: an earlier one stands in its place
                    again = True
                if row[:3] in completed:  # it proves this commit (`Rows.mark`)
                    late.add(key)
    if completed:
        kept = {key: row for key, row in kept.items() if row[:3] not in completed or key in late}
    # One row is never updated twice by a statement. In the rare batches a run does not end: it does
    # when its attempt is closed.
    ending = ended if ended.keys().isdisjoint(taken) and not (replaced or proofs) else {}
    if len(standings) == 1 and not (again or replaced or proofs or len(taken) + len(ending) > 1):
        return _commit_one(standings, blobs, checkpoints, kept, taken, ending)
    ordered = sorted(standings)
    values = _Values()
    parameters: list[Sequence[Any]] = [
        ordered,
        [standings[thread_id].token for thread_id in ordered],
        [standings[thread_id].lease_id for thread_id in ordered],
        b"",
        *values.placed(_columns(blobs.values(), 6)),
        *_columns(checkpoints.values(), 6),
        *values.placed(_columns(kept.values(), 9)),
    ]
    if replaced or proofs:
        parameters += values.placed(_columns(replaced.values(), 9))
    parameters[3] = values.joined()
    if proofs:
        parameters += _columns(proofs.values(), 7)
    if taken:
        parameters += [list(taken), list(taken.values())]
    if ending:
        parameters += _columns(ending.values(), 4)
    plain, taking = (
        (COMMIT_PROVING, COMMIT_PROVING_TAKING)
        if proofs
        else (COMMIT_REPLACING, COMMIT_REPLACING_TAKING)
        if replaced
        else (COMMIT_ENDING, COMMIT_TAKING_ENDING)
        if ending
        else (COMMIT, COMMIT_TAKING)
    )
    statement = taking if taken else plain
    return (_AGAIN.get(statement, statement) if again else statement), parameters


def _commit_one(
    standings: Mapping[str, Standing],
    blobs: Mapping[Any, BlobRow],
    checkpoints: Mapping[Any, CheckpointRow],
    kept: Mapping[_WriteKey, WriteRow],
    taken: Collection[str],
    ending: Mapping[str, tuple[str, str, int, str]],
) -> tuple[str, list[Any]]:
    """The statement of a batch of one thread, and its parameters."""
    [(thread_id, standing)] = standings.items()
    values = _Values()
    parameters: list[Any] = [
        thread_id,
        standing.token,
        standing.lease_id,
        b"",
        *values.placed(_columns(blobs.values(), 6))[1:],
        *_columns(checkpoints.values(), 6)[1:],
        *values.placed(_columns(kept.values(), 9))[1:],
        *taken,
    ]
    parameters[3] = values.joined()
    for run_id, _, _, checkpoint_id in ending.values():
        return COMMIT_ONE_ENDING, [*parameters, run_id, checkpoint_id]
    return (COMMIT_ONE_TAKING if taken else COMMIT_ONE), parameters


class _Values:
    """The values of a batch as one sequence of bytes, in which a large value that several rows of a
    thread store stands once.

    Most often a step's write is the channel's new value as well. Only their bytes are compared: a
    node may change the object after its write was serialised.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._next = 1
        self._large: dict[tuple[str, int], tuple[bytes, int]] = {}

    def placed(self, columns: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
        """The columns of rows, of which the first has threads and the last has values; with each
        value's place instead, see `commit` in sql/checkpoints.sql.
        """
        *keys, values = columns
        places: list[int | None] = []
        for thread_id, given in zip(keys[0], values, strict=True):
            if given is None:
                places.append(None)
                continue
            # A bytearray may still grow, in another OS thread, and would move the values after it.
            value = given if type(given) is bytes else bytes(given)
            size = len(value)
            place = self._next << 32 | size
            if size >= _SHARED_BYTES:
                first, there = self._large.setdefault((thread_id, size), (value, place))
                if there != place and first == value:
                    places.append(there)
                    continue
            places.append(place)
            self._parts.append(value)
            self._next += size
        return [*keys, places]

    def joined(self) -> bytes:
        """All the values."""
        return b"".join(self._parts)


def _columns(rows: Iterable[Sequence[Any]], width: int) -> list[Sequence[Any]]:
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    return columns or [()] * width
