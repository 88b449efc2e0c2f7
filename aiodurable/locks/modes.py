"""The two lock modes, and that nobody uses both: an advisory lock and a row do not see each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiodurable.errors import ConfigurationError
from aiodurable.keys import lock_key
from aiodurable.locks.rows import RowWire
from aiodurable.locks.wire import Wire
from aiodurable.settings import LockMode

__all__ = ["WIRES", "declare"]

WIRES: Final[Mapping[LockMode, type[Wire]]] = {wire.mode: wire for wire in (Wire, RowWire)}


async def declare(wire: Wire, namespace: str) -> None:
    """Say that this session's mode is in use in `namespace`, until the session ends.

    Raises:
        ConfigurationError: so is the other. Of two that come at the same moment both may be refused, never neither.
    """
    numbers = {mode: lock_key(f"{mode} {namespace}", "aiodurable.modes") for mode in WIRES}
    mine = numbers.pop(wire.mode)
    [(other, theirs)] = numbers.items()
    if await wire.declare(mine, theirs):
        raise ConfigurationError(
            f"wanted lock mode {wire.mode!r} in namespace {namespace!r}, found sessions that use {other!r} there: their "
            "locks and ours would not exclude each other. Use one lock_mode (AIODURABLE_LOCK_MODE) in all processes; to "
            "change it, stop those that use the other"
        )
