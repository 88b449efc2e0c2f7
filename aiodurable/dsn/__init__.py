"""One DSN for two drivers.

libpq's own parser (through psycopg) reads it, so that a URI, `key=value` and the `PG*` variables
mean the same as everywhere else. asyncpg sends every option that it does not know to the server,
which refuses the connection. So each option of libpq is translated for asyncpg, or left out with a
warning, or, if it promises safety that asyncpg cannot give, refused.
"""

from __future__ import annotations

from aiodurable.dsn.asyncpg_options import split
from aiodurable.dsn.parse import Dsn, Hidden, PasswordFunction, direct_dsn, parse_dsn

__all__ = ["Dsn", "Hidden", "PasswordFunction", "direct_dsn", "parse_dsn", "split"]
