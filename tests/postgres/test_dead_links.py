"""A flow that vanishes silently, as behind a NAT or a load balancer: statements are sent again on a new connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from aiodurable import Durable, RunStatus, Settings
from aiodurable.dsn import parse_dsn
from aiodurable.postgres import links
from aiodurable.postgres.links import Link, Links
from ledger_rows import Ledger
from proxy import Proxy, proxy
from waiting import wait_until
from workflows import STEPS, Gate, four_nodes

INPUT: dict[str, Any] = {"words": [], "told": ""}


@pytest.fixture
async def wire(dsn: str) -> AsyncIterator[Proxy]:
    async with proxy(dsn) as opened:
        yield opened


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_STATEMENT_S", 1.0)


@pytest.fixture
async def durable(wire: Proxy) -> AsyncIterator[Durable]:
    times = Settings(lease_ttl_s=3, heartbeat_s=0.5, lease_margin_s=1, recovery_grace_s=30)
    async with Durable(wire.dsn, settings=times) as opened:
        yield opened


async def backends(dsn: str, role: str) -> set[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s"
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return {row[0] for row in await (await connection.execute(query, (f"aiodurable:{role}@%",))).fetchall()}


async def test_a_statement_that_gets_no_answer_is_sent_again_on_a_new_connection(dsn: str, wire: Proxy) -> None:
    pair = Links(parse_dsn(wire.dsn), role="test", size=1, timeout_s=0.2)
    [before] = await pair.fetch("SELECT pg_backend_pid() AS pid")
    wire.forget()
    [after] = await pair.fetch("SELECT pg_backend_pid() AS pid")
    assert await backends(dsn, "test") == {after["pid"]} != {before["pid"]}  # the old one was ended
    pair.close()


async def test_every_backend_that_was_left_is_ended_by_the_next_connection(
    dsn: str, wire: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(parse_dsn(wire.dsn), role="test", connect_timeout_s=10.0)
    await link.fetch("SELECT 1")
    wire.forget()
    link.drop()
    with monkeypatch.context() as slow:
        slow.setattr(links, "_SQL", {**links._SQL, "end_left": "SELECT pg_sleep(60), $1"})
        second = asyncio.create_task(link.fetch("SELECT 1"))
        await wait_until(lambda: sleeping(dsn), what="the second connection to end what the first left")
        wire.forget()
        link.drop()
        await asyncio.wait({second})
    assert len(await backends(dsn, "test")) == 2
    [(mine,)] = await link.fetch("SELECT pg_backend_pid()")
    assert await backends(dsn, "test") == {mine}
    link.drop()


async def sleeping(dsn: str) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return await (await connection.execute(query)).fetchone() is not None


async def test_a_checkpoint_whose_connection_died_silently_is_written_on_a_new_one(
    durable: Durable, wire: Proxy
) -> None:
    gate = Gate("weigh")

    async def body() -> Any:
        async with durable.run(four_nodes(gate), "t") as run:
            return await run.ainvoke(INPUT)

    running = asyncio.create_task(body())
    await gate.reached.wait()
    wire.forget()
    gate.open.set()
    assert (await asyncio.wait_for(running, 60))["words"] == list(STEPS)


async def test_a_complete_run_whose_end_met_a_dead_connection_returns_its_result_and_is_recorded(
    durable: Durable, wire: Proxy, dsn: str
) -> None:
    gate = Gate("tell")

    async def body() -> Any:
        async with durable.run(four_nodes(gate), "t") as run:
            return await run.ainvoke(INPUT)

    running = asyncio.create_task(body())
    await gate.reached.wait()
    wire.forget()
    gate.open.set()
    assert (await asyncio.wait_for(running, 60))["words"] == list(STEPS)
    assert [row["status"] for row in await Ledger(dsn).rows("t")] == [RunStatus.COMPLETE]


async def test_a_token_that_was_asked_for_on_a_dead_connection_is_raised_once_more(
    durable: Durable, wire: Proxy
) -> None:
    pool = durable._opened().checkpoints
    first = await pool.new_fence("t")
    wire.forget()
    second = await asyncio.wait_for(pool.new_fence("t"), 30)
    assert second.token > first.token


async def test_a_run_that_is_cancelled_while_its_end_is_recorded_on_a_dead_connection_ends_cancelled(
    durable: Durable, wire: Proxy
) -> None:
    gate = Gate("weigh")

    async def body() -> None:
        async with durable.run(four_nodes(gate), "t") as run:
            await run.ainvoke(INPUT)

    running = asyncio.create_task(body())
    await gate.reached.wait()
    wire.forget()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 60)
    assert running.cancelled()
