"""`durable.threads` without a `Durable`: what it reads, on one database."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from aiodurable.postgres.pool import PsycopgPool
from aiodurable.runs.threads import Threads
from aiodurable.threads import ThreadReader


def reading(
    database: PsycopgPool, *, namespace: str = "aiodurable", serde: SerializerProtocol | None = None
) -> Threads:
    """Threads that can be read, counted and pruned; nothing can be run."""
    reader = ThreadReader(database, namespace=namespace, serde=serde or JsonPlusSerializer())
    services: Any = SimpleNamespace(
        threads=reader,
        checkpoints=SimpleNamespace(database=database),
        recovery_grace_s=10.0,
        observers=(),
    )
    return Threads(lambda: services)
