"""Bounded labels: a metric has few time series, whatever names there are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

__all__ = ["OTHER", "Labels"]

OTHER: Final = "other"


class Labels:
    """Names that may be a label; the others share one.

    Args:
        known: the names; None: the first that come.
        most: names, at most, where they are not known.
    """

    def __init__(self, known: Collection[str] | None = None, *, most: int = 100) -> None:
        self._names = set(known or ())
        self._most = len(self._names) if known is not None else most

    def __call__(self, name: str | None) -> str:
        """The label for a name; of what has none, it is empty."""
        if name is None or name in self._names:
            return name or ""
        if len(self._names) < self._most:
            self._names.add(name)
            return name
        return OTHER
