"""A Postgres of one test alone, that can be stopped in every way and comes back under the same
address.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from aiodurable.embedded import find_bindir, start_server, stop_server
from aiodurable.embedded.binaries import Programs
from aiodurable.embedded.private import alone_in
from aiodurable.shield import run_to_completion
from tests.support.ports import free_port
from tests.support.waiting import wait_until_sync

How = Literal["fast", "immediate"]


class OwnServer:
    """Attributes: `settings` are the server's, from the next start on; `folder` is one that
    Postgres can read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = {"max_connections": "100", "fsync": "off"}  # it dies, the host does not
        self._data = folder / "data"
        self._one_at_a_time = asyncio.Lock()  # the end of a test waits for a start under way

    def listen(
        self,
        auth: Literal["trust", "scram-sha-256"],
        *,
        address: str = "127.0.0.1",
        clients: str = "127.0.0.1/32",
    ) -> None:
        """On TCP too, from the next start on; over its socket it trusts every client."""
        rules = self.folder / "hba"
        rules.write_text(f"local all all trust\nhost all all {clients} {auth}\n")
        self.settings |= {
            "listen_addresses": address,
            "port": str(free_port()),
            "hba_file": str(rules),
        }

    async def start(self) -> str:
        """Returns the DSN, the same at every start."""
        async with self._one_at_a_time:
            return await run_to_completion(asyncio.to_thread(self._start))

    def _start(self) -> str:
        if not self._data.exists():
            made = _made_cluster(find_bindir())
            subprocess.run(["cp", "-a", f"{made.name}/data", self._data], check=True)
        return start_server(self._data, settings=self.settings)

    async def stop(self, how: How = "fast") -> None:
        """Fast: every session gets a message. Immediate: as if its power failed; it recovers from
        its log at the next start.
        """
        async with self._one_at_a_time:
            await run_to_completion(asyncio.to_thread(self._stop, how))

    def _stop(self, how: How) -> None:
        if how == "immediate":
            self.crash()
        stop_server(self._data)

    def crash(self) -> None:
        """Stop it as `immediate`, and return when its last process has gone. Blocks: nothing of
        this event loop runs meanwhile.
        """
        pid = self._data / "postmaster.pid"
        os.kill(int(pid.read_text().split()[0]), signal.SIGQUIT)
        wait_until_sync(lambda: not pid.exists(), what="Postgres to end")

    async def restart(self, how: How = "fast") -> None:
        await self.stop(how)
        await self.start()


def make_cluster(data: Path) -> None:
    """Make one in `data`, which must not exist; not started."""
    programs = Programs(None)
    data.mkdir(mode=0o700)
    programs.own(data)
    with alone_in(data) as lock:
        programs.initdb(data, lock, durable=False)


@functools.cache
def _made_cluster(bindir: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder with one in `data`: initdb takes more than a second of a core, a copy a tenth."""
    folder = tempfile.TemporaryDirectory(prefix="aiodurable-cluster-")
    Path(folder.name).chmod(0o755)  # as root, Postgres runs as somebody else
    make_cluster(Path(folder.name) / "data")
    return folder


@asynccontextmanager
async def own_server() -> AsyncIterator[OwnServer]:
    folder = Path(tempfile.mkdtemp(prefix="aiodurable-own-"))
    folder.chmod(0o755)  # as root, Postgres runs as somebody else
    server = OwnServer(folder)
    try:
        yield server
    finally:
        await server.stop()
        shutil.rmtree(folder)
