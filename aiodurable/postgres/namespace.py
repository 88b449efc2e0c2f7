"""The one namespace in which the threads of a set of tables are locked: locks of two namespaces
never meet.
"""

from __future__ import annotations

from aiodurable.errors import ConfigurationError
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["agree_on_namespace"]

_SQL = load("namespace")


async def agree_on_namespace(database: PsycopgPool, namespace: str, *, declare: bool) -> None:
    """Refuse a namespace other than the one that the tables name.

    Args:
        database: where the tables are.
        namespace: of the caller's locks.
        declare: write it if the tables name none yet, unless the database is read-only.

    Raises:
        ConfigurationError: the tables name another one.
    """
    found = await database.fetch_one(_SQL["namespace"])
    assert found is not None, "a row without tables"
    if found["namespace"] is None and declare and not found["read_only"]:
        await database.execute(_SQL["declare"], namespace)
        found = await database.fetch_one(_SQL["namespace"])
        assert found is not None, "as above"
    if found["namespace"] not in (None, namespace):
        raise ConfigurationError(
            f"cannot lock threads of {database.dsn.safe} in namespace {namespace!r}: other"
            f" processes lock them in {found['namespace']!r}, and two locks of a thread would not"
            " meet; use one namespace (AIODURABLE_NAMESPACE) for these tables, or, to change it,"
            " stop all processes and empty aiodurable_namespace"
        )
