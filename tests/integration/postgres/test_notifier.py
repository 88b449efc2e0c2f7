"""Each subscriber hears what is sent on its channel, over one connection, and over the one that
replaces it.
"""

from __future__ import annotations

import logging

import psycopg
import pytest

from aiodurable.dsn import parse_dsn
from aiodurable.locks import PostgresLockManager
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.notifier import Notifier
from aiodurable.settings import Settings
from tests.support.waiting import wait_until


def notify(dsn: str, *sent: tuple[str, str]) -> None:
    with psycopg.connect(dsn, autocommit=True) as sender:
        for channel, payload in sent:
            sender.execute("SELECT pg_notify(%s, %s)", (channel, payload))


async def test_each_subscriber_hears_its_channel_until_it_unsubscribes(dsn: str) -> None:
    notifier, first, second, other = Notifier(), list[str](), list[str](), list[str]()
    unsubscribe = notifier.subscribe("a", first.append)
    notifier.subscribe("a", second.append)
    notifier.subscribe("b", other.append)
    connection = await connect_direct(parse_dsn(dsn), role="test")
    await notifier.attach(connection)
    notify(dsn, ("a", "1"), ("c", "nobody listens"), ("b", "2"))
    await wait_until(lambda: bool(other), what="the second channel")
    unsubscribe()
    unsubscribe()
    notify(dsn, ("a", "3"), ("b", "4"))
    await wait_until(lambda: len(other) == 2, what="the second channel again")
    assert (first, second, other) == (["1"], ["1", "3"], ["2", "4"])
    connection.terminate()


async def test_a_subscriber_that_fails_keeps_nothing_from_the_others(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(payload: str) -> None:
        raise LookupError("no such subscriber")

    notifier, heard = Notifier(), list[str]()
    notifier.subscribe("a", fail)
    notifier.subscribe("a", heard.append)
    connection = await connect_direct(parse_dsn(dsn), role="test")
    await notifier.attach(connection)
    notify(dsn, ("a", "1"))
    await wait_until(lambda: heard == ["1"], what="the notification")
    assert [record.levelno for record in caplog.records if "subscriber" in record.message] == [
        logging.ERROR
    ]
    connection.terminate()


async def test_subscriptions_outlive_the_lock_session_that_listens(dsn: str) -> None:
    notifier, heard = Notifier(), list[str]()
    notifier.subscribe("a", heard.append)
    async with PostgresLockManager(
        dsn, sessions=1, settings=Settings(), notifier=notifier
    ) as locks:
        with pytest.raises(RuntimeError, match="before the locks open"):
            notifier.subscribe("too late", heard.append)
        with psycopg.connect(dsn, autocommit=True) as killer:
            killer.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name LIKE 'aiodurable:lock@%'"
            )
        await wait_until(
            lambda: locks.health().sessions[0].reconnects == 1, what="the session to be replaced"
        )
        notify(dsn, ("a", "1"))
        await wait_until(lambda: heard == ["1"], what="the notification")
