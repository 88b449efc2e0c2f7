"""SQL lives in `sql/*.sql`, in named blocks: `-- name: block`, a comment that names the index, the
statement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

__all__ = ["careful", "load", "migration", "migration_files", "qualified"]

_HEAD = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_CALL = re.compile(r"(?<![\w.])(array_agg|convert_to|jsonb_each_text)\(")
_EACH = re.compile(r"jsonb_each_text\((\w+ -> '\w+')\)")
_CAST = re.compile(r"\((\w+\.\w+ ->> '\w+'::text)\)::(integer|timestamptz)")
_VALID = {
    "integer": "^-?[0-9]{1,9}$",
    "timestamptz": (
        "^(?:[12][0-9]{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
        "|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
        "|[12][0-9](?:0[48]|[2468][048]|[13579][26])-02-29|(?:1[26]|2[048])00-02-29)"
        "[T ](?:[01][0-9]|2[0-3])(?::[0-5][0-9]){2}(?:[.][0-9]{1,9})?"
        "(?:Z|[+-](?:0[0-9]|1[0-4]):?[0-5][0-9])?$"
    ),
}
"""What Postgres can cast, of texts in JSON: years 1000 to 2999, as Python's isoformat and
JavaScript write times.
"""
_KEY = re.compile(r"(->>? '\w+')(?!::)")


@cache
def load(name: str) -> Mapping[str, str]:
    """The blocks of `sql/<name>.sql` by name. Parameters are Postgres's own, `$1`, `$2` …"""
    text = files("aiodurable.postgres").joinpath("sql", f"{name}.sql").read_text("utf-8")
    _, *parts = _HEAD.split(text)
    return MappingProxyType(dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True)))


def migration(name: str) -> str:
    """The text of `migrations/<name>.sql`."""
    return files("aiodurable.postgres").joinpath("migrations", f"{name}.sql").read_text("utf-8")


@cache
def migration_files() -> Mapping[str, str]:
    """The texts of `migrations/NNNN_name.sql` by the name of the file, in order."""
    folder = files("aiodurable.postgres").joinpath("migrations")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return MappingProxyType({name: folder.joinpath(name).read_text("utf-8") for name in names})


@cache
def careful(sql: str) -> str:
    """The statement with null where a key of a JSON column is no number or no time, instead of an
    error.

    It costs a tenth of a millisecond a row, so it is for tables in which there is such a row.
    """
    return _CAST.sub(lambda cast: f"substring({cast[1]} FROM '{_VALID[cast[2]]}')::{cast[2]}", sql)


def qualified(sql: str) -> str:
    """LangGraph's statement, so that it calls nothing but what is in pg_catalog.

    A column that holds no JSON object where LangGraph writes one has no keys then, rather than
    failing the statement for every thread that it is about.
    """
    guarded = (
        r"jsonb_each_text(case when pg_catalog.jsonb_typeof(\1) = 'object' then \1 else '{}' end)"
    )
    return _KEY.sub(r"\1::text", _CALL.sub(r"pg_catalog.\1(", _EACH.sub(guarded, sql)))
