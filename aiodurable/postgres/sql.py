"""SQL lives in `sql/*.sql`, in named blocks: `-- name: block`, a comment that names the index, the statement."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

__all__ = ["load", "migration", "migration_files", "qualified"]

_HEAD = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_CALL = re.compile(r"(?<![\w.])(array_agg|convert_to|jsonb_each_text)\(")
_KEY = re.compile(r"(->>? '\w+')(?!::)")


@cache
def load(room: str) -> Mapping[str, str]:
    """The blocks of `sql/<room>.sql` by name. Parameters are Postgres's own, `$1`, `$2` …"""
    text = files("aiodurable.postgres").joinpath("sql", f"{room}.sql").read_text("utf-8")
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


def qualified(sql: str) -> str:
    """LangGraph's statement, so that it calls nothing but what is in pg_catalog."""
    return _KEY.sub(r"\1::text", _CALL.sub(r"pg_catalog.\1(", sql))
