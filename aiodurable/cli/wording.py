"""Values as words for a terminal."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["age", "one_line"]


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
