"""The pruner: prunes at an interval, in one process of many."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NoReturn, Unpack

from aiodurable.errors import AiodurableError, ClosedError, ConfigurationError, InvalidArgumentError
from aiodurable.postgres.errors import DRIVER_FAILURES
from aiodurable.runs.leader import leadership
from aiodurable.runs.services import Services
from aiodurable.threads import PruneOptions, PruneReport
from aiodurable.threads.prune_options import checked

__all__ = ["prune_every"]

_log = logging.getLogger(__name__)


async def prune_every(
    opened: Callable[[], Services],
    prune: Callable[..., Awaitable[PruneReport]],
    interval: timedelta,
    **options: Unpack[PruneOptions],
) -> NoReturn:
    """See `Threads.prune_every`.

    Args:
        opened: gives the services, or raises `ClosedError`.
        prune: prunes once.
        interval: from the end of one round to the start of the next.
        options: those of `prune`.
    """
    if interval <= timedelta():
        raise InvalidArgumentError(f"interval must be above 0, got {interval}: a day is usual")
    checked(**options)
    while True:
        try:
            async with leadership(opened().locks, "prune"):
                while True:
                    _log.info("pruned: %s", await prune(**options))
                    await asyncio.sleep(interval.total_seconds() * random.uniform(0.9, 1.1))
        except (ConfigurationError, InvalidArgumentError, ClosedError):  # no waiting helps
            raise
        except (
            AiodurableError,
            *DRIVER_FAILURES,
        ) as error:  # a deadlock, a full disk, an open circuit: it passes
            why = error if isinstance(error, AiodurableError) else type(error).__name__
            _log.warning("pruning was interrupted, and is tried again: %s", why)
            await asyncio.sleep(min(interval.total_seconds(), 60) * random.uniform(0.5, 1))
