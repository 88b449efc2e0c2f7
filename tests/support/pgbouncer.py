"""A real PgBouncer in front of the test server: the program that `AIODURABLE_TEST_PGBOUNCER` names,
else an installed one.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.ports import free_port
from tests.support.waiting import wait_until_sync

PROGRAM = (
    os.environ.get("AIODURABLE_TEST_PGBOUNCER")
    or shutil.which("pgbouncer")
    or shutil.which("pgbouncer", path="/usr/sbin")
)


Mode = Literal["session", "transaction"]


@contextlib.contextmanager
def through(
    mode: Mode, dsn: str, *, server_connections: int = 20, **settings: str
) -> Iterator[str]:
    """The DSN of `dsn`'s database through a PgBouncer in `mode` with such settings; skips, and says
    so, where there is none.
    """
    if PROGRAM is None:
        if os.environ.get("CI"):
            pytest.fail("PgBouncer is not installed: these promises go untested")
        warnings.warn(
            "PgBouncer is not installed: what goes through a pooler is untested here", stacklevel=3
        )
        pytest.skip("NO PGBOUNCER ON THIS MACHINE: apt-get install pgbouncer")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        settings = {"pool_mode": mode, "default_pool_size": str(server_connections), **settings}
        with _pgbouncer(PROGRAM, dsn, Path(folder) / mode, settings) as url:
            yield url


@contextlib.contextmanager
def _pgbouncer(program: str, dsn: str, folder: Path, settings: Mapping[str, str]) -> Iterator[str]:
    parts = conninfo_to_dict(dsn)
    port = free_port()
    server = {
        key: parts[key] for key in ("host", "port", "dbname", "user", "password") if parts.get(key)
    }
    folder.mkdir(mode=0o755, exist_ok=True)
    config = folder / "pgbouncer.ini"
    config.write_text(
        "[databases]\n* ="
        f" {' '.join(f'{key}={value}' for key, value in server.items())}\n[pgbouncer]\nlisten_addr"
        f" = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\nmax_client_conn ="
        " 200\nignore_startup_parameters = extra_float_digits\n"
        + "".join(f"{name} = {value}\n" for name, value in settings.items())
    )
    user = None
    if os.getuid() == 0:  # it refuses to run as root; a unix socket may be open to its owner alone
        host = Path(str(parts.get("host", "")))
        user = (
            host.stat().st_uid
            if host.is_absolute() and host.stat().st_uid
            else pwd.getpwnam("nobody").pw_uid
        )
        for path in (folder, config):
            os.chown(path, user, -1)
    process = subprocess.Popen(
        [program, "-q", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("w"),
        user=user,
    )
    try:
        wait_until_sync(
            lambda: process.poll() is not None or _answers(port), what="pgbouncer to listen"
        )
        assert process.poll() is None, (folder / "log").read_text()
        yield f"postgresql://{parts['user']}@127.0.0.1:{port}/{parts['dbname']}"
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
