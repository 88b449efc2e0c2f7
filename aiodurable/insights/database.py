"""The health of the database: sizes, dead rows, old transactions, and what a prune would remove."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from aiodurable.insights.models import DatabaseHealth, Prunable, TableHealth
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.threads.search import first_id

__all__ = ["database_health"]

_SQL = load("insights")
_PAGES: Final = load("threads")["pages"]
_SAMPLED: Final = 150
"""Pages of checkpoints that are read. All rows of one are of about the same time: of a share of a
half, the estimate is off by a twelfth.
"""


async def database_health(database: PsycopgPool, *, older_than: timedelta) -> DatabaseHealth:
    """See `Insights.database`."""
    (server,) = await database.fetch(_SQL["server"])
    tables = await database.fetch(_SQL["tables"])
    return DatabaseHealth(
        tables=tuple(TableHealth(**row) for row in tables),
        prunable=await _prunable(database, older_than),
        **server,
    )


async def _prunable(database: PsycopgPool, older_than: timedelta) -> Prunable:
    (table,) = await database.fetch(_PAGES)
    share = min(1.0, _SAMPLED / max(1, table["pages"]))
    before = first_id(datetime.now(UTC) - older_than)
    (row,) = await database.fetch(_SQL["prunable"], 100 * share, before)
    return Prunable(
        checkpoints=round(row["checkpoints"] / share),
        threads=round(row["threads"] / share),
        older_than_days=older_than / timedelta(days=1),
        exact=share == 1,
    )
