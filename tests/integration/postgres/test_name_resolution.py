"""A connection can be opened by host name although the event loop's default executor is full."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict

from aiodurable import Durable, PostgresUnavailableError, Settings
from aiodurable.dsn import parse_dsn
from aiodurable.postgres import name_resolution
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.pool import PsycopgPool
from tests.support.graphs import STEPS, Gate, run_up_to
from tests.support.lock_view import ServerLocks
from tests.support.ports import free_port
from tests.support.proxy import proxy
from tests.support.waiting import wait_until, within


@pytest.fixture
async def by_name(dsn: str) -> AsyncIterator[str]:
    async with proxy(dsn) as wire:
        yield wire.dsn.replace("127.0.0.1", "localhost")


@asynccontextmanager
async def full_executor() -> AsyncIterator[None]:
    """Nodes that are plain functions run in the default executor; here one keeps all of it busy."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        busy = asyncio.get_running_loop().run_in_executor(None, ended.wait)
        try:
            yield
        finally:
            ended.set()
            await busy


@pytest.fixture
async def full() -> AsyncIterator[None]:
    async with full_executor():
        yield


async def test_a_direct_connection_is_opened_by_name_while_the_default_executor_is_full(
    by_name: str, full: None
) -> None:
    connection = await within(
        30, connect_direct(parse_dsn(by_name), role="test"), what="a connection"
    )
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_the_pool_opens_connections_by_name_while_the_default_executor_is_full(
    by_name: str, full: None
) -> None:
    database = PsycopgPool(parse_dsn(by_name), min_size=2, max_size=2)
    await within(30, database.open(), what="the pool")
    assert await within(30, database.fetch("SELECT 1 AS n"), what="an answer") == [{"n": 1}]
    await wait_until(lambda: database.stats()["pool_size"] == 2, what="the pool to grow")
    await database.aclose()


async def test_a_run_takes_its_lock_again_while_plain_functions_fill_the_default_executor(
    by_name: str, server_locks: ServerLocks
) -> None:
    gate = Gate("weigh")
    async with Durable(by_name, settings=Settings(recovery_grace_s=10)) as durable:
        running = await run_up_to(gate, durable)
        async with full_executor():
            before = server_locks.keys()
            assert server_locks.end_sessions() == 2
            await wait_until(
                lambda: server_locks.keys() - before, what="another session to have the lock"
            )
        gate.open.set()
        assert (await within(30, running, what="the run to end"))["words"] == list(STEPS)


async def test_of_several_hosts_and_addresses_the_first_that_answers_is_taken_by_either_driver(
    dsn: str, by_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As both drivers do where they resolve names themselves."""
    port = str(conninfo_to_dict(by_name)["port"])
    nobody_port = free_port()
    known = {"two.invalid": ["127.0.0.2", "127.0.0.1"], "one.invalid": ["127.0.0.1"]}

    def getaddrinfo(host: str, port: Any, **_: Any) -> list[Any]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port)))
            for address in known[host]
        ]

    monkeypatch.setattr(name_resolution.socket, "getaddrinfo", getaddrinfo)
    rest = {
        key: value
        for key, value in conninfo_to_dict(by_name).items()
        if key in ("user", "password", "dbname")
    }
    for hosts, ports in [
        ("two.invalid", port),
        ("one.invalid,two.invalid", f"{nobody_port},{port}"),
        ("three.invalid,one.invalid", port),
        ("/no/such/folder,one.invalid,127.0.0.1", port),
    ]:
        several = parse_dsn("postgresql://?" + urlencode({**rest, "host": hosts, "port": ports}))
        connection = await connect_direct(several, role="test")
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
        database = PsycopgPool(several)
        await database.open()
        assert await database.fetch("SELECT 1 AS n") == [{"n": 1}]
        await database.aclose()


async def test_an_unknown_host_name_is_an_error_that_says_so_with_either_driver() -> None:
    nowhere = parse_dsn("postgresql://visitor@no-such-host.invalid/visited")
    with pytest.raises(PostgresUnavailableError, match="cannot be resolved"):
        await connect_direct(nowhere, role="test")
    with pytest.raises(PostgresUnavailableError, match="cannot be resolved"):
        await PsycopgPool(nowhere).open()
