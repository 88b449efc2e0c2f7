"""Tells asyncpg the array types of Postgres that our statements use.

asyncpg knows the types of their elements by heart and asks the server for the arrays, on each
connection at the first statement that has one: four round trips and a query over the catalogue,
which were a fourth of what a new process costs the server. Their ids are the same everywhere
(pg_type.dat).
"""

from __future__ import annotations

from typing import Any, Final

import asyncpg

__all__ = ["register_arrays"]

_ARRAYS: Final = {
    "_bool": (1000, 16),
    "_bytea": (1001, 17),
    "_int4": (1007, 23),
    "_int8": (1016, 20),
    "_float8": (1022, 701),
    "_timestamptz": (1185, 1184),
    "_jsonb": (3807, 3802),
}
"""The ids of the array and of its elements' type."""

_TYPES: Final[list[dict[str, Any]]] = [
    {
        "oid": array,
        "ns": "pg_catalog",
        "name": name,
        "kind": b"b",
        "basetype": None,
        "elemtype": element,
        "elemdelim": ",",
        "range_subtype": None,
        "attrtypoids": None,
        "attrnames": None,
    }
    for name, (array, element) in _ARRAYS.items()
]
"""As the rows of asyncpg's own query."""


def register_arrays(connection: asyncpg.Connection) -> None:
    """Spare a new connection the question for them."""
    protocol: Any = connection._protocol  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    protocol.get_settings().register_data_types(_TYPES)
