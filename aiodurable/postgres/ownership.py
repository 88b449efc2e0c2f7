"""Whose the relations are that stand under the names of LangGraph's and our own, before any
statement uses them.

A role that may create in a schema of the search path can make a relation before the first
migration. Its triggers, or as a view its functions, then run with the rights of each role that
writes it, or only reads it. So the names are looked up in the catalogue first, and a relation of a
role that there is no reason to trust is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiodurable.dsn import Dsn
from aiodurable.errors import ConfigurationError
from aiodurable.postgres.sql import load

__all__ = ["RELATIONS", "TOKENS", "checked", "made_by", "refuse_other_path"]

RELATIONS: Final = load("ownership")["relations"]
"""The statement; its parameters are what `made_by` returns, its rows are what `checked` reads."""

_MADE: Final = re.compile(
    r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:UNIQUE\s+)?(TABLE|SEQUENCE|VIEW|INDEX)\s+(?:CONCURRENTLY\s+)?(?:IF\s+NOT\s+EXISTS\s+)?(\w+)"
)
_KINDS: Final = {"TABLE": "rp", "SEQUENCE": "S", "VIEW": "v", "INDEX": "iI"}

TOKENS: Final = (["aiodurable_lock_tokens"], ["S"])
"""The parameters that stand for what a lock manager alone uses."""


def refuse_other_path(found: str, dsn: Dsn) -> None:
    """Refuse a session with another search path than the schema of `dsn`, if it names one.

    Raises:
        ConfigurationError: a pooler in between did not pass the option on.
    """
    if dsn.schema is not None and found.strip('"') != dsn.schema:
        raise ConfigurationError(
            f"cannot use schema {dsn.schema!r} of {dsn.safe}: the search path of the session is"
            f" {found!r}; a pooler in between drops the option search_path: set it there, or with"
            f' ALTER ROLE … SET search_path = "{dsn.schema}"'
        )


def made_by(statements: Iterable[str]) -> tuple[list[str], list[str]]:
    """The names of the relations that these statements make, and of each the kinds that it may
    be.
    """
    made = {found[2]: _KINDS[found[1]] for text in statements for found in _MADE.finditer(text)}
    return list(made), list(made.values())


def checked(rows: Iterable[Mapping[str, Any]], dsn: Dsn) -> frozenset[str]:
    """The names of the relations that there are.

    Raises:
        ConfigurationError: one of them is not what we would have made, or runs code of a role that
            is not trusted.
    """
    names: set[str] = set()
    for row in rows:
        relation, stranger, function = (
            f"{row['schema']}.{row['name']}",
            row["stranger"],
            row["function"],
        )
        if stranger is not None and function is None:
            raise ConfigurationError(
                f"cannot use the {row['kind']} {relation!r} of {dsn.safe}: role {stranger!r} owns"
                " it, whose code it could run with this role's rights; drop it if aiodurable did"
                " not make it. If that role migrates, make it the owner of the schema (ALTER"
                " SCHEMA … OWNER TO …)"
            )
        if stranger is not None:
            raise ConfigurationError(
                f"cannot use the {row['kind']} {relation!r} of {dsn.safe}: a trigger or rule of it"
                f" calls the function {function!r} of role {stranger!r}, which would run with this"
                " role's rights; drop the trigger or the rule"
            )
        if not row["expected"]:
            raise ConfigurationError(
                f"cannot use the {row['kind']} {relation!r} of {dsn.safe}: aiodurable makes"
                " something else under this name; rename or drop it"
            )
        names.add(row["name"])
    return frozenset(names)
