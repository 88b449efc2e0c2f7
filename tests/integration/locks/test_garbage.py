"""A hold is freed when its last reference goes, so that a burst of holds gives the garbage
collector nothing to look for.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from aiodurable.locks import PostgresLockManager


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def test_a_hold_leaves_no_cyclic_garbage(locks: PostgresLockManager) -> None:
    async with locks.hold("warm up"):
        pass
    with no_collector():
        for number in range(100):
            async with locks.hold(f"lock {number}"):
                pass
        gc.set_debug(gc.DEBUG_SAVEALL)  # what would be freed is kept, to be named
        gc.collect()
        kinds = [type(each) for each in gc.garbage]
    assert [
        kind.__qualname__ for kind in kinds if kind.__module__.startswith("aiodurable.locks")
    ] == []
