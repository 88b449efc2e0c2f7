"""The services of a `Durable`, for what works on it from the outside."""

from __future__ import annotations

from aiodurable.durable import Durable
from aiodurable.runs.services import Services

__all__ = ["services_of"]


def services_of(durable: Durable) -> Services:
    """The open services. Raises `ClosedError`."""
    return durable._opened()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # of one library
