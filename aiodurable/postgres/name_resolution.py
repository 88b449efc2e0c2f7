"""Resolves each host name in a thread of its own: asyncio does it in the loop's default executor,
which the nodes of a graph may fill.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from aiodurable.dsn import split
from aiodurable.postgres.own_thread import in_own_thread

__all__ = ["ResolvingLoop", "with_addresses"]


async def _addresses(host: str, port: int | str) -> list[str]:
    """The addresses of `host`. Raises `OSError`."""

    def resolve() -> list[str]:
        try:
            infos = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, f"no host name: {error}") from error
        return list(dict.fromkeys(str(info[4][0]) for info in infos))

    return await in_own_thread(resolve, name=f"aiodurable resolve {host}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class ResolvingLoop:
    """The running event loop as asyncpg uses it, which resolves names here. TLS still verifies the
    name.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._loop, name)
        setattr(self, name, value)  # later calls cost no more than the loop's own
        return value

    async def create_connection(
        self, factory: Callable[[], Any], host: str, port: int, *, ssl: Any = None, **options: Any
    ) -> Any:
        """As the loop's, to the first address of `host` that answers."""
        if ssl is not None:
            options |= {"ssl": ssl, "server_hostname": options.get("server_hostname") or host}
        if _is_address(host):
            return await self._loop.create_connection(factory, host, port, **options)
        failed: OSError = socket.gaierror(socket.EAI_NONAME, "no address found")
        for address in await _addresses(host, port):
            try:
                return await self._loop.create_connection(factory, address, port, **options)
            except OSError as error:
                failed = error
        raise failed


async def with_addresses(options: Mapping[str, Any]) -> dict[str, Any]:
    """libpq's options with the addresses of the hosts, which psycopg would otherwise resolve
    itself.

    Raises:
        psycopg.OperationalError: no host could be resolved.
    """
    hosts, numbers, ports = (split(options, name) for name in ("host", "hostaddr", "port"))
    if not hosts or numbers:
        return dict(options)
    ports = ports * len(hosts) if len(ports) == 1 else ports or [""] * len(hosts)
    found: list[tuple[str, str, str]] = []
    failed: OSError | None = None
    for host, port in zip(hosts, ports, strict=True):
        if host.startswith("/") or _is_address(host):  # a socket has no address
            found.append((host, "" if host.startswith("/") else host, port))
            continue
        try:
            found += [(host, address, port) for address in await _addresses(host, port or 5432)]
        except OSError as error:
            failed = error
    if not found:
        raise psycopg.OperationalError(
            f"failed to resolve host {','.join(hosts)!r}: {failed}"
        ) from failed
    names, addresses, ports = (",".join(column) for column in zip(*found, strict=True))
    return {**options, "host": names, "hostaddr": addresses, "port": ports}
