"""Threads of one set of tables are locked in one namespace: another one is refused."""

from __future__ import annotations

import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError
from aiodurable.settings import Settings

MINE, THEIRS = Settings(namespace="mine"), Settings(namespace="theirs")


@pytest.mark.parametrize("sessions", [2, 0])
async def test_a_second_namespace_on_the_same_tables_is_refused(dsn: str, sessions: int) -> None:
    async with Durable(dsn, settings=MINE), Durable(dsn, settings=MINE):
        with pytest.raises(ConfigurationError, match="'theirs'.*'mine'"):
            await Durable(
                dsn, settings=Settings(namespace="theirs", lock_connections=sessions)
            ).open()
    with pytest.raises(
        ConfigurationError, match="'theirs'.*'mine'"
    ):  # also when nobody is there any more
        await Durable(dsn, settings=THEIRS).open()


async def test_reading_first_declares_no_namespace(dsn: str) -> None:
    async with Durable(dsn, settings=Settings(namespace="theirs", lock_connections=0)):
        pass
    async with Durable(dsn, settings=MINE):
        pass


async def test_the_namespace_can_be_changed_as_the_error_says(dsn: str) -> None:
    async with Durable(dsn, settings=MINE):
        pass
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM aiodurable_namespace")
    async with Durable(dsn, settings=THEIRS):
        pass


async def test_two_schemas_of_one_database_have_a_namespace_each(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA tenant")
    mark = "&" if "?" in dsn else "?"
    tenant = f"{dsn}{mark}options=-csearch_path%3Dtenant"
    async with Durable(dsn, settings=MINE) as ours, Durable(tenant, settings=THEIRS) as theirs:
        async with ours.hold("t"), theirs.hold("t"):
            pass
