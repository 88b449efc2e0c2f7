"""A private Postgres for tests, for the demo, for a first try without a server.

The programs come from a wheel (the `embedded` extra) or from the system; nothing is installed and
no user is created. `EmbeddedPostgres` stops when the process that owns it ends, for whatever
reason: a shell beside Postgres reads a pipe that only the owner holds open, and stops Postgres at
the end of the pipe. Other processes share the server by its URL. `start_server` starts a server
that stays. Both listen on a unix socket in a folder that only their user can enter.
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
