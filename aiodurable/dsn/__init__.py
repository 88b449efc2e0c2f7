"""One DSN for two drivers.

libpq's own parser (through psycopg) reads it, so that a URI, `key=value` and the `PG*` variables mean what they mean
everywhere else; what comes out is spelled for psycopg and for asyncpg. asyncpg sends an option it does not know to the
server, which refuses the connection: every option of libpq is therefore sorted here into one that is translated, one
that is left out with a warning, or one that promises safety asyncpg cannot give, which is refused.
"""

from __future__ import annotations

from aiodurable.dsn.for_asyncpg import split
from aiodurable.dsn.parsing import Dsn, direct_dsn, parse_dsn

__all__ = ["Dsn", "direct_dsn", "parse_dsn", "split"]
