"""Lists of plain strings on their way to Postgres: thread ids, most of the time, by the hundred."""

from __future__ import annotations

import re
from typing import Any

from psycopg.abc import Buffer
from psycopg.types.array import ListDumper

__all__ = ["TextArrayDumper"]

_PLAIN = re.compile(
    r"(?!null(?:,|$))[\w:.-]+(?:,(?!null(?:,|$))[\w:.-]+)*", re.ASCII | re.IGNORECASE
)
"""Elements, with commas between, that an array's literal has without quotes: the word null, in any
case, is none of them (Postgres, 8.15.6)."""


class TextArrayDumper(ListDumper):
    """As psycopg's, which asks of each element whether it needs quotes. This one asks once for all,
    where none does: a tenth of what a prune costs its client."""

    def dump(self, obj: list[Any]) -> Buffer | None:
        """The literal of the array."""
        try:
            joined = ",".join(obj)
        except TypeError:  # an element is no string
            return super().dump(obj)
        if joined.count(",") == len(obj) - 1 and _PLAIN.fullmatch(joined):
            return b"{%b}" % joined.encode()
        return super().dump(obj)
