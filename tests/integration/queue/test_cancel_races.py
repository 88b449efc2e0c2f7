"""A run is cancelled at the moment at which it begins, or ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.models import RunStatus
from aiodurable.settings import Settings
from tests.support.scenario_graphs import chain, ok
from tests.support.waiting import wait_until

WAITING = (
    b"SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
    b" AND wait_event_type = 'Lock' AND query LIKE '%given_up%'"
)


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs={"chain": chain(a=ok("a"))}, settings=Settings()) as opened:
        yield opened


@pytest.mark.parametrize(
    ("change", "status", "requested"),
    [
        (b"status = 'running', fencing_token = 0, claim_state = NULL", RunStatus.RUNNING, True),
        (b"status = 'failed', fencing_token = 0, claim_state = 'ready'", RunStatus.PAUSED, True),
    ],
)
async def test_a_cancellation_meets_the_run_as_it_stands_once_its_row_is_free(
    durable: Durable, dsn: str, change: bytes, status: RunStatus, requested: bool
) -> None:
    await durable.runs.create("t", "chain", {"xs": []}, run_id="r")
    with psycopg.connect(dsn) as other, psycopg.connect(dsn, autocommit=True) as looking:
        other.execute(b"UPDATE aiodurable_runs SET " + change)
        cancelling: asyncio.Task[Any] = asyncio.create_task(durable.runs.cancel("r"))
        await wait_until(lambda: looking.execute(WAITING).fetchall())
        other.commit()
        await asyncio.wait({cancelling}, timeout=20)
    record = await durable.runs.get("r")
    assert record.status in (status, RunStatus.PAUSED)
    assert (record.cancel_requested_at is not None) is requested
    assert record.claim_state is None
