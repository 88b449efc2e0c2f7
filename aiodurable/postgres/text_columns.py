"""Sends a column of texts or numbers as one text.

asyncpg encodes an array element by element, and checks the class of each one in Python: 0.2 µs of
a text, 0.6 of a number. A row of LangGraph's tables is little else, so that was a tenth of what a
small run costs this library. Joined, a text costs 0.02 µs and a number 0.1, and the server reads
them in half the time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

__all__ = ["as_texts", "over_texts"]

_ARRAY = re.compile(r"\$(\d+)::(text|jsonb|bigint|integer|int)\[\]")
_BETWEEN: Final = "\x1f"
_NULL: Final = "\x1e"
_MOST: Final = 1 << 20
"""The longest joined text. Longer ones would be copied once more, and their elements are few."""


def as_texts(statement: str, parameters: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """The statement with one text in place of each array of texts or numbers (`$1::text[]`,
    `jsonb[]`, `bigint[]`, `integer[]`), and its parameters; both as they are if an element has a
    separator in it.
    """
    joining, columns = over_texts(statement)
    given = list(parameters)
    for at in columns:
        column: Any = parameters[at]
        if not column:
            given[at] = None
            continue
        try:
            together = "".join(column)
        except TypeError:
            # str() of a member of an Enum is its name
            texts = [one if one is None or isinstance(one, str) else str(one) for one in column]
            together = "".join(filter(None, texts))
            column = [_NULL if one is None else one for one in texts]
        # `in` takes a tenth of the time that it takes to count
        if len(together) > _MOST or _BETWEEN in together or _NULL in together:
            return statement, parameters
        # One more at the front, which is cut off again: nothing at all would be no element.
        given[at] = _BETWEEN.join(("", *column))
    return joining, given


@cache
def over_texts(statement: str) -> tuple[str, Sequence[int]]:
    """The statement over texts, and the positions of these parameters, from 0."""
    columns = sorted({int(array[1]) - 1 for array in _ARRAY.finditer(statement)})
    return _ARRAY.sub(_split, statement), columns


def _split(array: re.Match[str]) -> str:
    texts = f"(pg_catalog.string_to_array(${array[1]}::text, E'\\x1f', E'\\x1e'))[2:]"
    return texts if array[2] == "text" else f"({texts})::{array[2]}[]"
