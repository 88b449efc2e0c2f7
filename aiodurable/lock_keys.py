"""Keys of advisory locks: 64 bits, computed here, so that every host and version agrees on them."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Final

__all__ = ["MIGRATION_KEY", "lock_key", "own_lock_key"]


@lru_cache(maxsize=4096)
def lock_key(name: str, namespace: str) -> int:
    """The signed 64-bit advisory lock key of the thread `name` in `namespace`: BLAKE2b of the name, keyed by the namespace.

    Stable across hosts, processes and versions; two names share a key with a chance of 2**-64 and then only wait for
    each other. `namespace` has at most 64 bytes (BLAKE2b's key size).
    """
    return _key(name, namespace, b"")


def own_lock_key(name: str, namespace: str) -> int:
    """The key of a lock of the caller's own: in another space than that of threads, so that no name of it is a thread's."""
    return _key(name, namespace, b"own")


def _key(name: str, namespace: str, person: bytes) -> int:
    digest = blake2b(name.encode(), digest_size=8, key=namespace.encode(), person=person).digest()
    return int.from_bytes(digest, "big", signed=True)


MIGRATION_KEY: Final = lock_key("schema", "aiodurable.migrations")
"""Key of the advisory lock that serialises migrations."""
