"""Checks of the server: one query reads the facts, each check judges some of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from aiodurable.checkpoints.pool import RUN_CONNECTIONS
from aiodurable.cli.doctor.finding import Finding, fail, ok, warn
from aiodurable.locks.capacity import share
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.settings import Settings

__all__ = ["CHECKS", "Facts", "clock", "facts_of"]

_SQL = load("doctor")
_SKEW_S = 2.0

_TOO_SHORT_S = {
    "statement_timeout": 10,
    "lock_timeout": 2,
    "transaction_timeout": 30,
    "idle_in_transaction_session_timeout": 10,
    "idle_session_timeout": 60,
}
"""Seconds below which a time limit of the role or the server ends healthy work. Lock sessions set
their own limits.
"""

_NAMES = (
    *_TOO_SHORT_S,
    "fsync",
    "full_page_writes",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "reserved_connections",
    "server_encoding",
    "superuser_reserved_connections",
    "synchronous_commit",
    "tcp_keepalives_idle",
    "transaction_read_only",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about the server, as this role and database see it.

    Attributes:
        settings: by name, times in the units of `pg_settings`; without settings that the server
            does not know.
        version, version_num: the server's version.
        standby: whether it is in recovery.
        over_tcp: whether the connection uses TCP.
        backends: the number of its connections.
        role_limit, database_limit: the connection limits of this role and database; -1: none.
        locks: the used slots of its lock table.
        sessions: aiodurable's lock sessions on it, of all processes including this one.
    """

    settings: Mapping[str, str]
    version: str
    version_num: int
    standby: bool
    over_tcp: bool
    backends: int
    role_limit: int
    database_limit: int
    locks: int
    sessions: int

    def number(self, name: str) -> int:
        """A setting as a number; 0 if the server does not know it."""
        return int(self.settings.get(name, "0"))


async def facts_of(database: PsycopgPool) -> Facts:
    """Read all facts."""
    settings = await database.fetch(_SQL["settings"], list(_NAMES))
    [facts] = await database.fetch(_SQL["facts"])
    facts["version"] = _text(facts["version"])
    return Facts(settings={_text(row["name"]): _text(row["setting"]) for row in settings}, **facts)


def _text(value: str | bytes) -> str:
    """Decode a text: in a database with SQL_ASCII psycopg returns bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def version(facts: Facts, _: Settings) -> Finding:
    """At least Postgres 14, which introduced `idle_session_timeout`."""
    if facts.version_num < 140000:
        return fail(
            "version",
            f"Postgres {facts.version}",
            "upgrade to 14 or newer: older versions cannot hold leases",
        )
    return ok("version", f"Postgres {facts.version}")


def primary(facts: Facts, _: Settings) -> Finding:
    """Not a standby: it accepts no writes, and its advisory locks exclude nobody on the primary."""
    if facts.standby:
        return fail(
            "primary",
            "this is a standby",
            "name the primary, or add target_session_attrs=read-write to the DSN",
        )
    if facts.settings["transaction_read_only"] == "on":
        return fail(
            "primary",
            "this role or database is read-only (default_transaction_read_only)",
            "use a role that may write, or ALTER ROLE … SET default_transaction_read_only = off",
        )
    return ok("primary", "it accepts writes")


def encoding(facts: Facts, _: Settings) -> Finding:
    """UTF8, because thread ids and states are Unicode."""
    found = facts.settings["server_encoding"]
    if found != "UTF8":
        return fail(
            "encoding",
            f"the encoding of the database is {found}",
            "create it with ENCODING 'UTF8': states are Unicode",
        )
    return ok("encoding", found)


def durability(facts: Facts, _: Settings) -> Finding:
    """Acknowledged writes survive a crash of the server's machine."""
    off = [
        name
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if facts.settings[name] == "off"
    ]
    if off:
        return warn(
            "durability",
            f"{', '.join(off)} off",
            "switch it on, except for tests: a crash of the server's machine can lose acknowledged"
            " checkpoints",
        )
    return ok("durability", f"fsync on, synchronous_commit {facts.settings['synchronous_commit']}")


