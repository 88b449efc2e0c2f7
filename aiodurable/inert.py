"""Decodes stored values without importing or calling anything that a row names.

Unless it is strict, LangGraph's serializer calls any callable of any module that a row names. Then
a person who can write into the tables could run code in each process that lists threads. `Inert`
decodes plain data as data, LangGraph's `Interrupt` and `Send` as such, and every other object as a
`StoredObject`, which holds the name of its class and its fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Protocol, cast
from uuid import UUID

import ormsgpack
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_KW_ARGS,
    EXT_CONSTRUCTOR_POS_ARGS,
    EXT_CONSTRUCTOR_SINGLE_ARG,
    EXT_DELTA_SNAPSHOT,
    EXT_METHOD_SINGLE_ARG,
    EXT_NUMPY_ARRAY,
    EXT_PYDANTIC_V1,
    EXT_PYDANTIC_V2,
    JsonPlusSerializer,
)
from langgraph.types import Interrupt, Send

from aiodurable.models import StoredObject

__all__ = ["Inert", "Shown", "Visitor", "unpack"]

DEEPEST = 50
"""How deep objects may be nested: the decoder calls itself for each level."""

CONSTRUCTORS = frozenset(
    (
        EXT_CONSTRUCTOR_SINGLE_ARG,
        EXT_CONSTRUCTOR_POS_ARGS,
        EXT_CONSTRUCTOR_KW_ARGS,
        EXT_METHOD_SINGLE_ARG,
        EXT_PYDANTIC_V1,
        EXT_PYDANTIC_V2,
    )
)
"""The msgpack extensions in which LangGraph's serializer stores objects: a class and its arguments.
"""
_JSON_VERSIONS = (1, 2)
"""Versions of the envelope in which LangChain and older LangGraphs store objects as JSON."""


class Inert(SerializerProtocol):
    """A serializer that decodes values of LangGraph's serializer, encrypted or not, and calls
    nothing that a row names.

    Args:
        serde: the serializer that wrote the values. A serializer that is not LangGraph's own
            decodes its values itself, in its author's way.
    """

    def __init__(self, serde: SerializerProtocol) -> None:
        self._written_by = serde
        self._cipher = None
        inner = serde
        if type(serde).loads_typed is EncryptedSerializer.loads_typed:
            encrypting = cast("EncryptedSerializer", serde)
            self._cipher, inner = encrypting.cipher, encrypting.serde
        self._known = type(inner).loads_typed is JsonPlusSerializer.loads_typed

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Encode a value with the wrapped serializer."""
        return self._written_by.dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Decode a value.

        Raises:
            Exception: it cannot be decoded: another key, damaged bytes, a pickle.
        """
        if not self._known:
            return self._written_by.loads_typed(data)
        kind, blob = data
        if "+" in kind and self._cipher is not None:
            kind, cipher = kind.split("+", 1)
            blob = self._cipher.decrypt(cipher, blob)
        match kind:
            case "null":
                return None
            case "bytes" | "bytearray":
                return bytes(blob)
            case "msgpack":
                return unpack(blob, _SHOW)
            case "json":
                return json.loads(blob, object_hook=_of_json)
            case _:
                raise ValueError(f"cannot read a value stored as {kind!r} without building it")


class Shown(Inert):
    """`Inert` that never raises: a `StoredObject` stands for a value that cannot be decoded."""

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Decode a value, or return a `StoredObject` in its place."""
        try:
            return super().loads_typed(data)
        except Exception:  # serializers raise what they like
            return StoredObject(f"stored as {data[0]}, which cannot be read here", None)


class Visitor(Protocol):
    """What `unpack` does with extensions."""

    def made(self, code: int, module: Any, name: Any, made_of: Any) -> Any:
        """The value in the place of an object of this class. The names may be no text."""
        ...

    def other(self, code: int, data: bytes, unpack_inside: Callable[[bytes], Any]) -> Any:
        """The value in the place of an extension that is no object."""
        ...

    def unreadable(self, data: bytes, error: Exception) -> Any:
        """The value in the place of what cannot be decoded; it may raise."""
        ...


