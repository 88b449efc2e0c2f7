"""What the library's messages advise, in the words of the place that shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

__all__ = ["advising"]


def advising(words: Mapping[str, str]) -> Callable[[str], str]:
    """Return what puts `words` in the place of their keys in a message of the library."""
    # the longest first: some begin with others
    key = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))
    return lambda message: key.sub(lambda found: words[found[0]], message)
