"""An open `Durable` on a fresh database, and the ledger's rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiodurable.durable import Durable
from aiodurable.settings import Settings
from ledger_rows import Ledger


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, settings=Settings()) as opened:
        yield opened


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def ledger(dsn: str) -> Ledger:
    return Ledger(dsn)
