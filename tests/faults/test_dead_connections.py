"""A flow that vanishes silently, as behind a NAT or a load balancer: statements are sent again on a
new connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from aiodurable import (
    AiodurableError,
    Durable,
    PostgresUnavailableError,
    RunStatus,
    Settings,
    ThreadStatus,
)
from aiodurable.dsn import parse_dsn
from aiodurable.locks.statements import LockStatements
from aiodurable.models import Compression
from aiodurable.postgres import direct, pool, pool_connection, schema
from aiodurable.postgres.direct import DirectConnection, DirectPool
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.pool_connection import PoolConnection
from tests.support.graphs import INPUT, STEPS, Gate, four_nodes, reached, run_up_to
from tests.support.internals import replace_statement, socket_of
from tests.support.ledger_view import Ledger
from tests.support.proxy import Proxy, proxy
from tests.support.restartable import OwnServer
from tests.support.waiting import wait_until, within

SLEEPS = "wait_event = 'PgSleep'"
WAITS_FOR_MORE = "state = 'active' AND wait_event = 'ClientRead'"


@pytest.fixture
async def wire(dsn: str) -> AsyncIterator[Proxy]:
    async with proxy(dsn) as opened:
        yield opened


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_STATEMENT_S", 1.0)
    monkeypatch.setattr(pool_connection, "_SILENCE_S", 1.0)


@pytest.fixture
async def durable(wire: Proxy) -> AsyncIterator[Durable]:
    times = Settings(
        lease_ttl_s=3, lease_heartbeat_s=0.5, lease_safety_margin_s=1, recovery_grace_s=30
    )
    async with Durable(wire.dsn, settings=times) as opened:
        yield opened


async def backends(dsn: str, role: str) -> set[int]:
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name"
        " LIKE %s"
    )
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return {
            row[0]
            for row in await (await connection.execute(query, (f"aiodurable:{role}@%",))).fetchall()
        }


async def test_a_spare_connection_stays_known_to_what_is_in_between(wire: Proxy) -> None:
    """The last writer to serve gets the next batch, so the other one may be idle for hours."""
    connection = DirectConnection(parse_dsn(wire.dsn), role="test", connect_timeout_s=10.0)
    await connection.fetch("SELECT 1")
    used = socket_of(connection)
    assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_KEEPIDLE"):
        assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
    connection.drop()


async def test_a_statement_that_gets_no_answer_is_sent_again_on_a_new_connection(
    dsn: str, wire: Proxy
) -> None:
    pair = DirectPool(parse_dsn(wire.dsn), role="test", size=1, timeout_s=0.2)
    [before] = await pair.fetch("SELECT pg_backend_pid() AS pid")
    wire.forget()
    [after] = await pair.fetch("SELECT pg_backend_pid() AS pid")
    assert await backends(dsn, "test") == {after["pid"]} != {before["pid"]}  # the old one was ended
    pair.close()


async def test_every_backend_that_was_left_is_ended_by_the_next_connection(
    dsn: str, wire: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = DirectConnection(parse_dsn(wire.dsn), role="test", connect_timeout_s=10.0)
    await link.fetch("SELECT 1")
    wire.forget()
    link.drop()
    with monkeypatch.context() as slow:
        replace_statement(slow, direct, "terminate_abandoned_backends", "SELECT pg_sleep(60), $1")
        second = asyncio.create_task(link.fetch("SELECT 1"))
        await wait_until(
            lambda: backend(dsn, SLEEPS), what="the second connection to end what the first left"
        )
        wire.forget()
        link.drop()
        await asyncio.wait({second})
    assert len(await backends(dsn, "test")) == 2
    [(mine,)] = await link.fetch("SELECT pg_backend_pid()")
    assert await backends(dsn, "test") == {mine}
    link.drop()


async def backend(dsn: str, which: str) -> bool:
    """Whether there is such a one."""
    query = f"SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND {which}"
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return await (await connection.execute(query.encode())).fetchone() is not None


@asynccontextmanager
async def pool_of(dsn: str, **options: Any) -> AsyncIterator[PsycopgPool]:
    opened = PsycopgPool(parse_dsn(dsn), **options)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.aclose()


async def test_a_client_that_vanished_in_a_transaction_keeps_no_row_locked(
    dsn: str, wire: Proxy
) -> None:
    async with Durable(dsn) as another, pool_of(wire.dsn) as pool:
        await another.queues.scale("default", max_running=1)
        with pytest.raises(PostgresUnavailableError):
            async with pool.transaction() as fetch:
                await fetch("SELECT 1 FROM aiodurable_queues FOR UPDATE")
                wire.forget()
                await another.queues.scale("default", max_running=2)


async def test_a_transaction_that_was_silent_for_too_long_fails_as_one_whose_connection_is_gone(
    dsn: str,
) -> None:
    async with pool_of(dsn) as pool:
        with pytest.raises(PostgresUnavailableError):
            async with pool.transaction() as fetch:
                [mine] = await fetch("SELECT pg_backend_pid() AS pid")
                await wait_until(lambda: has_ended(dsn, mine["pid"]), what="the server to end it")
                await fetch("SELECT 1")


async def has_ended(dsn: str, pid: int) -> bool:
    return pid not in await backends(dsn, "pool")


@pytest.mark.parametrize(("chosen", "in_force"), [("7s", "7s"), ("0", "1s")])
async def test_a_limit_of_silent_transactions_that_the_operator_chose_stays_in_force(
    dsn: str, chosen: str, in_force: str
) -> None:
    name = "idle_in_transaction_session_timeout"
    async with pool_of(make_conninfo(dsn, options=f"-c {name}={chosen}")) as pool:
        [found] = await pool.fetch(f"SELECT current_setting('{name}') AS in_force")
    assert found["in_force"] == in_force


async def test_the_server_looks_for_a_client_that_vanished_in_a_pipeline(own: OwnServer) -> None:
    """After two hours by default, and no other limit of Postgres ends such a session."""
    own.listen("trust")
    async with pool_of(make_conninfo(await own.start(), host="127.0.0.1")) as pool:
        [found] = await pool.fetch(
            "SELECT current_setting('tcp_keepalives_idle') AS idle,"
            " current_setting('tcp_keepalives_interval') AS interval,"
            " current_setting('tcp_user_timeout') AS at_most"
        )
    assert found == {"idle": "20", "interval": "5", "at_most": "60000"}


async def test_a_connection_that_fell_silent_while_it_opened_is_given_up(wire: Proxy) -> None:
    async with pool_of(wire.dsn, min_size=0, max_size=1, connect_timeout_s=2.0) as pool:
        opened = wire.opened
        wire.cut("to_client")
        opening = asyncio.create_task(answers(pool))
        await wait_until(lambda: wire.opened > opened, what="a connection to begin")
        wire.forget()
        wire.mend()
        await opening
        await wait_until(lambda: answers(pool), what="the pool to have another connection")


async def test_opening_goes_on_although_its_first_connection_fell_silent(
    wire: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the schema: the next try finds a network that works."""
    monkeypatch.setattr(schema, "_CONNECT_S", 2)
    wire.cut()
    opening = Durable(wire.dsn, settings=Settings(startup_timeout_s=60))
    entered = asyncio.create_task(opening.open())
    await wait_until(lambda: wire.opened == 1, what="the first connection")
    wire.forget()
    wire.mend()
    await within(30, entered)
    await opening.aclose()


