"""Decodes stored values and notes unreadable ones, so that one bad thread does not hide others."""

from __future__ import annotations

from typing import Any, cast

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.types import Send

__all__ = ["TolerantDecoder"]


class TolerantDecoder:
    """Decodes the values of one thread with this process's serializer.

    Attributes:
        unreadable: the stored types of the values that could not be decoded: encrypted with a key,
            or of a class, that this process does not have.
    """

    def __init__(self, serde: SerializerProtocol) -> None:
        self._serde = serde
        self.unreadable: set[str] = set()

    def load(self, kind: str | None, blob: bytes | None) -> Any:
        """The value, or a text in its place where it cannot be decoded."""
        kind = "nothing" if kind is None else kind
        try:
            return self._serde.loads_typed((kind, blob or b""))
        except Exception:  # serializers raise what they like
            self.unreadable.add(kind)
            return f"(stored as {kind}, which cannot be read here)"

    def sends(self, kind: str | None, blob: bytes | None) -> list[str]:
        """The target nodes of a step's Sends in order, from the stored `__pregel_tasks`. Empty
        where that cannot be decoded.
        """
        stored = self.load(kind, blob) if kind is not None and blob is not None else ()
        if not isinstance(stored, list | tuple):
            return []
        # An entry that is no Send keeps its index: a task path counts the entries before it.
        return [
            send.node if isinstance(send, Send) else "(unreadable)"
            for send in cast("list[Any]", stored)
        ]
