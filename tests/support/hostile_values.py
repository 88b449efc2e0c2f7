"""Stored values that ask for what nobody allows, or are none; and what shows that a call was
made.
"""

from __future__ import annotations

import json
from typing import Any

import ormsgpack
from hypothesis import strategies as st

called = list[Any]()


def record(*args: Any, **kwargs: Any) -> None:
    """What a row may ask for."""
    called.append((args, kwargs))


class Recorded:
    """Likewise."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        called.append((args, kwargs))


NAMES = st.sampled_from(
    [
        (__name__, "record"),
        (__name__, "Recorded"),
        ("langgraph.types", "Interrupt"),
        ("langgraph.types", "Send"),
        ("builtins", "set"),
        ("builtins", "eval"),
        ("datetime", "datetime"),
        ("datetime", "time"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("decimal", "Decimal"),
        ("uuid", "UUID"),
    ]
)
OPTION = ormsgpack.OPT_NON_STR_KEYS
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from(["0" * 32, "value", "__import__('os')"])
)


def packed(value: Any) -> bytes:
    return ormsgpack.packb(value, option=OPTION)


def extensions(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.sampled_from(["value", "id", "ns", "hour", "tzinfo", "x"])
    arguments = inner | st.lists(inner, max_size=4) | st.dictionaries(fields, inner, max_size=4)
    objects = st.tuples(NAMES, arguments).map(
        lambda made: packed((*made[0], made[1], "fromisoformat"))
    )
    blobs = objects | st.binary(max_size=30) | inner.map(packed)
    return st.builds(ormsgpack.Ext, st.integers(0, 9), blobs)


VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        extensions(inner)
        | st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
BLOBS = VALUES.map(packed) | st.binary(max_size=60)
ENVELOPES = st.fixed_dictionaries(
    {"lc": st.integers(0, 3), "type": st.sampled_from(["constructor", "secret"])},
    optional={
        "id": st.lists(
            st.sampled_from([__name__, "record", "langgraph", "types", "Send"]), max_size=4
        ),
        "kwargs": st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
        "args": st.lists(st.text(max_size=5), max_size=3),
    },
)
JSON = (ENVELOPES | st.lists(ENVELOPES, max_size=3)).map(lambda value: json.dumps(value).encode())
STORED = (
    st.tuples(st.just("msgpack"), BLOBS)
    | st.tuples(st.just("json"), JSON | st.binary(max_size=40))
    | st.tuples(
        st.sampled_from(["null", "bytes", "pickle", "", "msgpack+aes", "x"]), st.binary(max_size=40)
    )
)
