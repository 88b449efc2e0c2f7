"""The connections that write have large values compressed with lz4, where the server has it and
nobody chose otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from aiodurable import Durable, Settings
from aiodurable.dsn import parse_dsn
from aiodurable.models import Compression
from aiodurable.postgres.direct import DirectConnection
from tests.support.pgbouncer import through
from tests.support.scenario_graphs import chain

PAGE = "a page of the document, which is like the next one. " * 200
INPUT: dict[str, Any] = {"xs": [PAGE]}
COLUMNS = {"checkpoint_blobs": "blob", "checkpoint_writes": "blob", "aiodurable_runs": "input"}


async def another_page(state: Any) -> dict[str, Any]:
    return {"xs": [PAGE]}


@pytest.fixture
def has_lz4(admin: psycopg.Connection[Any]) -> bool:
    row = admin.execute(
        b"SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    ).fetchone()
    assert row is not None
    return bool(row[0])


@pytest.fixture
def lz4(has_lz4: bool) -> str:
    """What compresses, where lz4 is wanted."""
    return "lz4" if has_lz4 else "pglz"


@pytest.fixture
def choose(dsn: str, admin: psycopg.Connection[Any]) -> Callable[[str], None]:
    """Chooses the method of the database, as an administrator does."""
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))

    def choose(method: str) -> None:
        admin.execute(
            sql.SQL("ALTER DATABASE {} SET default_toast_compression = {}").format(name, method)
        )

    return choose


def stored(dsn: str) -> dict[str, set[str | None]]:
    """How the large values of each table are compressed."""
    with psycopg.connect(dsn) as connection:
        return {
            table: {
                row[0]
                for row in connection.execute(
                    f"SELECT pg_column_compression({column}) FROM {table}"
                    f" WHERE octet_length({column}) > {len(PAGE)}".encode()
                )
            }
            for table, column in COLUMNS.items()
        }


async def run_here_and_by_a_worker(dsn: str, settings: Settings) -> None:
    graphs = {"chain": chain(a=another_page, b=another_page)}
    async with Durable(dsn, graphs=graphs, settings=settings) as durable:
        async with durable.run("here", "chain") as run:
            await run.ainvoke(INPUT)
            await run.aupdate_state(INPUT)
        created = await durable.runs.create("there", "chain", INPUT)
        async with durable.work():
            await durable.runs.wait(created.run_id)


async def test_what_runs_and_workers_write_is_lz4_where_the_server_has_it(
    dsn: str, lz4: str
) -> None:
    await run_here_and_by_a_worker(dsn, Settings())
    assert stored(dsn) == {table: {lz4} for table in COLUMNS}


@pytest.mark.parametrize("compression", ["auto", "pglz"])
async def test_pglz_stays_where_it_was_chosen(
    dsn: str, compression: Compression, choose: Callable[[str], None], lz4: str
) -> None:
    choose("pglz" if compression == "auto" else lz4)
    await run_here_and_by_a_worker(dsn, Settings(compression=compression))
    assert stored(dsn) == {table: {"pglz"} for table in COLUMNS}


async def test_a_column_keeps_a_method_of_its_own(
    dsn: str, lz4: str, admin: psycopg.Connection[Any]
) -> None:
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(b"ALTER TABLE checkpoint_blobs ALTER COLUMN blob SET COMPRESSION pglz")
        owner.execute(b"ALTER TABLE checkpoint_writes ALTER COLUMN blob SET STORAGE EXTERNAL")
    await run_here_and_by_a_worker(dsn, Settings())
    assert stored(dsn) == {
        "checkpoint_blobs": {"pglz"},
        "checkpoint_writes": {None},
        "aiodurable_runs": {lz4},
    }


async def test_through_a_pooler_checkpoints_alone_are_written_directly(dsn: str, lz4: str) -> None:
    with through("transaction", dsn) as pooler:
        await run_here_and_by_a_worker(pooler, Settings(lock_dsn=dsn))
    assert stored(dsn)["checkpoint_blobs"] == stored(dsn)["checkpoint_writes"] == {lz4}


@pytest.mark.parametrize(
    ("compression", "chosen", "expected"),
    [
        ("auto", None, "lz4"),
        ("auto", "pglz", "pglz"),
        ("auto", "lz4", "lz4"),
        ("lz4", "pglz", "lz4"),
        ("pglz", "lz4", "pglz"),
    ],
)
async def test_a_choice_goes_before_the_options_of_the_dsn_and_these_before_none(
    dsn: str, has_lz4: bool, compression: Compression, chosen: str | None, expected: str
) -> None:
    if chosen == "lz4" and not has_lz4:
        pytest.skip("a server without lz4 refuses such options")
    if chosen is not None:
        dsn = make_conninfo(dsn, options=f"-c default_toast_compression={chosen}")
    link = DirectConnection(
        parse_dsn(dsn, compression=compression), role="test", connect_timeout_s=10.0
    )
    [row] = await link.fetch("SELECT current_setting('default_toast_compression')")
    link.drop()
    assert row[0] == (expected if has_lz4 else "pglz")
