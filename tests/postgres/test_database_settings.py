"""What an administrator sets for a database changes how things are written down, not what they mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from aiodurable import Durable
from workflows import four_nodes

START: dict[str, Any] = {"words": [], "told": ""}


@pytest.mark.parametrize(
    "settings",
    [
        {"datestyle": "German, DMY", "timezone": "Asia/Kathmandu", "intervalstyle": "sql_standard"},
        {"standard_conforming_strings": "off", "bytea_output": "escape", "extra_float_digits": "0"},
        {"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on"},
        {"statement_timeout": "10s", "lock_timeout": "5s", "idle_in_transaction_session_timeout": "5s"},
        {"search_path": "aiodurable_elsewhere"},
    ],
    ids=lambda settings: next(iter(settings)),
)
async def test_a_run_its_status_its_history_and_pruning_are_the_same(empty_dsn: str, settings: dict[str, str]) -> None:
    async with await psycopg.AsyncConnection.connect(empty_dsn, autocommit=True) as admin:
        await admin.execute(b"CREATE SCHEMA aiodurable_elsewhere")
        for name, value in settings.items():
            await admin.execute(
                sql.SQL("ALTER DATABASE {} SET {} TO {}").format(
                    sql.Identifier(admin.info.dbname), sql.Identifier(name), sql.Literal(value)
                )
            )
    before = datetime.now(UTC)
    async with Durable(empty_dsn) as durable:
        for _ in range(2):
            async with durable.run(four_nodes(), "t") as run:
                await run.ainvoke(START)
        told = await durable.get_checkpoint_status("t")
        assert told.status == "complete"
        assert told.updated_at is not None
        assert before < told.updated_at < datetime.now(UTC)
        assert [thread.thread_id async for thread in durable.find_workflows(newer_than=timedelta(minutes=5))] == ["t"]
        written = [step.written_at async for step in durable.history("t") if step.written_at is not None]
        assert before < written[-1] < written[0]
        assert (await durable.prune(older_than=timedelta())).threads == 1
        assert await durable.get_checkpoint_status("t") == told
