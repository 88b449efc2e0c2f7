"""Values as words for a terminal."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["age", "one_line", "size", "took"]


def one_line(text: str) -> str:
    """`text` without line breaks and without control characters: an error's text may come from anywhere, and a terminal
    obeys escape sequences.
    """
    return "".join(character if character.isprintable() else " " for character in text).strip()


def age(span: timedelta | None) -> str:
    """How long ago, in its largest unit: `12 s`, `5 min`, `3 h`, `41 d`. Below zero (clocks differ) is `0 s`."""
    if span is None:
        return ""
    seconds = max(0, int(span.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def took(span: timedelta | None) -> str:
    """How long something took: `0.012 s`, `3.4 s`, and from two minutes on as `age` says it."""
    if span is None:
        return ""
    seconds = max(0.0, span.total_seconds())
    return age(span) if seconds >= 120 else f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"


def size(count: int) -> str:
    """Bytes in the largest decimal unit: `512 B`, `3.4 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"
