"""Values that a run was accepted with, as the ledger stores them."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.checkpoints.size_estimate import MOST_BYTES
from aiodurable.errors import InvalidArgumentError

__all__ = ["StoredValue", "dump_value", "load_value"]

StoredValue = tuple[str | None, bytes | None]
"""Kind and bytes of a value, as a serializer gives them; both None: there is none."""


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
        message = f"the {what} cannot be stored: {error}"
        raise InvalidArgumentError(message, argument=what) from error
    except Exception as error:
        # whatever the serializer or the value's own hooks raise means the same
        raise InvalidArgumentError(
            f"the {what} cannot be stored, so another process could not go on with it:"
            f" {type(error).__name__} while serialising {type(value).__name__}; pass plain"
            " data, dataclasses, pydantic models or messages",
            argument=what,
        ) from error
    if len(stored[1]) > MOST_BYTES:
        raise InvalidArgumentError(
            f"the {what} cannot be stored, so another process could not go on with it: it has"
            f" {len(stored[1]) / 1e9:.2f} GB, and Postgres takes no statement of more than"
            f" {MOST_BYTES / 1e9:.2f}; keep large values elsewhere, and pass where they are",
            argument=what,
        )
    return stored


def load_value(serde: SerializerProtocol, stored: StoredValue) -> Any:
    """Decode a value; None where there is none."""
    kind, blob = stored
    return None if kind is None or blob is None else serde.loads_typed((kind, blob))
