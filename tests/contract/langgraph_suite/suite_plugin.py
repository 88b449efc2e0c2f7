"""Gives LangGraph's own tests the saver that `AIODURABLE_SUITE_SAVER` names, on a database of each
test's own.

Loaded by `langgraph_suite/__main__.py` with `-p`, so before the suite's conftest takes its savers.
It keeps the tests of one kind of saver, the stock one over a pool, and puts the wanted one in its
place.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from leasing_saver import leasing  # pyright: ignore  # noqa: PGH003
from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from aiodurable.checkpoints import AsyncCheckpointerPool
from tests import (
    conftest_checkpointer,  # pyright: ignore  # noqa: PGH003  # the suite's own, not ours
)

KIND = "postgres_aio_pool"
SAVER = os.environ["AIODURABLE_SUITE_SAVER"]
SERVER = os.environ["AIODURABLE_SUITE_DSN"]
TEMPLATE = os.environ["AIODURABLE_SUITE_TEMPLATE"]


async def execute(statement: str, *names: str) -> None:
    async with await AsyncConnection.connect(SERVER, autocommit=True) as connection:
        await connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@asynccontextmanager
async def saver() -> AsyncIterator[BaseCheckpointSaver[Any]]:
    name = f"suite_{uuid4().hex}"
    await execute("CREATE DATABASE {} TEMPLATE {}", name, TEMPLATE)
    dsn = make_conninfo(SERVER, dbname=name)
    try:
        if SAVER == "stock":
            async with AsyncConnectionPool(dsn, max_size=10, kwargs={"autocommit": True}) as pool:
                yield AsyncPostgresSaver(pool)
        else:
            async with AsyncCheckpointerPool(dsn) as ours:
                yield leasing(ours) if SAVER == "leased" else ours.get_checkpointer()
    finally:
        await execute("DROP DATABASE {} WITH (FORCE)", name)


conftest_checkpointer._checkpointer_postgres_aio_pool = saver


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = [item for item in items if wanted(getattr(item, "callspec", None))]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def wanted(callspec: Any) -> bool:
    """Whether a test takes the saver, and nothing that needs another server."""
    parameters: dict[str, Any] = {} if callspec is None else callspec.params
    return (
        parameters.get("async_checkpointer") == KIND
        and parameters.get("async_store", "in_memory") == "in_memory"
        and parameters.get("cache") != "redis"
    )
