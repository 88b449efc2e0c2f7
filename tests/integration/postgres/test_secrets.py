"""A password stays where it was given: in no frame of ours that a crash reporter shows, and in no
list of processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from click.testing import CliRunner, Result

import aiodurable
from aiodurable.cli.commands import cli
from aiodurable.dsn import parse_dsn
from aiodurable.durable import Durable
from aiodurable.errors import PostgresUnavailableError
from aiodurable.locks import PostgresLockManager
from aiodurable.postgres import schema
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.pool import PsycopgPool
from tests.support.postgres import Server

PASSWORD = "hunter2"
AWAY = f"postgresql://me:{PASSWORD}@127.0.0.1:1/none"
OURS = str(Path(aiodurable.__file__).parent)


def frames(error: BaseException | None) -> Iterator[FrameType]:
    """Of the error, its cause and its context."""
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback = one.__traceback__
        while traceback is not None:
            yield traceback.tb_frame
            traceback = traceback.tb_next
        left += [one.__cause__, one.__context__]


def shown(error: BaseException) -> list[str]:
    """The variables of our frames in which a crash reporter would show the password."""
    return [
        f"{frame.f_code.co_qualname}: {name}"
        for frame in frames(error)
        if frame.f_code.co_filename.startswith(OURS)
        for name, value in frame.f_locals.items()
        if PASSWORD in repr(value)
    ]


async def durable() -> None:
    async with Durable(parse_dsn(AWAY).conninfo):
        pass


async def locks() -> None:
    async with PostgresLockManager(parse_dsn(AWAY).conninfo):
        pass


WAYS: dict[str, Callable[[], Awaitable[Any]]] = {
    "a direct connection": lambda: connect_direct(parse_dsn(AWAY), role="test"),
    "the pool": lambda: PsycopgPool(parse_dsn(AWAY)).open(),
    "the migration": lambda: schema.migrate(parse_dsn(AWAY)),
    "Durable": durable,
    "the lock manager": locks,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_no_frame_of_ours_shows_the_password_when_connecting_fails(
    way: Callable[[], Awaitable[Any]],
) -> None:
    with pytest.raises(PostgresUnavailableError) as raised:
        await way()
    assert any(frame.f_code.co_filename.startswith(OURS) for frame in frames(raised.value))
    assert shown(raised.value) == []


async def test_the_pools_own_connections_show_no_password_either(server: Server, dsn: str) -> None:
    database = PsycopgPool(parse_dsn(dsn), min_size=0, max_size=1)
    await database.open()
    try:
        assert repr(database.pool.conninfo) == "<hidden>"
        async with database.connection() as connection:
            assert (await (await connection.execute("SELECT 1 AS one")).fetchone()) == {"one": 1}
    finally:
        await database.aclose()
        await asyncio.sleep(0)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(cli, arguments)


@pytest.mark.parametrize(
    "given",
    [
        AWAY,
        f"host=127.0.0.1 port=1 user=me password={PASSWORD}",
        f"postgresql://127.0.0.1:1?password={PASSWORD}",
    ],
)
def test_a_password_on_the_command_line_is_warned_of_once(given: str) -> None:
    result = run("status", "--dsn", given)
    assert result.exit_code == 5
    assert result.stderr.count("ps shows") == 1
    assert "--dsn-file" in result.stderr
    assert PASSWORD not in result.output


def test_without_a_password_nothing_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text(f"{AWAY}\n")
    for result in (
        run("status", "--dsn", "postgresql://me@127.0.0.1:1/none"),
        run("status", "--dsn-file", str(file)),
        run("status", AIODURABLE_DSN=AWAY),
    ):
        assert result.exit_code == 5, result.output
        assert "127.0.0.1:1" in result.stderr
        assert "ps shows" not in result.stderr
        assert PASSWORD not in result.output


def test_a_file_names_the_database(tmp_path: Path, dsn: str) -> None:
    file = tmp_path / "dsn"
    file.write_text(f"\n{dsn}\n")
    result = run("status", "--dsn-file", str(file))
    assert result.exit_code == 0, result.output
    assert run("status", "--dsn-file", str(file), "--dsn", dsn).exit_code == 2
    file.write_text("\n")
    assert run("status", "--dsn-file", str(file)).exit_code == 2
    assert run("status", "--dsn-file", str(tmp_path / "none")).exit_code == 2
