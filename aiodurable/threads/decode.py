"""Stored values, read with this process's serializer; what it cannot read is noted, for one thread
must not hide the others.
"""

from __future__ import annotations

from typing import Any, cast

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.types import Send

__all__ = ["TolerantDecoder"]


class TolerantDecoder:
    """Reads the values of one thread.

    Attributes:
        unreadable: the kinds of the values that could not be read: encrypted with a key that is not
            here, or of a type that is not.
    """

    def __init__(self, serde: SerializerProtocol) -> None:
        self._serde = serde
        self.unreadable: set[str] = set()

    def load(self, kind: str | None, blob: bytes | None) -> Any:
        """The value, or words that stand for it."""
        kind = "nothing" if kind is None else kind
        try:
            return self._serde.loads_typed((kind, blob or b""))
        except Exception:  # serializers raise what they like
            self.unreadable.add(kind)
            return f"(stored as {kind}, which cannot be read here)"

    def sends(self, kind: str | None, blob: bytes | None) -> list[str]:
        """The nodes of a step's Sends in their order, from the stored `__pregel_tasks`; none where
        it cannot be read.
        """
        stored = self.load(kind, blob) if kind is not None and blob is not None else ()
        if not isinstance(stored, list | tuple):
            return []
        # What is no Send keeps its place: those after it are counted.
        return [
            send.node if isinstance(send, Send) else "(unreadable)"
            for send in cast("list[Any]", stored)
        ]