def unpack(data: bytes, visitor: Visitor) -> Any:
    """Decode msgpack of LangGraph's serializer and call nothing that the bytes name."""
    return _Unpacking(visitor).inside(data)


class _Unpacking:
    """The decoding of one value. Not closures, whose cycles the garbage collector would have to
    find: strict msgpack decodes each value that is stored.
    """

    __slots__ = ("_depth", "_visitor")

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._depth = 0

    def inside(self, data: bytes) -> Any:
        return ormsgpack.unpackb(data, ext_hook=self._hook, option=ormsgpack.OPT_NON_STR_KEYS)

    def _hook(self, code: int, data: bytes) -> Any:
        if self._depth == DEEPEST:
            return self._visitor.unreadable(data, RecursionError("nested too deep"))
        self._depth += 1
        try:
            if code == EXT_DELTA_SNAPSHOT:
                return self.inside(data)
            if code not in CONSTRUCTORS:
                return self._visitor.other(code, data, self.inside)
            module, name, made_of = self.inside(data)[:3]
            return self._visitor.made(code, module, name, made_of)
        except Exception as error:  # damaged, or not LangGraph's
            return self._visitor.unreadable(data, error)
        finally:
            self._depth -= 1


class _ShowObjects:
    """Puts a `StoredObject` in the place of an object, unless it is harmless data."""

    def made(self, code: int, module: Any, name: Any, made_of: Any) -> Any:  # noqa: ARG002
        return _object_of(module, name, made_of)

    def other(self, code: int, data: bytes, unpack_inside: Callable[[bytes], Any]) -> Any:  # noqa: ARG002
        if code == EXT_NUMPY_ARRAY:
            return StoredObject("numpy.ndarray", data)
        return StoredObject(f"(msgpack extension {code})", data)

    def unreadable(self, data: bytes, error: Exception) -> Any:
        # The values around it are still readable.
        too_deep = isinstance(error, RecursionError)
        return StoredObject("(nested too deep)" if too_deep else "(unreadable)", data)


_SHOW = _ShowObjects()


def _of_json(value: dict[str, Any]) -> Any:
    if (
        value.get("lc") not in _JSON_VERSIONS
        or "type" not in value
        or not isinstance(value.get("id"), list)
    ):
        return value
    *module, name = map(str, value["id"])
    made_of = value.get("kwargs") or value.get("args")
    return (
        _object_of(".".join(module), name, made_of)
        if value["type"] == "constructor"
        else StoredObject("(unreadable)", value)
    )


def _object_of(module: Any, name: Any, made_of: Any) -> Any:
    """The object itself if it is harmless data, else a `StoredObject`."""
    try:
        if (make := _DATA.get((module, name))) is not None:
            return make(made_of)
    except Exception:  # the fields do not fit the class
        return StoredObject(f"{module}.{name}", made_of)
    return StoredObject(f"{module}.{name}", made_of)


def _interrupt(made_of: Mapping[str, Any]) -> Interrupt:
    known = {key: made_of[key] for key in ("id", "ns") if made_of.get(key) is not None}
    if not isinstance(known.get("id", ""), str):
        raise TypeError("an id is text")
    schema = made_of.get("response_schema")
    return Interrupt(
        made_of["value"], response_schema=schema if isinstance(schema, dict) else None, **known
    )


def _send(made_of: Sequence[Any]) -> Send:
    node, arg = made_of[:2]
    if not isinstance(node, str):
        raise TypeError("a node's name is text")
    return Send(node, arg)


_DATA: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("langgraph.types", "Interrupt"): _interrupt,
    ("langgraph.types", "Send"): _send,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("datetime", "datetime"): datetime.fromisoformat,
    ("datetime", "date"): lambda made_of: date(*made_of),
    ("datetime", "time"): lambda made_of: time(**made_of),
    ("datetime", "timedelta"): lambda made_of: timedelta(*made_of),
    ("datetime", "timezone"): lambda made_of: timezone(*made_of),
    ("decimal", "Decimal"): Decimal,
    ("uuid", "UUID"): UUID,
}
"""The classes that are built, for example a date in a question. Their constructors have no effects.
"""
