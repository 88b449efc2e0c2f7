"""Observers in threads of their own, so that one that blocks or hangs reaches no run."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from traceback import walk_stack
from typing import Final

from aiodurable.events import Event, Observer, call

__all__ = ["ObserverThread", "of_a_durable", "prepared"]

_log = logging.getLogger(__name__)

_MOST_EVENTS: Final = 10_000
"""Events that wait for an observer, at most."""
_NAP_S: Final = 0.02
_NAPS: Final = 50
"""How long its thread sleeps between two looks, and how many in vain until it ends."""
_HANGS_S: Final = 10.0
"""How long it may be at one event without a warning."""
_FRAMES: Final = 8
"""Frames that a warning names, the innermost."""


class ObserverThread:
    """Calls an observer in a thread of its own, in the order of the events.

    The thread starts with an event and ends after a second without any.

    Args:
        observer: the observer.

    Attributes:
        dropped: events that it did not get, because 10,000 waited for it.
    """

    inline = True

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._events = deque[Event]()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._at_one_since: float | None = None
        self._hangs = False
        self.dropped = 0

    def __call__(self, event: Event) -> None:
        """Hand an event over; at once."""
        with self._lock:
            if len(self._events) < _MOST_EVENTS:
                self._events.append(event)
            else:
                self.dropped += 1
                if self.dropped == 1:
                    _log.warning(
                        "observer %r does not keep up: %d events wait for it, more are dropped;"
                        " it is at %s",
                        self._observer,
                        _MOST_EVENTS,
                        self._place(),
                    )
            self._warn_if_it_hangs()
            # It may be gone without a word: after a fork, or where the observer called sys.exit().
            if self._thread is not None and self._thread.is_alive():
                return
            thread = threading.Thread(target=self._serve, name="aiodurable observer", daemon=True)
            thread.start()  # what cannot be started now is tried again with the next event
            self._thread = thread

    @property
    def idle(self) -> bool:
        """Whether it has seen every event."""
        return not self._events and not self._busy

    def _warn_if_it_hangs(self) -> None:
        """Warn once of an event that takes long; as one more comes, so no thread has to watch."""
        since = self._at_one_since
        if since is None or self._hangs or (took_s := time.monotonic() - since) < _HANGS_S:
            return
        self._hangs = True
        _log.warning(
            "observer %r has been at one event for %.0f s, and the others wait for it; it is at %s",
            self._observer,
            took_s,
            self._place(),
        )

    def _place(self) -> str:
        """Where its thread is: files, lines and functions, the innermost first. No values."""
        thread = self._thread
        frame = None if thread is None else sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]  # documented
        if frame is None:
            return "an unknown place"
        frames = islice(walk_stack(frame), _FRAMES)
        return " < ".join(
            f"{one.f_code.co_qualname} ({one.f_code.co_filename}:{line})" for one, line in frames
        )

    def _serve(self) -> None:
        naps = 0
        while True:
            with self._lock:
                events = tuple(self._events)
                self._busy = bool(events)
                self._events.clear()
                if not events and naps >= _NAPS:
                    self._thread = None
                    return
            for event in events:
                self._at_one_since = time.monotonic()
                call(self._observer, event)
                self._at_one_since, self._hangs = None, False
            self._busy = False
            naps = 0 if events else naps + 1
            time.sleep(_NAP_S)


def of_a_durable(observers: Sequence[Observer]) -> tuple[Observer, ...]:
    """The observers of one `Durable`, prepared. One that knows runs by their threads has a method
    `for_a_durable`, which gives each `Durable` an observer of its own. Its class has it: a wrapper
    that leaves its other attributes to the observer in it stays around that.
    """
    own: list[Observer] = []
    for observer in observers:
        for_a_durable = getattr(type(observer), "for_a_durable", None)
        own.append(observer if for_a_durable is None else for_a_durable(observer))
    return prepared(own)


def prepared(observers: Sequence[Observer]) -> tuple[Observer, ...]:
    """The observers as `emit` calls them: those that are not inline in threads of their own."""
    return tuple(
        observer if getattr(observer, "inline", False) else ObserverThread(observer)
        for observer in observers
    )
