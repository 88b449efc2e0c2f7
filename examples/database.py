"""Where the examples find Postgres: yours, or one that lives as long as the example does."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiodurable.embedded import embedded_postgres


@asynccontextmanager
async def database() -> AsyncGenerator[str, None]:
    """The DSN in AIODURABLE_DSN or DATABASE_URL, else that of an embedded Postgres."""
    if dsn := os.environ.get("AIODURABLE_DSN") or os.environ.get("DATABASE_URL"):
        yield dsn
    else:
        async with embedded_postgres() as dsn:
            yield dsn
