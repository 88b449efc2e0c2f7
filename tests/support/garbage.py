"""What a piece of work leaves to the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["cyclic_garbage"]


@contextmanager
def cyclic_garbage(package: str) -> Iterator[list[str]]:
    """While this is open the garbage collector does nothing. Afterwards the list names the objects
    of the package's classes, and its functions, that only the collector could free.
    """
    found: list[str] = []
    gc.disable()
    # Only what is made from here on is looked at: to go through all that the tests have left takes
    # seconds, in which the event loop stands still and leases expire.
    gc.freeze()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)  # what would be freed is kept, to be named
        gc.collect()
        for each in gc.garbage:
            named = each if isinstance(each, type) or hasattr(each, "__qualname__") else type(each)
            if (named.__module__ or "").startswith(package):
                found.append(named.__qualname__)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()
