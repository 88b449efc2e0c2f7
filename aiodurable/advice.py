"""What the library's messages advise, in the words of the place that shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from aiodurable import errors

__all__ = ["advising", "of_stored"]

_OURS = tuple(f"{name}(" for name in errors.__all__)


def advising(words: Mapping[str, str]) -> Callable[[str], str]:
    """Return what puts `words` in the place of their keys in a message of the library."""
    # the longest first: some begin with others
    key = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))
    return lambda message: key.sub(lambda found: words[found[0]], message)


def of_stored(advise: Callable[[str], str]) -> Callable[[str], str]:
    """Return what does the same to the `repr` of an error that a run's row holds. A node's own
    error stays as it is.
    """
    return lambda error: advise(error) if error.startswith(_OURS) else error
