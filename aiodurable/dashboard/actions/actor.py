"""Who acts, for the audit."""

from __future__ import annotations

from aiodurable.dashboard.context import Context
from aiodurable.dashboard.visible import visible

__all__ = ["actor_of"]

_LONGEST = 200


def actor_of(context: Context) -> str:
    """Who sent this request, as the application or the connection says."""
    name = context.options.actor and context.options.actor(context.request)
    client = context.request.client
    return visible(name or (client.host if client else "") or "unknown")[:_LONGEST]
