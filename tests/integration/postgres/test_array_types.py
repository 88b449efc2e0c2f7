"""No connection asks the server for the array types that our statements use."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from aiodurable.dsn import parse_dsn
from aiodurable.postgres.connect import connect_direct

SQL = [entry.read_text("utf-8") for entry in files("aiodurable.postgres").joinpath("sql").iterdir()]
ARRAYS = sorted({name for text in SQL for name in re.findall(r"::([a-z ]+)\[\]", text)})


async def test_a_statement_over_arrays_is_the_first_and_only_one(dsn: str) -> None:
    assert "bigint" in ARRAYS
    connection = await connect_direct(parse_dsn(dsn), role="test")
    sent: list[Any] = []
    connection.add_query_logger(lambda query: sent.append(query.query))
    try:
        for name in ARRAYS:
            await connection.fetchval(f"SELECT $1::{name}[]", [])
    finally:
        await connection.close()
    assert sent == [f"SELECT $1::{name}[]" for name in ARRAYS]


async def test_an_array_comes_back_as_it_was_sent(dsn: str) -> None:
    connection = await connect_direct(parse_dsn(dsn), role="test")
    try:
        for name, given in {
            "boolean": [True, None, False],
            "bytea": [b"\0\xff", b""],
            "integer": [-1, 2**31 - 1],
            "bigint": [-(2**63), None],
            "double precision": [0.5, float("inf")],
            "jsonb": ['{"a": 1}', None],
        }.items():
            assert await connection.fetchval(f"SELECT $1::{name}[]", given) == given
        at = await connection.fetchval("SELECT pg_catalog.now()")
        assert await connection.fetchval("SELECT $1::timestamptz[]", [at]) == [at]
    finally:
        await connection.close()
