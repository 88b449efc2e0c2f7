"""The argument THREAD, which a shell can complete from the database."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import click
from click.shell_completion import CompletionItem

from aiodurable.cli.database import is_configured

__all__ = ["ThreadId", "thread_argument"]

_LIMIT_S = 0.3
_MOST = 50
_SCANNED = 200
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@%+=,-]*")
"""Ids that mean nothing to a shell. Clients choose ids, and the shell inserts what it is offered
unquoted: `$(…)` would run when the person presses Enter.
"""


class ThreadId(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic only in newer clicks
    """A click type: a thread id. A shell is offered ids of the database, if one is configured."""

    name = "text"

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - click's signature
        incomplete: str,
    ) -> list[CompletionItem]:
        """Ids that go on from `incomplete`, at most 50; none if the database takes over 0.3 s."""
        try:
            dsn = ctx.params.get("dsn")
            if not is_configured(dsn):
                return []
            found = asyncio.run(_ids(dsn, incomplete))
        except Exception:  # whatever it is, a shell that completes shows no error
            return []
        return [CompletionItem(thread_id) for thread_id in found]


async def _ids(dsn: str | None, prefix: str) -> list[str]:
    # Neither loads LangGraph, which takes longer than a person waits for a completion.
    from aiodurable.dsn import parse_dsn  # noqa: PLC0415 - loads psycopg
    from aiodurable.postgres.connect import connect_direct  # noqa: PLC0415 - loads asyncpg
    from aiodurable.postgres.sql import load  # noqa: PLC0415 - as above
    from aiodurable.settings import Settings  # noqa: PLC0415 - as above

    parsed = parse_dsn(dsn, schema=Settings.from_env().schema)
    statement = load("threads")["threads_all"]
    async with asyncio.timeout(_LIMIT_S):
        connection = await connect_direct(
            parsed,
            role="completion",
            server_settings={"statement_timeout": f"{_LIMIT_S * 1000:.0f}"},
            timeout_s=_LIMIT_S,
        )
        try:
            # Where the database does not sort bytewise, ids with the prefix may also lie elsewhere.
            rows = await connection.fetch(statement, prefix, _SCANNED)
        finally:
            connection.terminate()
    ids: list[Any] = [row["thread_id"] for row in rows]
    return [i for i in ids if i.startswith(prefix) and _SAFE.fullmatch(i)][:_MOST]


thread_argument = click.argument("thread_id", metavar="THREAD", type=ThreadId())
