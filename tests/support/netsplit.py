"""A network that can be cut silently, both ways or one: a network namespace where this user may
make one, else a proxy.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from psycopg.conninfo import conninfo_to_dict

from tests.support.proxy import Direction, proxy
from tests.support.restartable import OwnServer

_OURS, _THEIRS, _NOBODY = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"


class Network(Protocol):
    """The links that can be cut. Frames and bytes vanish, and neither end gets a message."""

    def cut(self, *directions: Direction) -> None:
        """Both ways by default."""
        ...

    def mend(self) -> None:
        """As if nothing had been."""
        ...


class Partition:
    """Attributes: `near` is the server's DSN for a process on its side of the cut, `far` for one on
    the other side, which `command` starts; `how` says what is cut."""

    def __init__(
        self, network: Network, *, near: str, far: str, command: tuple[str, ...], how: str
    ) -> None:
        self.network, self.near, self.far, self.command, self.how = network, near, far, command, how


class Namespace:
    """A pair of interfaces, one of them in a network namespace of its own. A cut is a wrong entry
    in one end's table of neighbours: its frames go to nobody. That needs no kernel module, as `tc
    netem` and firewalls do."""

    def __init__(self) -> None:
        number = os.getpid() % (1 << 15)
        # 198.18/15 is for tests of networks (RFC 2544)
        net = f"198.18.{number >> 6 & 255}.{(number & 63) * 4}"
        head, _, last = net.rpartition(".")
        self.name, self.link = f"aiodurable-{os.getpid()}", f"aiod{os.getpid()}"
        self.ours, self.theirs = f"{head}.{int(last) + 1}", f"{head}.{int(last) + 2}"

    def make(self) -> None:
        """Raises `OSError` or `CalledProcessError` where this user may not."""
        link, name = self.link, self.name
        _ip("netns", "add", name)
        peer = ("type", "veth", "peer", "name", link, "address", _THEIRS, "netns", name)
        _ip("link", "add", link, "address", _OURS, *peer)
        for where, address in (((), self.ours), (("-n", name), self.theirs)):
            _ip(*where, "addr", "add", f"{address}/30", "dev", link)
            _ip(*where, "link", "set", link, "up")
        self.mend()

    def remove(self) -> None:
        for command in (("link", "del", self.link), ("netns", "del", self.name)):
            subprocess.run(["ip", *command], check=False, capture_output=True)

    def cut(self, *directions: Direction) -> None:
        self._route(directions or ("to_server", "to_client"), _NOBODY, _NOBODY)

    def mend(self) -> None:
        self._route(("to_server", "to_client"), _OURS, _THEIRS)

    def _route(self, directions: tuple[Direction, ...], ours: str, theirs: str) -> None:
        entry = ("dev", self.link, "nud", "permanent")
        if "to_server" in directions:
            _ip("-n", self.name, "neigh", "replace", self.ours, "lladdr", ours, *entry)
        if "to_client" in directions:
            _ip("neigh", "replace", self.theirs, "lladdr", theirs, *entry)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def namespace() -> Iterator[Namespace | None]:
    """None where this machine or user does not permit it."""
    made = Namespace()
    try:
        made.make()
    except (OSError, subprocess.CalledProcessError):
        with contextlib.suppress(FileNotFoundError):  # there is no `ip`
            made.remove()
        yield None
        return
    try:
        yield made
    finally:
        made.remove()


@asynccontextmanager
async def partitioned(own: OwnServer) -> AsyncIterator[Partition]:
    """Start the server on the near side of a network that can be cut."""
    with namespace() as made:
        if made is not None:
            own.listen("trust", address=made.ours, clients="samenet")
            near = await own.start()
            user = conninfo_to_dict(near)["user"]
            far = f"postgresql://{user}@{made.ours}:{conninfo_to_dict(near)['port']}/postgres"
            command = ("ip", "netns", "exec", made.name)
            yield Partition(made, near=near, far=far, command=command, how="network namespace")
        else:
            near = await own.start()
            async with proxy(near) as wire:
                yield Partition(wire, near=near, far=wire.dsn, command=(), how="TCP proxy")
