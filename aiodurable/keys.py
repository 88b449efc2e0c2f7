"""From a thread_id to the 64-bit key of its advisory lock: computed here, so that every host and version agrees."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Final

from aiodurable.errors import ConfigurationError

__all__ = ["MAX_THREAD_ID_BYTES", "MIGRATION_KEY", "check_thread_id", "lock_key"]

MAX_THREAD_ID_BYTES = 512
"""A thread_id is part of three primary keys; Postgres refuses index rows over 2704 bytes, and only when they are written."""


def check_thread_id(thread_id: str) -> str:
    """Return `thread_id` if Postgres and LangGraph can hold it.

    Raises:
        ConfigurationError: it is no string, empty, longer than `MAX_THREAD_ID_BYTES` in UTF-8, or has a NUL character or
            a lone surrogate (neither can be stored in a Postgres text column).
    """
    if not isinstance(thread_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # the door checks what types promise
        raise ConfigurationError(f"thread_id must be a str, got {type(thread_id).__name__}: pass str(thread_id)")
    if not thread_id:
        raise ConfigurationError("thread_id must not be empty: give every workflow a name of its own")
    if "\0" in thread_id:
        raise ConfigurationError("thread_id must not contain a NUL character: Postgres cannot store it in text")
    try:
        size = len(thread_id.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(
            "thread_id must be valid Unicode, found a lone surrogate: decode it properly"
        ) from None
    if size > MAX_THREAD_ID_BYTES:
        raise ConfigurationError(
            f"thread_id must have at most {MAX_THREAD_ID_BYTES} bytes in UTF-8, got {size}: use a digest of it instead"
        )
    return thread_id


@lru_cache(maxsize=4096)
def lock_key(name: str, namespace: str) -> int:
    """The signed 64-bit advisory lock key of `name` in `namespace`: BLAKE2b of the name, keyed by the namespace.

    Stable across hosts, processes and versions; two names share a key with a chance of 2**-64 and then only wait for
    each other. `namespace` has at most 64 bytes (BLAKE2b's key size).
    """
    digest = blake2b(name.encode(), digest_size=8, key=namespace.encode()).digest()
    return int.from_bytes(digest, "big", signed=True)


MIGRATION_KEY: Final = lock_key("schema", "aiodurable.migrations")
"""Of the advisory lock under which tables are made, one process at a time."""
