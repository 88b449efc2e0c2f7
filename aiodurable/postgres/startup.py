"""Start before Postgres is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import stamina

from aiodurable.errors import PostgresUnavailableError
from aiodurable.postgres.errors import is_refusal

__all__ = ["wait_until_ready"]


async def wait_until_ready(
    start: Callable[[], Awaitable[None]], *, wanted: str, timeout_s: float
) -> None:
    """Call `start` until it succeeds. Pauses between two tries grow from 0.1 s to 2 s, with jitter.

    stamina's hooks see each try that failed; they get our error, which quotes nothing that a driver
    was given.

    Args:
        start: leaves nothing behind when it fails.
        wanted: what is to be opened, for the message.
        timeout_s: seconds for all tries together; a try under way then is cancelled.

    Raises:
        PostgresUnavailableError: Postgres was not ready in time, or refuses the user, the password
            or the database.
    """
    last: PostgresUnavailableError | None = None

    def may_pass(error: Exception) -> bool:
        nonlocal last
        if not isinstance(error, PostgresUnavailableError):
            return False
        last = error
        return not is_refusal(error.__cause__)

    try:
        async with asyncio.timeout(timeout_s):
            async for attempt in stamina.retry_context(
                on=may_pass,
                attempts=None,
                timeout=None,
                wait_initial=0.1,
                wait_max=2.0,
                wait_jitter=0.5,
            ):
                with attempt:
                    await start()
    except TimeoutError as error:
        why = (
            "is it running, and are host and port right?"
            if last is None
            else f"the last try: {last}"
        )
        raise PostgresUnavailableError(
            f"cannot open {wanted} within {timeout_s:g} s: Postgres was not ready all that time;"
            f" {why}"
        ) from (last or error)
