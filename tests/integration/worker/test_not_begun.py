"""A claimed run that cannot be begun: its row says why, and the worker does not spin on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError
from aiodurable.models import RunRecord, RunStatus
from aiodurable.runs.ledger import Ledger
from aiodurable.settings import Settings
from tests.support.scenario_graphs import chain, ok
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": ["in"]}


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs={"chain": chain(a=ok("a"))}, settings=Settings()) as opened:
        yield opened


async def test_an_input_that_cannot_be_read_sets_the_run_aside(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(*_: object) -> None:
        raise ConfigurationError("a class that the graph may not build")

    created = await durable.runs.create("t", "chain", INPUT)
    monkeypatch.setattr(Ledger, "loaded", refuses)

    async def set_aside() -> RunRecord | None:
        record = await durable.runs.get(created.run_id)
        return record if record.status is RunStatus.QUARANTINED else None

    async with durable.work():
        record = await wait_until(set_aside, 5)
    assert record is not None
    assert (record.reason, record.claim_state, record.attempts) == ("cannot be begun", None, 0)
    assert "may not build" in (record.error or "")
