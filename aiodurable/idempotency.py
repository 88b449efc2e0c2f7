"""Nodes run at least once: a crash between a side effect and its checkpoint repeats the node. This
names the pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from langgraph.config import get_config

from aiodurable.errors import ConfigurationError

__all__ = ["idempotency_key", "node_config"]


def idempotency_key(name: str = "") -> str:
    """A key that is the same each time this very step of this thread runs, and different for every
    other step.

    Give it to whatever has the side effect (a payment, a mail, an insert), so that it does it once.
    Retries and resumptions of a node keep its task, and with it the key; the same node in a later
    superstep is another task.

    Args:
        name: tells several side effects of one node apart.

    Returns:
        32 hexadecimal digits.

    Raises:
        ConfigurationError: it was called outside a node or task of a graph with a thread.
    """
    configurable = node_config()
    thread_id, task = configurable.get("thread_id"), configurable.get("checkpoint_ns")
    if not thread_id or not task:
        raise ConfigurationError(
            "idempotency_key() names a step of a running graph: call it inside a node or a task"
        )
    return blake2b("\0".join((thread_id, task, name)).encode(), digest_size=16).hexdigest()


def node_config() -> Mapping[str, Any]:
    """The `configurable` of the node or task that is being executed; empty outside of one."""
    try:
        return get_config().get("configurable", {})
    except RuntimeError:
        return {}