async def test_a_connection_that_fell_silent_while_it_was_set_up_is_given_up(
    wire: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as one that is silent as it opens: the pool opens no other one meanwhile."""
    monkeypatch.setattr(pool_connection, "_SILENCE_S", 60.0)
    silent = asyncio.Event()

    async def configure(
        connection: PoolConnection, compression: Compression, timeout_s: float
    ) -> None:
        if not silent.is_set():
            silent.set()
            wire.forget()
        await pool_connection.configure(connection, compression, timeout_s)

    monkeypatch.setattr(pool, "configure", configure)
    async with pool_of(wire.dsn, min_size=0, max_size=1, connect_timeout_s=2.0) as opened:
        await wait_until(lambda: answers(opened), what="the pool to have another connection")
    assert silent.is_set()


async def test_a_connection_whose_return_is_cancelled_stays_in_the_pool(dsn: str) -> None:
    async with pool_of(dsn, max_size=1, connect_timeout_s=2.0) as opened:
        used, end = asyncio.Event(), asyncio.Event()

        async def use() -> None:
            async with opened.connection():
                used.set()
                await end.wait()

        using = asyncio.create_task(use())
        await used.wait()
        async with opened.pool._lock:  # pyright: ignore[reportPrivateUsage]
            end.set()
            for _ in range(10):
                await asyncio.sleep(0)
            using.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await using
        assert await opened.fetch("SELECT 1 AS one") == [{"one": 1}]


async def test_a_connection_whose_check_is_cancelled_stays_in_the_pool(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, end = asyncio.Event(), asyncio.Event()

    async def check(_: PoolConnection) -> None:  # through a pooler it waits for an answer
        checked.set()
        await end.wait()

    monkeypatch.setattr(PoolConnection, "check", check)
    async with pool_of(dsn, max_size=1, connect_timeout_s=2.0) as opened:
        using = asyncio.create_task(opened.fetch("SELECT 1"))
        await checked.wait()
        async with opened.pool._lock:  # pyright: ignore[reportPrivateUsage]
            for _ in range(2):  # as a cancel scope of anyio, which delivers its own again
                using.cancel()
                for _ in range(10):
                    await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await using
        end.set()
        assert await opened.fetch("SELECT 1 AS one") == [{"one": 1}]


async def test_a_lock_session_that_fell_silent_while_it_was_set_up_is_replaced(
    wire: Proxy, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, silent = LockStatements.prepare, asyncio.Event()

    async def prepare_once(statements: LockStatements, *args: Any, **options: Any) -> None:
        if not silent.is_set():
            silent.set()
            wire.forget()
        await prepare(statements, *args, **options)

    async with Durable(wire.dsn, settings=Settings(connect_timeout_s=2)) as durable:
        monkeypatch.setattr(LockStatements, "prepare", prepare_once)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
            for pid in await backends(dsn, "lock"):
                await admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
        await silent.wait()
        await wait_until(lambda: durable.health().healthy, what="the lock sessions to be up")


async def answers(pool: PsycopgPool) -> bool:
    try:
        return bool(await pool.fetch("SELECT 1"))
    except PostgresUnavailableError:
        return False


async def test_a_checkpoint_whose_connection_died_silently_is_written_on_a_new_one(
    durable: Durable, wire: Proxy
) -> None:
    gate = Gate("weigh")
    running = await run_up_to(gate, durable)
    wire.forget()
    gate.open.set()
    assert (await within(60, running, what="the run to end"))["words"] == list(STEPS)


async def test_a_complete_run_whose_end_met_a_dead_connection_returns_its_result_and_is_recorded(
    durable: Durable, wire: Proxy, dsn: str
) -> None:
    gate = Gate("tell")
    running = await run_up_to(gate, durable)
    wire.forget()
    gate.open.set()
    assert (await within(60, running, what="the run to end"))["words"] == list(STEPS)
    assert [row["status"] for row in await Ledger(dsn).rows("t")] == [RunStatus.COMPLETE]


async def test_a_run_that_is_cancelled_while_its_end_is_recorded_on_a_dead_connection_ends_cancelled(
    durable: Durable, wire: Proxy
) -> None:
    gate = Gate("weigh")
    running = await run_up_to(gate, durable)
    wire.forget()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(60, running, what="the run to end")
    assert running.cancelled()


async def test_a_cancelled_run_waits_for_a_dead_connection_no_longer_than_for_its_lease(
    durable: Durable, wire: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_STATEMENT_S", 60.0)
    running = await cancelled_behind_a_dead_wire(durable, wire)
    await within(
        30, asyncio.wait({running}), what="the run to leave with its lease, of which 2 s were left"
    )
    assert running.cancelled()


async def test_closing_ends_the_waiting_of_a_cancelled_run_although_its_lease_lasts(
    wire: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a process that is given less time than a lease has."""
    monkeypatch.setattr(direct, "_STATEMENT_S", 60.0)
    lasting = Settings(
        lease_ttl_s=120, lease_heartbeat_s=30, lease_safety_margin_s=30, close_timeout_s=2
    )
    durable = Durable(wire.dsn, settings=lasting)
    await durable.open()
    running = await cancelled_behind_a_dead_wire(durable, wire)
    await asyncio.wait({running}, timeout=0.5)
    assert not running.done(), "it waits for the answer"
    await within(20, durable.aclose(), what="the Durable to close")
    await within(20, asyncio.wait({running}), what="the run to leave")
    assert running.cancelled()


async def cancelled_behind_a_dead_wire(durable: Durable, wire: Proxy) -> asyncio.Task[None]:
    gate = Gate("weigh")
    running = await run_up_to(gate, durable)
    wire.cut()
    running.cancel()
    return running


@pytest.fixture
async def database(wire: Proxy) -> AsyncIterator[PsycopgPool]:
    database = PsycopgPool(parse_dsn(wire.dsn), max_size=1)
    await database.open()
    yield database
    await database.aclose()


async def test_a_statement_of_the_pool_does_not_wait_for_an_answer_that_is_lost(
    database: PsycopgPool, wire: Proxy
) -> None:
    await database.fetch("SELECT 1")
    wire.forget()
    with pytest.raises(PostgresUnavailableError):
        await within(30, database.fetch("SELECT 1"), what="its error")
    assert await database.fetch("SELECT 1 AS n") == [{"n": 1}]


async def test_a_statement_of_the_pool_that_takes_long_is_left_alone(
    database: PsycopgPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Within half of it another connection asks for its backend, slowly on a loaded machine.
    monkeypatch.setattr(pool_connection, "_SILENCE_S", 3.0)
    assert await database.fetch("SELECT 1 AS n FROM pg_sleep(4)") == [{"n": 1}]


async def test_statements_sent_together_of_which_the_server_got_a_part_do_not_wait_for_ever(
    database: PsycopgPool, dsn: str, wire: Proxy
) -> None:
    with pytest.raises(PostgresUnavailableError):
        async with database.connection() as connection, connection.pipeline():
            cursor = await connection.execute("SELECT 1")
            await wait_until(
                lambda: backend(dsn, WAITS_FOR_MORE), what="the server to wait for the rest"
            )
            wire.forget()
            await within(30, cursor.fetchall(), what="its error")


async def test_the_backend_of_a_connection_of_the_pool_that_was_cut_is_ended(
    database: PsycopgPool, dsn: str, wire: Proxy
) -> None:
    """It may be in the middle of a pipeline, where no timeout of Postgres ends it."""
    [mine] = await database.fetch("SELECT pg_backend_pid() AS pid")
    wire.forget()
    with pytest.raises(PostgresUnavailableError):
        await within(30, database.fetch("SELECT 1"), what="its error")
    await wait_until(lambda: has_ended(dsn, mine["pid"]), what="its backend to end")


@pytest.mark.parametrize("where", ["collect", "weigh", "tell"])
async def test_twenty_runs_whose_connections_all_die_silently_end_right(
    durable: Durable, wire: Proxy, dsn: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every caller gets its result or an error of ours, and every thread ends complete."""
    gates = {f"t{number}": Gate(where) for number in range(20)}

    async def body(thread_id: str) -> Any:
        async with durable.run(thread_id, four_nodes(gates[thread_id])) as run:
            return await run.ainvoke(INPUT)

    running = [asyncio.create_task(body(thread_id)) for thread_id in gates]
    # Where the machine stands still for longer than a lease lasts, a run ends before its gate.
    there = await asyncio.gather(*map(reached, gates.values(), running))
    assert any(there)
    wire.forget()
    for gate in gates.values():
        gate.open.set()
    done, pending = await asyncio.wait(running, timeout=60)
    assert not pending, f"{len(pending)} callers got nothing"
    failed = [task.exception() for task in done if task.exception() is not None]
    assert all(isinstance(error, AiodurableError) for error in failed), failed
    for task in done:
        if task.exception() is None:
            assert task.result()["words"] == list(STEPS)
    monkeypatch.undo()  # nothing is silent any more
    async with Durable(dsn) as another:
        for thread_id in gates:
            async with another.run(thread_id, four_nodes(), on_busy="wait", timeout=30) as run:
                # The caller of a new one heard that it did not begin.
                new = run.status is ThreadStatus.NEW
                assert (await run.ainvoke(INPUT if new else None))["words"] == list(STEPS)
    ends = [row["status"] for thread_id in gates for row in await Ledger(dsn).rows(thread_id)]
    assert set(ends) == {RunStatus.COMPLETE}
