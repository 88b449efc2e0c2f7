"""What the pool sends as an array arrives as the list that it was."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.types.array import ListDumper

from aiodurable.dsn import parse_dsn
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.text_arrays import TextArrayDumper

LISTS: list[list[str | None]] = [
    [],
    ["thread-1", "1f0c8a7e-6f2d-6b1e-8001-0242ac120002", "a:b.c_d"],
    [""],
    ["a", ""],
    ["a", None, "b"],
    [None],
    ["null"],
    ["a", "NULL", "b"],
    ["nullable", "null-1", "is.null"],
    ["a,b"],
    ["a,b", "c"],
    ["a", "b,null"],
    ["{a}", "}"],
    ['"a"', "\\", 'a\\"b'],
    [" a", "a b", "a\t", "a\n", "\n"],
    ["ä", "線", "\u2003", "a\u00a0b"],
    ["'; DROP TABLE checkpoints; --", "$1", "%s"],
]


@pytest.mark.parametrize("sent", LISTS, ids=repr)
async def test_texts_arrive_as_they_were(dsn: str, sent: list[str | None]) -> None:
    pool = PsycopgPool(parse_dsn(dsn), max_size=1)
    await pool.open()
    try:
        (row,) = await pool.fetch("SELECT $1::text[] AS got", sent)
    finally:
        await pool.aclose()
    assert row["got"] == sent


@pytest.mark.parametrize("sent", [[1, None, 2**40], [True], [["a"], ["b"]], [b"a,b"]], ids=repr)
def test_other_elements_go_as_psycopg_sends_them(sent: list[Any]) -> None:
    def dumped(dumper: type[ListDumper]) -> Any:
        context = AdaptersMap(psycopg.adapters)
        context.register_dumper(list, dumper)
        tx = Transformer(context)
        return bytes(tx.get_dumper(sent, PyFormat.TEXT).dump(sent) or b"")

    assert dumped(TextArrayDumper) == dumped(ListDumper)
