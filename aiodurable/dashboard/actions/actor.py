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
    shown = visible(name or (client.host if client else "") or "unknown")
    # A no-break space or a joiner is part of some names, and the audit stores neither.
    plain = "".join(one if one.isprintable() else " " if one.isspace() else "" for one in shown)
    return plain[:_LONGEST] or "unknown"
