"""Databases of tests: one each, cloned from a template that has the tables."""

from __future__ import annotations

import itertools
import os
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

__all__ = ["ScratchDatabases"]


class ScratchDatabases:
    """Creates and drops databases on one server; blocks.

    Args:
        url: of a role that may create databases.
        by_file: whether copying files is faster than the log: where nothing is synced.
    """

    def __init__(self, url: str, *, by_file: bool) -> None:
        self._url = url
        self._by_file = by_file
        # Several processes, on several hosts, may share the server.
        self._prefix = f"aiodurable_{os.getpid()}_{os.urandom(4).hex()}"
        self._numbers = itertools.count(1)

    def create(self, template: str = "template0") -> str:
        """Create a database; returns its name."""
        name = f"{self._prefix}_{next(self._numbers)}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            by_file = self._by_file and connection.info.server_version >= 150000
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
            connection.execute(statement + sql.SQL(" STRATEGY file_copy" if by_file else ""))
        return name

    def drop(self, name: str) -> None:
        """Drop a database, also one in use."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def dsn(self, name: str) -> str:
        """The DSN of one of them."""
        options = {**conninfo_to_dict(self._url), "dbname": name}
        return "postgresql://?" + urlencode(
            {key: str(value) for key, value in options.items() if value is not None},
            quote_via=quote,
        )
