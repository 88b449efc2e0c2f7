"""One thread's writes keep their order, whatever befalls the batch they are in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from aiodurable.checkpoints import AsyncCheckpointerPool
from aiodurable.checkpoints.encoding import Rows, Write
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.group_commit import GroupCommitter
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.dsn import parse_dsn
from aiodurable.errors import ConfigurationError
from aiodurable.postgres.direct import DirectConnection
from aiodurable.postgres.sql import load
from tests.support.internals import commit_by
from tests.support.waiting import within

TOKENS = load("checkpoints")["tokens"]


def replacing(fence: Fence, value: str) -> Write:
    """A write of which the last one counts."""
    row = (fence.thread_id, "", "c", "task", "", -1, "__error__", "bytes", value.encode())
    return Write(
        WriteSession(fence),
        Rows(writes=[row], replace=True),
        asyncio.get_running_loop().create_future(),
        1e12,
    )


def refused(fence: Fence) -> Write:
    """A write that Postgres refuses: the batch it is in is halved."""
    row = (fence.thread_id, "", "c", None, '{"a": "\\u0000"}', "{}")
    return Write(
        WriteSession(fence),
        Rows(checkpoints=[row]),
        asyncio.get_running_loop().create_future(),
        1e12,
    )


async def written_together(dsn: str, writes: Sequence[Write]) -> None:
    """As one batch."""
    writer = GroupCommitter(parse_dsn(dsn), connections=1)
    for write in writes:
        writer.backlog.add(write)
    writer.open()
    try:
        await within(
            30,
            asyncio.gather(*(write.done for write in writes), return_exceptions=True),
            what="all writes to be settled",
        )
    finally:
        await writer.aclose()


async def stored(db: asyncpg.Connection) -> bytes:
    blob = await db.fetchval("SELECT blob FROM checkpoint_writes WHERE thread_id = 't'")
    assert isinstance(blob, bytes)
    return blob


async def test_of_a_halved_batch_the_first_half_goes_first(
    dsn: str, pool: AsyncCheckpointerPool, db: asyncpg.Connection
) -> None:
    fence, bad = await pool.new_fence("t"), refused(await pool.new_fence("u"))
    writes = [replacing(fence, "first"), replacing(fence, "last"), bad]
    await written_together(dsn, writes)
    assert isinstance(bad.done.exception(), ConfigurationError)
    assert await stored(db) == b"last"


async def test_what_comes_after_a_write_whose_fence_is_locked_waits_with_it(
    dsn: str, pool: AsyncCheckpointerPool, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is halved. The fence is locked while the first half is sent, and free for the
    second.
    """
    fence, bad = await pool.new_fence("t"), refused(await pool.new_fence("u"))
    locked = db.transaction()
    await locked.start()
    await db.execute(load("checkpoints")["hold_fences"], ["t"])
    fetch = DirectConnection.fetch

    async def freed_after_the_first_half(link: DirectConnection, query: str, *args: Any) -> Any:
        rows = await fetch(link, query, *args)
        if query == TOKENS and db.is_in_transaction():
            await locked.rollback()
        return rows

    monkeypatch.setattr(DirectConnection, "fetch", freed_after_the_first_half)
    await written_together(dsn, [replacing(fence, "first"), replacing(fence, "last"), bad])
    assert await stored(db) == b"last"


async def test_a_thread_of_which_some_writes_wait_is_in_no_second_batch(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch one write is through, one has to wait for its fence; a newer one comes
    meanwhile.
    """
    writer = GroupCommitter(parse_dsn(dsn), connections=2)
    fence = Fence("t", 1)
    writes = [replacing(fence, name) for name in ("a", "b", "c", "d")]
    order: list[Write] = []

    async def commit(link: DirectConnection, batch: Sequence[Write]) -> list[Write]:
        del link
        if not order:
            writer.backlog.add(writes[2])
            through, locked = batch[:1], batch[1:]
        else:
            through, locked = batch, []
        order.extend(through)
        for write in through:
            write.succeed()
        return list(locked)

    commit_by(monkeypatch, writer, commit)
    for write in writes[:2]:
        writer.backlog.add(write)
    writer.open()
    try:
        await within(
            30, asyncio.gather(*(write.done for write in writes[:3])), what="the first three writes"
        )
        writer.backlog.add(writes[3])
        await within(30, writes[3].done, what="the write that came last")
        assert order == writes
        writers = [
            task
            for task in asyncio.all_tasks()
            if task.get_name().startswith("aiodurable checkpoint writer")
        ]
        assert len(writers) == 2
    finally:
        await writer.aclose()


async def test_a_writer_that_fails_begins_again(
    dsn: str,
    pool: AsyncCheckpointerPool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer = GroupCommitter(parse_dsn(dsn), connections=1)
    take = writer.backlog.take

    async def failing() -> list[Write]:
        monkeypatch.undo()
        writer.backlog.settled(batch := await take(), back=batch)
        raise KeyError("t")

    monkeypatch.setattr(writer.backlog, "take", failing)
    write = replacing(await pool.new_fence("t"), "value")
    writer.backlog.add(write)
    writer.open()
    try:
        await within(20, write.done, what="the write, once the writer has begun again")
    finally:
        await writer.aclose()
    assert "starts again" in caplog.text
