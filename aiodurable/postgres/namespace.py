"""One namespace for the threads of one set of tables: locks of two namespaces do not meet."""

from __future__ import annotations

from aiodurable.errors import ConfigurationError
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["agree_on_namespace"]

_SQL = load("namespace")


async def agree_on_namespace(database: PsycopgPool, namespace: str, *, declare: bool) -> None:
    """Refuse a namespace other than the one in which the threads of these tables are locked.

    Args:
        database: where the tables are.
        namespace: that of the caller's locks.
        declare: write it where none is written yet, unless nothing can be written there at all.

    Raises:
        ConfigurationError: another one is written.
    """
    found = await database.fetch_one(_SQL["namespace"])
    assert found is not None, "a row without tables"
    if found["namespace"] is None and declare and not found["read_only"]:
        await database.execute(_SQL["declare"], namespace)
        found = await database.fetch_one(_SQL["namespace"])
        assert found is not None, "as above"
    if found["namespace"] not in (None, namespace):
        raise ConfigurationError(
            f"the threads in {database.dsn.safe} are locked in namespace {found['namespace']!r}, wanted {namespace!r}: their "
            "locks would not meet, so that one process took what another runs. Use one namespace (AIODURABLE_NAMESPACE) for "
            "these tables; to change it, stop all processes and empty aiodurable_namespace"
        )
