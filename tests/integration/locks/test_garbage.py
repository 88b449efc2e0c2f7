"""A hold is freed when its last reference goes, so that a burst of holds gives the garbage
collector nothing to look for.
"""

from __future__ import annotations

from aiodurable.locks import PostgresLockManager
from tests.support.garbage import cyclic_garbage


async def test_a_hold_leaves_no_cyclic_garbage(locks: PostgresLockManager) -> None:
    async with locks.hold("warm up"):
        pass
    with cyclic_garbage("aiodurable.locks") as found:
        for number in range(100):
            async with locks.hold(f"lock {number}"):
                pass
    assert found == []
