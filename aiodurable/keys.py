"""From a thread_id to the 64-bit key of its advisory lock: computed here, so that every host and version agrees."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Final

from aiodurable.errors import InvalidArgumentError

__all__ = ["MAX_THREAD_ID_BYTES", "MIGRATION_KEY", "check_run_id", "check_thread_id", "lock_key", "own_lock_key"]

MAX_THREAD_ID_BYTES = 512
"""A thread_id is part of three primary keys; Postgres refuses index rows over 2704 bytes, and only when they are written."""


def check_thread_id(thread_id: str) -> str:
    """Return `thread_id` if Postgres and LangGraph can hold it.

    Raises:
        InvalidArgumentError: it is no string, empty, longer than `MAX_THREAD_ID_BYTES` in UTF-8, or has a NUL character or
            a lone surrogate (neither can be stored in a Postgres text column).
    """
    return _check("thread_id", thread_id, "give every workflow a name of its own")


def check_run_id(run_id: str) -> str:
    """Return `run_id` if it can name a run; raises as `check_thread_id` does. It is copied into every checkpoint of the run."""
    return _check("run_id", run_id, "leave it out to have one made")


def _check(name: str, text: str, where_empty: str) -> str:
    wrong = None
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all type-checked
        wrong = f"must be a str, got {type(text).__name__}: pass str({name})"
    elif not text:
        wrong = f"must not be empty: {where_empty}"
    elif "\0" in text:
        wrong = "must not contain a NUL character: Postgres cannot store it in text"
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            wrong = "must be valid Unicode, found a lone surrogate: decode it properly"
        else:
            if size > MAX_THREAD_ID_BYTES:
                wrong = (
                    f"must have at most {MAX_THREAD_ID_BYTES} bytes in UTF-8, got {size}: use a digest of it instead"
                )
    if wrong is not None:
        raise InvalidArgumentError(f"{name} {wrong}", argument=name)
    return text


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
"""Of the advisory lock under which tables are made, one process at a time."""
