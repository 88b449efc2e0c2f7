"""Grafana's own schema, as the types that its foundation SDK generates from it: what a dashboard
has that the schema does not know, and what is of another type.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def problems(source: dict[str, Any]) -> list[str]:
    """What the schema says against a dashboard's JSON; nothing where it is right."""
    register_default_plugins()
    read = Dashboard.from_json(source)
    written = json.loads(json.dumps(read, cls=JSONEncoder))
    return [*_unknown(source, written, "dashboard"), *_mistyped(read, Dashboard, "dashboard")]


def _unknown(source: Any, written: Any, at: str) -> Iterator[str]:
    """Fields that the types did not take over, and panels' types that have no schema."""
    if isinstance(source, dict) and isinstance(written, dict):
        for key, value in source.items():
            if key in written:
                yield from _unknown(value, written[key], f"{at}.{key}")
            else:
                yield f"{at}.{key}: the schema has no such field"
    elif isinstance(source, list) and isinstance(written, list):
        for number, pair in enumerate(zip(source, written, strict=True)):
            yield from _unknown(*pair, f"{at}[{number}]")
    elif source != written:
        yield f"{at}: {source!r} was read as {written!r}"


def _mistyped(value: Any, wanted: Any, at: str) -> Iterator[str]:
    """Values that are not what the annotations of the types say: from_json() does not look."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return
        others = [one for one in arguments if one is not type(None)]
        fitting = [one for one in others if get_origin(one) is None and type(value) is one]
        found = [list(_mistyped(value, one, at)) for one in fitting or others]
        if all(found):
            yield from found[0]
    elif origin is Literal:
        if value not in arguments:
            yield f"{at}: {value!r} is none of {arguments}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{at}: {value!r} is no list"
            return
        for number, one in enumerate(value):
            yield from _mistyped(one, arguments[0], f"{at}[{number}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{at}: {value!r} is no object"
            return
        for key, one in value.items():
            yield from _mistyped(one, arguments[1], f"{at}.{key}")
    elif wanted not in (Any, object) and issubclass(wanted, Enum):
        if value not in [member.value for member in wanted]:
            yield f"{at}: {value!r} is no {wanted.__name__}"
    elif wanted not in (Any, object) and not _is_a(value, wanted):
        yield f"{at}: {value!r} is no {wanted.__name__}"
    elif hasattr(value, "from_json"):
        for name, hint in get_type_hints(type(value)).items():
            yield from _mistyped(getattr(value, name), hint, f"{at}.{name}")
    elif value and isinstance(value, dict):  # the options of a panel of an unknown type
        yield f"{at}: the schema has no type for {value!r}"


def _is_a(value: Any, wanted: type) -> bool:
    if wanted is float:
        return type(value) in (int, float)
    # True is an int, to Python alone.
    return isinstance(value, wanted) and (type(value) is not bool or wanted is bool)
