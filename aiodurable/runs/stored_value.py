"""Encodes and decodes the values that the ledger stores with a run."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.checkpoints.size_estimate import MOST_BYTES
from aiodurable.errors import InvalidArgumentError

__all__ = ["StoredValue", "dump_value", "load_value"]

StoredValue = tuple[str | None, bytes | None]
"""Kind and bytes of a value, from a serializer; both None: there is no value."""


def dump_value(what: str, value: Any, serde: SerializerProtocol) -> StoredValue:
    """Serialise a value; `what` names it in errors.

    Raises:
        InvalidArgumentError: it cannot be serialised, holds a class that the graph may not
            construct again, or is too large for a statement.
    """
    if value is None:
        return None, None
    try:
        stored = serde.dumps_typed(value)
    except InvalidArgumentError as error:
        message = f"cannot store the {what}: {error}"
        raise InvalidArgumentError(message, argument=what) from error
    except Exception as error:
        # Serializers and the hooks of values may raise anything.
        raise InvalidArgumentError(
            f"cannot store the {what} for another process: {type(error).__name__} while serialising"
            f" {type(value).__name__}; pass plain data, dataclasses, pydantic models or messages",
            argument=what,
        ) from error
    if len(stored[1]) > MOST_BYTES:
        raise InvalidArgumentError(
            f"cannot store the {what}: it has {len(stored[1]) / 1e9:.2f} GB, and a statement at"
            f" most {MOST_BYTES / 1e9:.2f}; keep large values elsewhere, and pass a reference",
            argument=what,
        )
    return stored


def load_value(serde: SerializerProtocol, stored: StoredValue) -> Any:
    """Decode a value; None where there is none."""
    kind, blob = stored
    return None if kind is None or blob is None else serde.loads_typed((kind, blob))