def timeouts(facts: Facts, _: Settings) -> Finding:
    """No time limit of this role or the server ends healthy work."""
    short = [
        f"{name} = {facts.number(name) / 1000:g} s"
        for name, least in _TOO_SHORT_S.items()
        if 0 < facts.number(name) < least * 1000
    ]
    if short:
        bounds = ", ".join(
            f"{name} {least} s"
            for name, least in _TOO_SHORT_S.items()
            if any(name in s for s in short)
        )
        return warn(
            "timeouts",
            ", ".join(short),
            f"raise it with ALTER ROLE … SET to at least {bounds}, or to 0, which is no limit",
        )
    return ok("timeouts", "no time limit of this role ends healthy work")


def connections(facts: Facts, settings: Settings) -> Finding:
    """The server has enough connections for one more process with these settings."""
    holder_lookup = 1
    wanted = (
        settings.lock_connections
        + holder_lookup
        + settings.checkpoint_connections
        + RUN_CONNECTIONS
        + settings.pool_max_size
    )
    reserved = facts.number("superuser_reserved_connections") + facts.number("reserved_connections")
    most = facts.number("max_connections")
    free = max(0, most - reserved - facts.backends)
    found = f"{facts.backends} of {most} in use, a process opens up to {wanted}"
    limits = [limit for limit in (facts.role_limit, facts.database_limit) if limit >= 0]
    if limits and min(limits) < wanted:
        return warn(
            "connections",
            f"{found}, but this role or database may have only {min(limits)}",
            "lower pool_max_size (AIODURABLE_POOL_MAX_SIZE), or raise CONNECTION LIMIT of the role"
            " or database",
        )
    if free < wanted:
        return warn(
            "connections",
            f"{found}, {free} free",
            "lower pool_max_size (AIODURABLE_POOL_MAX_SIZE), use a pooler for dsn, or raise"
            " max_connections",
        )
    return ok("connections", found)


def lock_table(facts: Facts, _: Settings) -> Finding:
    """The lock table has free slots. All databases share it: if it is full, all of them fail."""
    slots = facts.number("max_locks_per_transaction") * (
        facts.number("max_connections") + facts.number("max_prepared_transactions")
    )
    found = (
        f"{facts.locks} of {slots} slots in use; aiodurable uses up to {slots // 2}, and one more"
        f" lock session could use {share(slots, facts.sessions)} of these"
    )
    advice = "raise max_locks_per_transaction and restart Postgres, or hold fewer locks at a time"
    if facts.locks >= slots * 9 // 10:
        return fail("lock table", found, f"{advice}: a full lock table stops every database")
    if facts.locks >= slots // 2:
        return warn("lock table", found, advice)
    return ok("lock table", found)


def keepalives(facts: Facts, _: Settings) -> Finding:
    """The server soon notices a client that vanished, whose pool connection may hold row locks."""
    if not facts.over_tcp:
        return ok("keepalives", "not needed on a unix socket")
    idle = facts.number("tcp_keepalives_idle")
    if idle > 900:  # our sessions set their own, unless they are a pooler's
        return warn(
            "keepalives",
            f"tcp_keepalives_idle is {idle} s: if a pooler's host vanishes in a transaction, its"
            " row locks stay that long",
            "set tcp_keepalives_idle = 60 on the server",
        )
    return ok("keepalives", f"tcp_keepalives_idle {idle} s")


CHECKS: tuple[Callable[[Facts, Settings], Finding], ...] = (
    version,
    primary,
    encoding,
    durability,
    timeouts,
    connections,
    lock_table,
    keepalives,
)
"""The checks in the order of their findings."""


def _now() -> datetime:
    return datetime.now(UTC)


async def clock(database: PsycopgPool, now: Callable[[], datetime] = _now) -> Finding:
    """This host's clock is close to the server's. Leases do not need that; checkpoint ids and ages
    do.
    """
    await database.fetch(_SQL["now"])  # connects, so that the measurement does not include it
    began, before = time.monotonic(), now()
    [row] = await database.fetch(_SQL["now"])
    took = time.monotonic() - began
    ahead = (before - row["now"]).total_seconds() + took / 2
    found = (
        f"this host is {abs(ahead):.3f} s {'ahead of' if ahead > 0 else 'behind'} the server, ±"
        f" {took / 2:.3f} s"
    )
    if abs(ahead) - took / 2 > _SKEW_S:
        return warn(
            "clock",
            found,
            "synchronise the clocks (NTP): ages are wrong, and a host whose clock is behind cannot"
            " resume a thread until its clock catches up",
        )
    return ok("clock", found)
