"""Counts what is waited for on the wire: statements that are under way together are one trip."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.sending import SENDS, text_of


class Trips:
    """The trips so far, each with its statements."""

    def __init__(self) -> None:
        self._trips: list[list[str]] = []
        self._under_way = 0

    def __len__(self) -> int:
        return len(self._trips)

    def clear(self) -> None:
        """Count from here."""
        self._trips.clear()

    def said(self) -> list[str]:
        """The beginnings of the statements, a line a trip."""
        return [" | ".join(" ".join(one.split())[:90] for one in trip) for trip in self._trips]

    async def watch(self, statement: str, sending: Callable[[], Awaitable[Any]]) -> Any:
        """Send a statement and wait for its answer."""
        if not self._under_way or not self._trips:
            self._trips.append([])
        self._trips[-1].append(statement)
        self._under_way += 1
        try:
            return await sending()
        finally:
            self._under_way -= 1


@contextmanager
def round_trips(patch: pytest.MonkeyPatch) -> Iterator[Trips]:
    """The statements of this process, seen at both drivers."""
    trips = Trips()

    def watched(
        name: str, original: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def statement(driver: Any, *args: Any, **options: Any) -> Any:
            text = text_of(driver, name, args)
            return await trips.watch(text, lambda: original(driver, *args, **options))

        return statement

    with patch.context() as here:
        for kind, names in SENDS.items():
            for name in names:
                here.setattr(kind, name, watched(name, getattr(kind, name)))
        yield trips
