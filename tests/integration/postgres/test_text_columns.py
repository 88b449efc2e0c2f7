"""Arrays of texts and numbers that are sent as one text arrive as they were."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import asyncpg
import pytest

from aiodurable.dsn import parse_dsn
from aiodurable.postgres.text_columns import as_texts, over_texts


class Name(str, Enum):  # noqa: UP042  # not a StrEnum, whose str() is its value
    REPORT = "report"


STATEMENT = "SELECT a, b, c FROM unnest($1::text[], $2::bigint[], $3::jsonb[]) AS r (a, b, c)"


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [""],
        [None],
        ["", ""],
        [None, ""],
        ["a", None, "b"],
        ["NULL", '"', "{a,b}", "\\", "a\nb\tc"],
        ["ü", "🐙", "a" * 5000],
        ("a", "b"),
        [Name.REPORT, "b"],
        [Name.REPORT, None],
    ],
)
async def test_joined_texts_arrive_as_they_were(dsn: str, texts: Sequence[str | None]) -> None:
    documents = ['{"a": "\\u001f"}'] * len(texts)
    parameters = [texts, list(range(len(texts))), documents]
    statement, given = as_texts(STATEMENT, parameters)
    assert statement == over_texts(STATEMENT)[0] != STATEMENT
    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    rows = await connection.fetch(statement, *given)
    expected = await connection.fetch(STATEMENT, *parameters)
    await connection.close()
    assert [tuple(row) for row in rows] == [tuple(row) for row in expected]
    assert [row[0] for row in rows] == list(texts)


@pytest.mark.parametrize("kind", ["bigint", "integer", "int"])
async def test_joined_numbers_arrive_as_they_were(dsn: str, kind: str) -> None:
    numbers = [None, 0, -1, 2**31 - 1, -(2**31)] + [2**63 - 1, -(2**63)] * (kind == "bigint")
    statement, given = as_texts(f"SELECT n FROM unnest($1::{kind}[]) AS r (n)", [numbers])
    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    rows = await connection.fetch(statement, *given)
    await connection.close()
    assert isinstance(given[0], str)
    assert [row["n"] for row in rows] == numbers


@pytest.mark.parametrize("texts", [["a\x1fb"], ["\x1e"], ["\x1e", None], ["a" * (1 << 20), "b"]])
def test_texts_with_a_separator_and_large_ones_are_sent_as_an_array(
    texts: Sequence[str | None],
) -> None:
    parameters = [texts, list(range(len(texts))), ["{}"] * len(texts)]
    assert as_texts(STATEMENT, parameters) == (STATEMENT, parameters)
