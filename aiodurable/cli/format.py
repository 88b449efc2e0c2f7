"""Formats values for a terminal and removes control characters, which a terminal would obey."""

from __future__ import annotations

import shlex
from datetime import timedelta

__all__ = ["age", "lines", "one_line", "quoted", "shell_word", "took"]


def one_line(text: str) -> str:
    """`text` with spaces in place of line breaks and control characters: anybody may have written
    an error's text, and a terminal obeys escape sequences.
    """
    return _printable(text).strip()


def lines(text: str) -> str:
    """`text` with its line breaks and its indentation, but without other control characters."""
    return "\n".join(map(_printable, text.split("\n")))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text).rstrip()


def quoted(name: str) -> str:
    """An id or a name for display: unchanged if all of it is visible, else quoted as in bash:
    `$'a\\x1b[2J'`.
    """
    return name if name.isprintable() and name == name.strip() else _ansi_c(name)


def shell_word(name: str) -> str:
    """`name` as one shell argument, to be copied from a terminal."""
    return shlex.quote(name) if name.isprintable() else _ansi_c(name)


def _ansi_c(name: str) -> str:
    escapes = {"\n": r"\n", "\t": r"\t", "\\": r"\\", "'": r"\'"}
    return f"$'{''.join(escapes.get(c) or (c if c.isprintable() else _bytes(c)) for c in name)}'"


def _bytes(character: str) -> str:
    """A character as bytes, which mean the same in every locale. Python decodes arguments that are
    not UTF-8 to lone surrogates.
    """
    errors = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", errors))


def age(span: timedelta | None) -> str:
    """An age in its largest unit: `12 s`, `5 min`, `3 h`, `41 d`. A negative one, which clocks that
    differ can give, is `0 s`.
    """
    if span is None:
        return ""
    seconds = max(0, int(span.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def took(span: timedelta | None) -> str:
    """A duration: `0.012 s`, `3.4 s`, and from two minutes on as `age` formats it."""
    if span is None:
        return ""
    seconds = max(0.0, span.total_seconds())
    return (
        age(span) if seconds >= 120 else f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"
    )
