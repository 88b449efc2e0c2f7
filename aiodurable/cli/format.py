"""Values as words for a terminal, which obeys any escape sequence that it gets."""

from __future__ import annotations

import shlex
from datetime import timedelta

__all__ = ["age", "lines", "one_line", "quoted", "shell_word", "size", "took"]


def one_line(text: str) -> str:
    """`text` without line breaks and without control characters: an error's text may come from
    anywhere, and a terminal obeys escape sequences.
    """
    return "".join(character if character.isprintable() else " " for character in text).strip()


def lines(text: str) -> str:
    """`text` with its line breaks, and without other control characters."""
    return "\n".join(map(one_line, text.split("\n")))


def quoted(name: str) -> str:
    """An id or a name to show: as it is where all of it can be seen, else as bash quotes it:
    `$'a\\x1b[2J'`.
    """
    return name if name.isprintable() and name == name.strip() else _ansi_c(name)


def shell_word(name: str) -> str:
    """`name` as one argument on a command line, to be copied from a terminal."""
    return shlex.quote(name) if name.isprintable() else _ansi_c(name)


def _ansi_c(name: str) -> str:
    escapes = {"\n": r"\n", "\t": r"\t", "\\": r"\\", "'": r"\'"}
    return f"$'{''.join(escapes.get(c) or (c if c.isprintable() else _bytes(c)) for c in name)}'"


def _bytes(character: str) -> str:
    """Bytes, for they mean the same in every locale; an argument that is no UTF-8 has them as lone
    surrogates.
    """
    errors = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", errors))


def age(span: timedelta | None) -> str:
    """How long ago, in its largest unit: `12 s`, `5 min`, `3 h`, `41 d`. Below zero (clocks differ)
    is `0 s`.
    """
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
    return (
        age(span) if seconds >= 120 else f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"
    )


def size(count: int) -> str:
    """Bytes in the largest decimal unit: `512 B`, `3.4 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"
