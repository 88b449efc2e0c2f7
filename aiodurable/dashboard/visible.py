"""Shows characters that would hide or reorder the text around them.

Thread ids, errors and states come from anywhere. HTML is escaped by the templates; this is about
what escaping leaves: control characters, bidirectional overrides, invisible characters.
"""

from __future__ import annotations

import unicodedata

__all__ = ["visible", "visible_lines"]

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Control, format (bidirectional marks, zero width), surrogate, private and unassigned characters,
and separators of lines and paragraphs.
"""
_JOINERS = frozenset("\u200c\u200d\ufe0f")
"""They join letters and emoji, and reorder nothing."""


def visible(text: object) -> str:
    """`text` in one line, with hidden characters as `\\xNN` or `\\uNNNN`."""
    return _escaped(str(text), kept=frozenset())


def visible_lines(text: object) -> str:
    """The same, with its lines and tabs."""
    return _escaped(str(text).replace("\r\n", "\n"), kept=frozenset("\n\t"))


def _escaped(text: str, *, kept: frozenset[str]) -> str:
    if text.isascii() and text.isprintable():
        return text
    # By its different characters, which are few: a state has megabytes, and this runs in the loop.
    hidden = {ord(one): _code(one) for one in set(text) - kept if _is_hidden(one)}
    return text.translate(hidden) if hidden else text


def _is_hidden(character: str) -> bool:
    if character.isprintable() or character in _JOINERS:
        return False
    return unicodedata.category(character) in _HIDDEN


def _code(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
