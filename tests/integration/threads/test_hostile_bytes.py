"""What reads for those who only look, with any bytes: data comes of it, in a short time, and
nothing is called.
"""

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
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt, Send

from aiodurable.checkpoints.stored_values import ValueReader
from aiodurable.inert import Inert, Shown
from aiodurable.jsonable import json_text, shown
from aiodurable.models import StoredObject
from aiodurable.threads.decode import TolerantDecoder
from aiodurable.threads.status import _commanded, _interrupts
from tests.support.hostile_values import STORED, called, packed

LONGEST_S = 5.0

PLAIN = (type(None), bool, int, float, str, bytes, Interrupt, Send, StoredObject, Decimal, UUID)
TIMES = (datetime, date, time_of_day, timedelta, timezone)


def strange(value: Any) -> list[Any]:
    """What in a value is neither data nor one of the few objects."""
    inside: list[Any] = []
    match value:
        case dict():
            inside = [
                *cast("dict[Any, Any]", value).keys(),
                *cast("dict[Any, Any]", value).values(),
            ]
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
    asks = {
        "answering": None,
        "questions_path": ["p"],
        "questions_type": [kind],
        "questions": [blob],
    }
    list(_interrupts(asks, reading))
    commands = {"commanded": (), "commanded_sends_type": [kind], "commanded_sends": [blob]}
    assert all(type(node) is str for node in _commanded(commands, reading))
    ValueReader(JsonPlusSerializer(), load_modules=False).undecodable([stored])


@pytest.mark.timeout(3600)
def test_any_bytes_are_read_as_data_and_call_nothing(long: bool) -> None:
    """A few hundred in the short form; 100,000 with `--long`."""
    examples = 100_000 if long else 300
    slow = list[tuple[float, tuple[str, bytes]]]()

    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(STORED)
    def each(stored: tuple[str, bytes]) -> None:
        began = time.thread_time()
        read(stored)
        if (took := time.thread_time() - began) > LONGEST_S:
            slow.append((took, stored))

    called.clear()
    each()
    assert called == []
    assert slow == []


def test_objects_nested_too_deep_end_nobodys_process() -> None:
    """Each is a call of the decoder inside a call of it, and each may hold lists as deep as it
    allows.
    """
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
