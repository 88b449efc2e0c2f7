"""A port for a server that a test starts in a moment."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import Final

_PORTS: Final = (10_000, 32_000)
"""Below those that Linux gives to clients (32768 and above): until the server listens, a connection
of any test beside it might get one of these."""
_CHANCE: Final = random.SystemRandom()  # Hypothesis seeds the other one, in every process alike


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now."""
    while True:
        port = _CHANCE.randrange(*_PORTS)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
