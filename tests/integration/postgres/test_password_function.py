"""A function gives the password of each new connection: what is rotated while a process runs is used
from the next connection on, by both drivers, and no password is shown.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from aiodurable import (
    AsyncCheckpointerPool,
    ConfigurationError,
    Durable,
    PostgresLockManager,
    PostgresUnavailableError,
    Settings,
    ThreadStatus,
    create_checkpointer,
    create_lock_manager_with_retry,
)
from tests.support.graphs import INPUT, STEPS, four_nodes
from tests.support.restartable import OwnServer
from tests.support.waiting import wait_until, within

FIRST, SECOND = "Zwiebel:kuchen/42@x", "Apfel:kuchen/43@x"
QUICK = Settings(connect_timeout_s=3, close_timeout_s=2)


class Role:
    """A role whose password is rotated, over TCP with SCRAM.

    Attributes:
        dsn: without a password.
        calls: how often the password was given.
    """

    def __init__(self, admin: str) -> None:
        self._admin = admin
        port = conninfo_to_dict(admin)["port"]
        self.dsn = make_conninfo(
            host="127.0.0.1", port=port, user="keeper", dbname="postgres", password="stale"
        )
        self.calls = 0
        self._password = ""
        self._execute("CREATE ROLE keeper LOGIN SUPERUSER")
        self.rotate(FIRST)

    def _execute(self, statement: str, *values: str) -> None:
        query = sql.SQL(statement).format(*map(sql.Literal, values))
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute(query)

    def rotate(self, password: str) -> None:
        self._execute("ALTER ROLE keeper PASSWORD {}", password)
        self._password = password

    def end_connections(self) -> None:
        self._execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE usename = 'keeper'"
        )

    def password(self) -> str:
        self.calls += 1
        return self._password

    async def password_async(self) -> str:
        await asyncio.sleep(0)
        return self.password()


@pytest.fixture
async def role(own: OwnServer) -> Role:
    own.listen("scram-sha-256")
    return Role(await own.start())


def is_shown(*texts: str) -> bool:
    return any(word in text for word in ("kuchen", "Zwiebel", "Apfel") for text in texts)


async def run_once(durable: Durable, thread_id: str) -> None:
    async with durable.run(thread_id, four_nodes()) as run:
        assert (await run.ainvoke(INPUT))["words"] == list(STEPS)


@pytest.mark.parametrize("kind", ["password", "password_async"])
async def test_connections_that_end_come_back_with_the_rotated_password(
    role: Role, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    function: Callable[[], str | Awaitable[str]] = getattr(role, kind)
    with caplog.at_level(logging.DEBUG):
        async with Durable(role.dsn, password=function, settings=QUICK) as durable:
            await run_once(durable, "before")
            role.rotate(SECOND)
            role.end_connections()
            await wait_until(
                lambda: all(each.up and each.reconnects for each in durable.locks.health().sessions)
            )
            await run_once(durable, "after")
            assert (await durable.threads.count()).by_status[
                ThreadStatus.COMPLETE
            ] == 2  # read through psycopg's pool
            shown = [repr(durable), repr(durable.dsn), str(durable.dsn), str(durable.health())]
    shown += [record.getMessage() + (record.exc_text or "") for record in caplog.records]
    assert caplog.records
    assert not is_shown(*shown)


async def test_every_way_to_connect_calls_the_password_function(role: Role) -> None:
    async with create_checkpointer(role.dsn, password=role.password, settings=QUICK):
        pass
    async with AsyncCheckpointerPool(role.dsn, password=role.password, settings=QUICK) as pool:
        assert await pool.bump("t") == 1
    async with PostgresLockManager(role.dsn, password=role.password, settings=QUICK) as locks:
        assert await locks.holders() == []
        async with locks.hold("name"):
            pass
    locks = await create_lock_manager_with_retry(role.dsn, password=role.password, settings=QUICK)
    await locks.aclose()


async def test_the_lock_dsn_takes_its_password_from_the_same_function(role: Role) -> None:
    settings = Settings(lock_dsn=role.dsn, connect_timeout_s=3, close_timeout_s=2)
    async with Durable(role.dsn, password=role.password, settings=settings) as durable:
        await run_once(durable, "t")


async def test_a_function_that_fails_for_a_while_is_called_again_until_it_returns(
    role: Role,
) -> None:
    failing = threading.Event()

    def password() -> str:
        if failing.is_set():
            raise ConnectionError(f"no token, the last one was {FIRST}")
        return role.password()

    async with Durable(role.dsn, password=password, settings=QUICK) as durable:
        failing.set()
        role.end_connections()

        async def refused() -> bool:
            """Whether no connection is left that only now learns that it was ended."""
            with pytest.raises(PostgresUnavailableError) as unavailable:
                await durable.threads.count()
            assert not is_shown(str(unavailable.value))
            return "password function raised ConnectionError" in str(unavailable.value)

        await wait_until(refused)
        failing.clear()
        await wait_until(lambda: all(each.up for each in durable.locks.health().sessions))
        await run_once(durable, "t")


async def test_opening_says_that_the_password_function_raised(role: Role) -> None:
    def password() -> str:
        raise LookupError(FIRST)

    for opening in (
        Durable(role.dsn, password=password, settings=QUICK).open(),
        PostgresLockManager(role.dsn, password=password, settings=QUICK).open(),
        AsyncCheckpointerPool(role.dsn, password=password, settings=QUICK).open(),
    ):
        with pytest.raises(PostgresUnavailableError, match="raised LookupError") as unavailable:
            await opening
        assert not is_shown(str(unavailable.value))
        assert unavailable.value.__cause__ is not None
        assert isinstance(unavailable.value.__cause__.__cause__, LookupError)


async def test_a_function_that_hangs_ends_with_the_connect_timeout_and_not_the_event_loop(
    role: Role,
) -> None:
    settings = Settings(connect_timeout_s=1, close_timeout_s=2)
    ended = threading.Event()
    try:
        with pytest.raises(PostgresUnavailableError, match="returned nothing within 1 s"):
            await within(
                20,
                PostgresLockManager(
                    role.dsn, password=lambda: str(ended.wait()), settings=settings
                ).open(),
            )
    finally:
        ended.set()


@pytest.mark.parametrize("returned", [None, b"Zwiebel"])
async def test_a_function_that_returns_no_text_is_refused_by_name_of_its_type(
    role: Role, returned: object
) -> None:
    async def password() -> str:
        return returned  # pyright: ignore[reportReturnType]

    with pytest.raises(ConfigurationError, match=type(returned).__name__) as refused:
        await Durable(role.dsn, password=password, settings=QUICK).open()
    assert not is_shown(*traceback.format_exception(refused.value))


def test_a_password_that_is_no_function_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigurationError, match="must be a function") as refused:
        Durable("postgresql://keeper@localhost/postgres", password=FIRST)  # pyright: ignore[reportArgumentType]
    assert not is_shown(str(refused.value))
