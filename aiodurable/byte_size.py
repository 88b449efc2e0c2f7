"""A number of bytes for people: the same text in the terminal and on the pages."""

from __future__ import annotations

__all__ = ["byte_size"]


def byte_size(count: int) -> str:
    """Bytes in the largest decimal unit: `512 B`, `3.4 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"
