"""Compare two inputs: a retry passes the stored input again; a different input is another run's.

Both come as `Inert` decodes them, so that comparing constructs no object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from aiodurable.models import StoredObject

__all__ = ["same_input"]


def same_input(stored: Any, given: Any) -> bool:
    """Whether they are equal. A message stored without an id equals one with: LangGraph assigns ids
    in place.
    """
    if isinstance(stored, StoredObject) and isinstance(given, StoredObject):
        return stored.name == given.name and same_input(
            stored.made_of, _without_new_id(stored, given.made_of)
        )
    if isinstance(stored, Mapping) and isinstance(given, Mapping):
        one, other = cast("Mapping[Any, Any]", stored), cast("Mapping[Any, Any]", given)
        return one.keys() == other.keys() and all(
            same_input(value, other[key]) for key, value in one.items()
        )
    if isinstance(stored, list | tuple) and isinstance(given, list | tuple):
        first, second = cast("list[Any]", stored), cast("list[Any]", given)
        return len(first) == len(second) and all(map(same_input, first, second))
    return _equal(stored, given)


def _without_new_id(stored: StoredObject, given: Any) -> Any:
    made_of = stored.made_of
    if not stored.name.startswith("langchain_core.messages.") or not isinstance(made_of, dict):
        return given
    is_new = cast("dict[str, Any]", made_of).get("id", "") is None and isinstance(given, dict)
    return {**given, "id": None} if is_new else given


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # arrays and user-defined __eq__; the caller also compares the stored bytes
        return False
