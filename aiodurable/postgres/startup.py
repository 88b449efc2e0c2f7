"""Starting before Postgres is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import stamina

from aiodurable.errors import PostgresUnavailableError
from aiodurable.postgres.errors import is_refusal

__all__ = ["wait_until_ready"]


def _may_pass(error: Exception) -> bool:
    return isinstance(error, PostgresUnavailableError) and not is_refusal(error.__cause__)


async def wait_until_ready(start: Callable[[], Awaitable[None]], *, wanted: str, timeout_s: float) -> None:
    """Call `start` again while Postgres is not ready. Waits between two tries grow from 0.1 s to 2 s, with jitter.

    Args:
        start: leaves nothing behind when it fails.
        wanted: what is to be started, for the message.
        timeout_s: seconds for all of it; a try under way then is cancelled.

    Raises:
        PostgresUnavailableError: Postgres was not ready in time, or refuses the user, the password or the database.
    """
    last: list[Exception] = []

    def may_pass(error: Exception) -> bool:
        last[:] = [error]
        return _may_pass(error)

    try:
        async with asyncio.timeout(timeout_s):
            async for attempt in stamina.retry_context(
                on=may_pass, attempts=None, timeout=None, wait_initial=0.1, wait_max=2.0, wait_jitter=0.5
            ):
                with attempt:
                    await start()
    except TimeoutError as error:
        # Ours, it repeats nothing that a driver was given.
        why = f"at last this: {last[0]}" if last else "is it running, and are host and port right?"
        raise PostgresUnavailableError(
            f"wanted {wanted} within {timeout_s:g} s, found Postgres not ready all that time: {why}"
        ) from (last[0] if last else error)
