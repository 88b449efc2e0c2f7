"""Runs a private Postgres server for tests, the demo, or a first try.

The programs come from a wheel (the `embedded` extra) or from the system. Nothing is installed and
no user is created. `EmbeddedPostgres` stops when the process that owns it ends for any reason: a
watchdog shell reads a pipe that only the owner holds open, and stops Postgres when the pipe closes.
Other processes share the server by its URL. `start_server` starts a server that runs until
`stop_server`. Both listen on a unix socket in a folder that only their user can enter.
"""

from __future__ import annotations

import sys

from aiodurable.errors import ConfigurationError

if sys.platform == "win32":
    raise ConfigurationError(
        "cannot run an embedded Postgres on Windows: it needs unix sockets and a POSIX shell;"
        " install Postgres or start it in a container (compose.yaml), and set AIODURABLE_DSN"
    )

from aiodurable.embedded.binaries import find_bindir
from aiodurable.embedded.daemon import server_url, start_server, stop_server
from aiodurable.embedded.server import EmbeddedPostgres, embedded_postgres

__all__ = [
    "EmbeddedPostgres",
    "embedded_postgres",
    "find_bindir",
    "server_url",
    "start_server",
    "stop_server",
]
