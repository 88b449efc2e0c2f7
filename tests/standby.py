"""A real server in recovery: what a failover or a wrong host name may leave a connection with."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aiodurable.embedded import start_server, stop_server


@contextlib.contextmanager
def standby_server() -> Iterator[str]:
    """The DSN of one, for the body."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # as root, Postgres runs as somebody else
        data = Path(folder) / "data"
        start_server(data)
        stop_server(data)
        (data / "standby.signal").touch()
        yield start_server(data)
        stop_server(data)
