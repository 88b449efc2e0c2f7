"""Everybody may NOTIFY on our channels: what is no number there is nothing to us."""

from __future__ import annotations

import logging

import psycopg
import pytest

from aiodurable.locks import PostgresLockManager
from aiodurable.postgres.notifier import Notifier
from tests.support.waiting import wait_until


async def test_junk_on_the_channel_of_the_locks_is_dropped_quietly(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    heard: list[str] = []

    def told(payload: str) -> None:
        heard.append(payload)

    notifier = Notifier()
    notifier.subscribe("another", told)
    async with PostgresLockManager(dsn, notifier=notifier):
        with psycopg.connect(dsn, autocommit=True) as stranger:
            for junk in ("x", "", "9" * 7000, "\u0663.5"):
                stranger.execute("SELECT pg_notify('aiodurable_lock', %s)", (junk,))
            stranger.execute("SELECT pg_notify('another', 'the end')")
        await wait_until(lambda: bool(heard), what="what was sent last")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
