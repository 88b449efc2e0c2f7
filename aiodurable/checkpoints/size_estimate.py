"""Estimates within microseconds whether serialising a value would block the event loop.

A hop to another OS thread and back costs 12 to 60 µs of CPU, and spares the loop nothing before
`sys.getswitchinterval()`, 5 ms, if the thread keeps the GIL for so long. Msgpack copies 100 kB of
text in 3 µs; an object, which LangGraph's serializer takes apart in Python, costs it 1.3 to 9 µs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final

__all__ = ["HEAVY_BYTES", "MOST_BYTES", "looks_large", "stored_large"]

HEAVY_BYTES: Final = 64 << 10
"""The size from which stored bytes, which may be of many small objects, are decoded elsewhere."""

_HEAVY_WEIGHT: Final = 256 << 10
_OBJECT: Final = 4 << 10
"""What an object weighs besides its fields: 64 of them are heavy, which take 0.1 to 0.6 ms."""

MOST_BYTES: Final = (1 << 30) - (1 << 20)
"""The largest value in one statement: the server ends a connection without a reason if a message
has 1 GiB (`PQ_LARGE_MESSAGE_LIMIT`). The statement and the keys of its rows fit into the rest.
"""

_SAMPLE: Final = 8
_DEPTH: Final = 4


def looks_large(values: Iterable[Any]) -> bool:
    """Whether values probably are of more than 256 kB together, or of more than 64 objects.

    It samples the first items of containers. A wrong estimate only costs a little time on the loop
    or a needless hop to another OS thread. A value that cannot be weighed is large: an attribute
    that raises, or a container that another thread changes meanwhile, may not matter to the
    serializer.
    """
    try:
        return _weigh(values, _DEPTH) > _HEAVY_WEIGHT
    except Exception:  # the code of a user's class may raise anything
        return True


def stored_large(blobs: Iterable[bytes | None]) -> bool:
    """Whether stored values have more than `HEAVY_BYTES` together."""
    return sum(len(blob) for blob in blobs if blob is not None) > HEAVY_BYTES


def _weigh(values: Iterable[Any], depth: int) -> int:
    """One call for all the items of a container: every write of every run is weighed."""
    weight = 0
    for value in values:
        kind = type(value)
        if kind is str or kind is bytes:
            weight += len(value)
        elif kind is int or value is None or kind is float or kind is bool:
            weight += 8
        elif kind is list or kind is tuple:
            weight += _sample(value, len(value), depth)
        elif kind is dict:
            weight += _sample(value.values(), len(value), depth)
        else:
            weight += _weigh_other(value, depth)
    return weight


def _weigh_other(value: Any, depth: int) -> int:
    """The slow path: subclasses of plain types, and objects."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return len(value)
    if isinstance(value, Mapping):
        return _sample(value.values(), len(value), depth)
    if isinstance(value, Sequence | AbstractSet):
        return _sample(value, len(value), depth)
    size = getattr(value, "nbytes", None)  # arrays
    if isinstance(size, int):
        return size
    fields = getattr(value, "__dict__", None)
    return _OBJECT + (_sample(fields.values(), len(fields), depth) if fields else 0)


def _sample(values: Iterable[Any], count: int, depth: int) -> int:
    if not count or not depth:
        return 16 * count
    if count <= _SAMPLE:
        return _weigh(values, depth - 1) + 4 * count
    return _weigh(islice(values, _SAMPLE), depth - 1) * count // _SAMPLE + 4 * count
