"""A serializer that stores and builds only allowed classes.

LangGraph's serializer builds any class that a row names. With a list of allowed classes it is
strict only when it reads: it still stores an object of any class, and later returns the object's
arguments in its place. `StrictSerializer` raises in both cases, so every stored value can be read.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from aiodurable.checkpoints.stored_values import SAFE, Built, classes_in
from aiodurable.errors import ConfigurationError, InvalidArgumentError

__all__ = ["ClassName", "StrictSerializer", "saver_allowing", "strict"]

ClassName = tuple[str, str]
"""The module of a class and its name in that module."""


class StrictSerializer(JsonPlusSerializer):
    """LangGraph's serializer, but strict when it reads and when it writes.

    Args:
        permissive: the serializer whose other options it takes over.
        allowed: the allowed classes, besides messages, dates and the like.
    """

    def __init__(self, permissive: JsonPlusSerializer, allowed: Collection[ClassName]) -> None:
        before: Any = getattr(permissive, "_allowed_msgpack_modules", None)
        self._built = frozenset((*allowed, *(before if isinstance(before, set) else ())))
        super().__init__(
            pickle_fallback=permissive.pickle_fallback,
            allowed_json_modules=getattr(permissive, "_allowed_json_modules", None),
            allowed_msgpack_modules=self._built,
        )

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Encode a value as LangGraph does.

        Raises:
            InvalidArgumentError: it contains an object of a class that is not allowed.
        """
        kind, data = super().dumps_typed(obj)
        if kind == "msgpack" and (refused := self._refused(data)):
            raise InvalidArgumentError(_message("store", refused))
        return kind, data

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Decode a value.

        Raises:
            ConfigurationError: it contains an object of a class that is not allowed.
        """
        kind, blob = data
        if kind == "msgpack" and (refused := self._refused(blob)):
            raise ConfigurationError(_message("read", refused))
        return super().loads_typed(data)

    def _refused(self, data: bytes) -> list[Built]:
        return [
            one for one in classes_in(data) if one.key not in SAFE and one.key not in self._built
        ]


def strict(serde: SerializerProtocol, allowed: Collection[ClassName]) -> SerializerProtocol:
    """A strict variant of the serializer. A serializer that is not LangGraph's own is returned as
    it is: its author decides how it decodes.
    """
    if type(serde) is EncryptedSerializer:
        inner = strict(serde.serde, allowed)
        return serde if inner is serde.serde else EncryptedSerializer(serde.cipher, inner)
    if type(serde) is not JsonPlusSerializer or getattr(serde, "_custom_unpack_ext_hook", False):
        return serde
    return StrictSerializer(serde, allowed)


def saver_allowing(
    saver: BaseCheckpointSaver[Any], allowed: Collection[ClassName]
) -> BaseCheckpointSaver[Any]:
    """The saver; if its serializer is strict, a saver that also builds these classes."""
    serde = saver.serde
    inner = serde.serde if isinstance(serde, EncryptedSerializer) else serde
    listed = getattr(inner, "_allowed_msgpack_modules", True)
    return saver if listed is True else saver.with_allowlist(allowed)


def _message(what: str, refused: Collection[Built]) -> str:
    keys = sorted({one.key for one in refused})
    classes = ", ".join(".".join(key) for key in keys)
    return (
        f"cannot {what} a value of {classes}: no schema of the graph names this class, so a resumed"
        " run would not build it; name it in the state, input or context schema, or in"
        f" Settings(allowed_msgpack_modules={keys!r})"
    )
