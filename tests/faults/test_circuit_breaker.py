"""A Postgres that stays away: calls fail at once instead of each after its own timeout, and
recovery is never held up.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict

import pytest
from psycopg.conninfo import make_conninfo

from aiodurable import (
    AsyncCheckpointerPool,
    CircuitOpenError,
    Durable,
    PostgresUnavailableError,
    Settings,
    ThreadStatus,
)
from tests.support.graphs import Gate, run_up_to
from tests.support.internals import services_of
from tests.support.restartable import OwnServer, own_server
from tests.support.waiting import wait_until, within

OPENS = 60.0
"""Seconds to open: the limits of one try are so short here that a loaded machine misses some."""
QUICK = Settings(
    connect_timeout_s=1.0,
    startup_timeout_s=OPENS,
    circuit_open_after_s=1.0,
    circuit_probe_interval_s=30.0,
    recovery_grace_s=120.0,
)


@pytest.fixture
async def own() -> AsyncIterator[OwnServer]:
    async with own_server() as server:
        yield server


async def refused(durable: Durable) -> CircuitOpenError | None:
    try:
        await durable.threads.status("t")
    except CircuitOpenError as error:
        return error
    except PostgresUnavailableError:
        pass
    return None


async def test_calls_fail_at_once_while_postgres_stays_away_and_work_when_it_is_back(
    own: OwnServer,
) -> None:
    async with Durable(await own.start(), settings=QUICK) as durable:
        assert durable.health().healthy
        await own.stop()
        error = await wait_until(lambda: refused(durable), 30)
        assert error is not None
        assert 0 < error.retry_after_s <= 30
        health = durable.health()
        assert (health.healthy, health.checkpoints.circuit) == (False, "open")
        stats = services_of(durable).checkpoints.database.pool.get_stats
        before = stats().get("requests_num", 0)
        answers = await asyncio.gather(
            *(durable.threads.status(f"t{n}") for n in range(50)), return_exceptions=True
        )
        kinds = Counter(type(answer).__name__ for answer in answers)
        assert kinds["CircuitOpenError"] >= 49, kinds  # one may be the probe
        assert stats().get("requests_num", 0) - before <= 50 - kinds["CircuitOpenError"]
        await own.start()

        async def works() -> bool:
            try:
                return (await durable.threads.status("t")).status is ThreadStatus.NEW
            except (CircuitOpenError, PostgresUnavailableError):
                return False

        await wait_until(works, 60)
        await wait_until(lambda: durable.health().healthy, 30)
        assert durable.health().checkpoints.circuit == "closed"
        assert "postgres" not in str(asdict(durable.health())["checkpoints"]), (
            "nothing of where it leads"
        )


async def test_a_short_restart_refuses_nobody(own: OwnServer) -> None:
    """The default settings, and more failures in one moment than a threshold alone would bear."""
    async with AsyncCheckpointerPool(await own.start(), max_size=11) as pool:
        under_way = [
            asyncio.create_task(pool.database.fetch("SELECT pg_sleep(60)")) for _ in range(10)
        ]

        async def all_asleep() -> bool:
            query = (
                "SELECT count(*) AS n FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND"
                " state = 'active'"
            )
            return (await pool.database.fetch(query))[0]["n"] == 10

        await wait_until(all_asleep)
        await own.restart("immediate")
        failed = await asyncio.gather(*under_way, return_exceptions=True)
        assert Counter(type(error).__name__ for error in failed) == {"PostgresUnavailableError": 10}
        assert pool.health().circuit == "closed"
        assert await pool.database.fetch("SELECT 1 AS one") == [{"one": 1}]


async def test_a_run_takes_its_lost_lock_again_through_an_open_circuit_and_closes_it(
    own: OwnServer,
) -> None:
    gate = Gate("weigh")
    async with Durable(await own.start(), settings=QUICK) as durable:
        running = await run_up_to(gate, durable)
        await own.stop()

        async def refused_for_long() -> bool:
            error = await refused(durable)
            return error is not None and error.retry_after_s > 3

        await wait_until(refused_for_long, 60)
        await own.start()
        reopened = time.monotonic()
        await wait_until(lambda: durable.health().checkpoints.circuit == "closed", 60)
        gate.open.set()
        assert (await running)["told"] == "collect sort weigh tell"
        print(
            f"the circuit closed {time.monotonic() - reopened:.1f} s after the restart, without a"
            " probe"
        )


async def test_circuit_after_0_refuses_nobody(own: OwnServer) -> None:
    settings = Settings(connect_timeout_s=0.1, startup_timeout_s=OPENS, circuit_open_after_s=0)
    async with Durable(await own.start(), settings=settings) as durable:
        await own.stop()
        for _ in range(20):
            with pytest.raises(PostgresUnavailableError):
                await durable.threads.status("t")
        assert durable.health().checkpoints.circuit is None


async def test_a_durable_may_be_opened_before_its_postgres_is_there(own: OwnServer) -> None:
    dsn = await own.start()
    await own.stop()
    with pytest.raises(PostgresUnavailableError, match=r"within 0\.5 s"):
        await Durable(dsn, settings=Settings(startup_timeout_s=0.5)).open()
    durable = Durable(dsn, settings=Settings(startup_timeout_s=60))
    opening = asyncio.create_task(durable.open())
    await asyncio.wait({opening}, timeout=0.3)
    assert not opening.done()
    assert await own.start() == dsn
    await opening
    assert (await durable.threads.status("t")).status is ThreadStatus.NEW
    await durable.aclose()


async def test_a_refused_database_is_not_waited_for(dsn: str) -> None:
    nowhere = make_conninfo(dsn, dbname="nowhere")
    opening = Durable(nowhere, settings=Settings(startup_timeout_s=60)).open()
    with pytest.raises(PostgresUnavailableError, match="no such database"):
        await within(30, opening, what="the refusal")


async def test_calls_one_after_the_other_fail_soon_and_little_is_logged_while_postgres_is_known_to_be_away(
    own: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one waits for as long as a restart takes; the next ones need not wait as long
    again.
    """
    settings = Settings(
        connect_timeout_s=10.0, circuit_open_after_s=2.0, circuit_probe_interval_s=30.0
    )
    async with Durable(await own.start(), settings=settings) as durable:
        await own.stop()
        began, calls = time.monotonic(), 0
        while await refused(durable) is None:
            calls += 1
        assert time.monotonic() - began < 2.5 * settings.connect_timeout_s, f"{calls} calls"
        warnings = [
            record
            for record in caplog.records
            if record.name.startswith("aiodurable.locks.supervisor")
        ]
        assert len(warnings) <= 2, "one for each lock session"
