"""What was configured, before anybody is asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

from langgraph.checkpoint.serde._msgpack import (
    STRICT_MSGPACK_ENABLED,  # pyright: ignore[reportPrivateUsage]
)

from aiodurable.cli.doctor.finding import Finding, fail, ok, warn
from aiodurable.dsn import Dsn, direct_dsn, parse_dsn
from aiodurable.errors import ConfigurationError
from aiodurable.settings import Settings

__all__ = ["arithmetic", "read_dsn", "read_settings", "spelled", "types"]

_SHOWN = (
    "host",
    "hostaddr",
    "port",
    "dbname",
    "database",
    "user",
    "sslmode",
    "target_session_attrs",
    "timeout",
)
"""Options whose values may be printed. Of others the name is, for a password may hide in any of
them.
"""


def read_settings(environ: Mapping[str, str] | None = None) -> tuple[Settings, Finding]:
    """The settings of the environment; the defaults where those cannot work."""
    try:
        settings = Settings.from_env(environ)
    except ConfigurationError as error:
        return Settings(), fail("settings", str(error))
    return settings, arithmetic(settings)


def types(settings: Settings) -> Iterator[Finding]:
    """Which classes a run builds of what is stored."""
    if settings.strict_msgpack:
        more = ", and with those that are allowed" if settings.allowed_classes else ""
        yield ok("ledger types", f"runs are accepted with classes of the graph's schemas{more}")
    else:
        yield warn(
            "ledger types",
            "runs build any class that the ledger names: who writes into it can run code in them",
            "unset AIODURABLE_STRICT_MSGPACK; allow classes with"
            " AIODURABLE_ALLOWED_MSGPACK_MODULES",
        )
    if STRICT_MSGPACK_ENABLED:
        yield ok(
            "state types", "LANGGRAPH_STRICT_MSGPACK: runs build classes of the graph's schemas"
        )
    else:
        yield warn(
            "state types",
            "runs build any class that a checkpoint names: who writes there can run code in them",
            "set LANGGRAPH_STRICT_MSGPACK=true for each process, after `aiodurable check` with it",
        )


def arithmetic(settings: Settings) -> Finding:
    """What the times add up to."""
    stops = settings.lease_ttl_s - settings.lease_safety_margin_s
    found = (
        f"heard from every {settings.lease_heartbeat_s:g} s; a holder stops after {stops:g} s of"
        f" silence, the server frees its locks after {settings.lease_ttl_s:g} s; a lost lock may be"
        f" taken again for {settings.recovery_grace_s:g} s"
    )
    if settings.lease_heartbeat_s < 0.5:
        return warn(
            "settings",
            found,
            "lease_heartbeat_s under half a second is paid by every idle lock session: raise it",
        )
    if settings.recovery_grace_s > stops:
        return warn(
            "settings",
            found,
            f"recovery_grace_s beyond {stops:g} s lets runs go on long after others may have had"
            " their threads: lower it",
        )
    return ok("settings", found)


def read_dsn(dsn: str | None, settings: Settings) -> tuple[Dsn | None, Dsn | None, list[Finding]]:
    """The pool's way, the direct way, and what is to be said of both."""
    findings: list[Finding] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is dropped is a finding
        try:
            pool = parse_dsn(dsn)
        except ConfigurationError as error:
            return None, None, [fail("dsn", str(error))]
        findings.extend(_described("dsn", pool))
        try:
            direct = direct_dsn(pool, settings.lock_dsn)
        except ConfigurationError as error:
            return pool, None, [*findings, fail("lock_dsn", str(error))]
    if direct is not pool:
        findings.extend(_described("lock_dsn", direct))
    return pool, direct, findings


def _described(name: str, dsn: Dsn) -> Iterator[Finding]:
    try:
        asyncpg = dsn.asyncpg
    except (OSError, ValueError) as error:  # a certificate that is not there, or is none
        yield fail(
            name,
            f"{dsn.safe}: {type(error).__name__} while its files for TLS were read",
            "check their paths",
        )
        return
    asyncpg.pop("dsn", None)  # carries the options of TLS; libpq's spelling below shows them
    found = f"{dsn.safe}; psycopg: {spelled(dsn.psycopg)}; asyncpg: {spelled(asyncpg)}"
    if dsn.dropped:
        yield warn(
            name,
            f"{found}; without {', '.join(dsn.dropped)}",
            "asyncpg knows no such option: the connections for locks and checkpoints go without;"
            " take it out if that is right",
        )
    else:
        yield ok(name, found)


def spelled(options: Mapping[str, object]) -> str:
    """Options as `name=value`, without any value that might be a secret."""
    words = [
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in options.items()
        if name in _SHOWN
    ]
    words += [f"{name}=…" for name in options if name not in _SHOWN]
    return " ".join(words)
