"""Keys of advisory locks: 64 bits, computed here, so that every host and version agrees on them.
And ids of leases."""

from __future__ import annotations

import secrets
from functools import lru_cache
from hashlib import blake2b
from typing import Final

__all__ = ["MIGRATION_KEY", "is_thread_key", "lock_key", "new_lease_id", "own_lock_key"]


@lru_cache(maxsize=4096)
def lock_key(thread_id: str, namespace: str) -> int:
    """The signed 64-bit advisory lock key of a thread: BLAKE2b of the id, keyed by the namespace.

    Stable across hosts, processes and versions. Two threads share a key with a probability of
    2**-63; they then only wait for each other. `namespace` has at most 64 bytes (BLAKE2b's key
    size). Keys of threads are even, and all others odd, so that the two never meet.
    """
    return _digest(thread_id, namespace) & ~1


def own_lock_key(name: str, namespace: str) -> int:
    """The key of a lock that is no thread's: the caller's own, and the library's duties. Always
    odd.
    """
    return _digest(name, namespace) | 1


def is_thread_key(key: int) -> bool:
    """Whether `key` is the lock of a thread."""
    return key & 1 == 0


def new_lease_id() -> int:
    """Draw a lease id. Unlike a seeded generator, `secrets` never repeats it in another process."""
    return secrets.randbits(62) + 1  # 0 means that no lease has raised the row yet


def _digest(name: str, namespace: str) -> int:
    digest = blake2b(name.encode(), digest_size=8, key=namespace.encode()).digest()
    return int.from_bytes(digest, "big", signed=True)


MIGRATION_KEY: Final = own_lock_key("schema", "aiodurable.migrations")
"""Key of the advisory lock that serialises migrations."""
