"""Converts any value to JSON that every reader accepts, and never raises.

A graph may store anything: NaN, bytes, keys that are tuples, integers of a thousand digits, text
that is not Unicode. One such value must not hide the threads around it. A value that JSON does not
have becomes a string.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

from aiodurable.models import StoredObject

__all__ = ["DEEPEST", "json_text", "jsonable", "shown"]

DEEPEST = 100
"""Containers around a value, at most: json stops at Python's recursion limit, and readers have
limits of their own.
"""
_EXACT = 2**53 - 1  # JavaScript rounds larger integers


def json_text(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON text of printable ASCII characters; never raises."""
    text = json.dumps(jsonable(value), allow_nan=False, indent=indent)
    return text.replace("\x7f", "\\u007f")  # the only control character that json does not escape


def jsonable(value: Any) -> Any:
    """`value` as None, bools, numbers, strings, lists and dicts with string keys; never raises.

    Non-finite numbers become "NaN", "Infinity" and "-Infinity". Integers beyond 2**53 become a
    string of their digits, or of hexadecimal ones if they have more digits than Python converts.
    Dataclasses and Pydantic models become objects, times ISO 8601, durations seconds. Bytes, other
    objects, and keys that are not strings become their `repr`. Lone surrogates are escaped.
    """
    return _converted(value, frozenset())


def shown(value: Any) -> str:
    """`str(value)`, or the name of its class where that raises."""
    return _guarded(str, value)


def _converted(value: Any, around: frozenset[int]) -> Any:
    try:
        if isinstance(value, StoredObject):
            fields_of_it = isinstance(value.made_of, dict)
            return _converted(value.made_of, around) if fields_of_it else repr(value)
        return _scalar(value) if not _holds_others(value) else _container(value, around)
    except Exception:  # a value's methods may raise anything
        return f"<{type(value).__name__}>"


def _holds_others(value: Any) -> bool:
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return True
    return not isinstance(value, type) and (is_dataclass(value) or _is_model(value))


def _is_model(value: Any) -> bool:
    """Whether it is a Pydantic model; tested without importing Pydantic, which is optional."""
    return hasattr(type(value), "model_fields") and callable(getattr(value, "model_dump", None))


def _container(value: Any, around: frozenset[int]) -> Any:
    kind = type(value).__name__
    if id(value) in around:
        return f"<{kind} that contains itself>"
    if len(around) >= DEEPEST:
        return f"<{kind}, nested too deep>"
    around |= {id(value)}
    if isinstance(value, list | tuple | set | frozenset):
        return [_converted(item, around) for item in cast("Iterable[Any]", value)]
    return _object(_items(value), around)


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return cast("Mapping[Any, Any]", value).items()
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    return value.model_dump().items()


def _object(items: Iterable[tuple[Any, Any]], around: frozenset[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in items:
        name = _text(key) if isinstance(key, str) else _guarded(repr, key)
        while name in found:  # 1 and "1" are two keys
            name += f" ({type(key).__name__})"
        found[name] = _converted(value, around)
    return found


def _scalar(value: Any) -> Any:
    match value:
        case None | bool():
            return value
        case Enum():
            return jsonable(value.value)
        case str():
            return _text(value)
        case int():
            return int(value) if abs(value) <= _EXACT else _digits(int(value))
        case float():
            return float(value) if math.isfinite(value) else _non_finite(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal() | UUID() | PurePath():
            return _text(str(value))
        case _:
            return _guarded(repr, value)


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python converts: sys.get_int_max_str_digits()
        return hex(value)


def _non_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _guarded(words: Callable[[Any], str], value: Any) -> str:
    try:
        return _text(words(value))
    except Exception:  # a value's methods may raise anything
        return f"<{type(value).__name__}>"
