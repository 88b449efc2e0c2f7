"""What reads for those who only look, with any bytes: data comes of it, in a short time, and nothing is called."""

from __future__ import annotations

import json
import time
from datetime import date, datetime, timedelta, timezone
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import ormsgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt, Send

from aiodurable.checkpoints.stored_values import ValueReader
from aiodurable.inert import Inert, Shown
from aiodurable.jsonable import json_text, shown
from aiodurable.models import StoredObject
from aiodurable.threads.decode import TolerantDecoder
from aiodurable.threads.status import _commanded, _interrupts

called = list[Any]()
LONGEST_S = 5.0


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
    objects = st.tuples(NAMES, arguments).map(lambda made: packed((*made[0], made[1], "fromisoformat")))
    blobs = objects | st.binary(max_size=30) | inner.map(packed)
    return st.builds(ormsgpack.Ext, st.integers(0, 9), blobs)


VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        extensions(inner) | st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
BLOBS = VALUES.map(packed) | st.binary(max_size=60)
ENVELOPES = st.fixed_dictionaries(
    {"lc": st.integers(0, 3), "type": st.sampled_from(["constructor", "secret"])},
    optional={
        "id": st.lists(st.sampled_from([__name__, "record", "langgraph", "types", "Send"]), max_size=4),
        "kwargs": st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
        "args": st.lists(st.text(max_size=5), max_size=3),
    },
)
JSON = (ENVELOPES | st.lists(ENVELOPES, max_size=3)).map(lambda value: json.dumps(value).encode())
STORED = (
    st.tuples(st.just("msgpack"), BLOBS)
    | st.tuples(st.just("json"), JSON | st.binary(max_size=40))
    | st.tuples(st.sampled_from(["null", "bytes", "pickle", "", "msgpack+aes", "x"]), st.binary(max_size=40))
)
PLAIN = (type(None), bool, int, float, str, bytes, Interrupt, Send, StoredObject, Decimal, UUID)
TIMES = (datetime, date, time_of_day, timedelta, timezone)


def strange(value: Any) -> list[Any]:
    """What in a value is neither data nor one of the few objects."""
    inside: list[Any] = []
    match value:
        case dict():
            inside = [*cast("dict[Any, Any]", value).keys(), *cast("dict[Any, Any]", value).values()]
        case list() | tuple() | set() | frozenset():
            inside = list(cast("list[Any]", value))
        case Interrupt():
            inside = [value.value]
        case Send():
            inside = [value.arg]
        case StoredObject():
            inside = [value.made_of]
        case _ if isinstance(value, (*PLAIN, *TIMES)):
            pass
        case _:
            return [value]
    return [found for one in inside for found in strange(one)]


def read(stored: tuple[str, bytes]) -> None:
    kind, blob = stored
    value = Shown(JsonPlusSerializer()).loads_typed(stored)
    assert strange(value) == []
    json.loads(json_text(value), parse_constant=pytest.fail)
    reading = TolerantDecoder(Inert(JsonPlusSerializer()))
    assert all(type(node) is str for node in reading.sends(kind, blob))
    asks = {"answering": None, "questions_path": ["p"], "questions_type": [kind], "questions": [blob]}
    list(_interrupts(asks, reading))
    commands = {"commanded": (), "commanded_sends_type": [kind], "commanded_sends": [blob]}
    assert all(type(node) is str for node in _commanded(commands, reading))
    ValueReader(JsonPlusSerializer(), load_modules=False).undecodable([stored])


@pytest.mark.timeout(3600)
def test_any_bytes_are_read_as_data_and_call_nothing(long: bool) -> None:
    """A few hundred in the short form; 100,000 with `--long`."""
    examples = 100_000 if long else 300
    slow = list[tuple[float, tuple[str, bytes]]]()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(STORED)
    def each(stored: tuple[str, bytes]) -> None:
        began = time.perf_counter()
        read(stored)
        if (took := time.perf_counter() - began) > LONGEST_S:
            slow.append((took, stored))

    called.clear()
    each()
    assert called == []
    assert slow == []


def test_objects_nested_too_deep_end_nobodys_process() -> None:
    """Each is a call of the decoder inside a call of it, and each may hold lists as deep as it allows."""
    blob = packed("deep")
    for _ in range(300):
        value: Any = ormsgpack.Ext(7, blob)
        for _ in range(100):
            value = [value]
        blob = packed(value)
    value = Shown(JsonPlusSerializer()).loads_typed(("msgpack", blob))
    json.loads(json_text(value))
    assert shown(value) == "<list>"
    ValueReader(JsonPlusSerializer(), load_modules=False).undecodable([("msgpack", blob)])
