"""Checks of the configuration, which need no connection."""

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
"""Options whose values may be printed. The value of any other option might be a secret."""


def read_settings(environ: Mapping[str, str] | None = None) -> tuple[Settings, Finding]:
    """The settings of the environment; the defaults if those are invalid."""
    try:
        settings = Settings.from_env(environ)
    except ConfigurationError as error:
        return Settings(), fail("settings", str(error))
    return settings, arithmetic(settings)


def types(settings: Settings) -> Iterator[Finding]:
    """Which classes a run may build from stored values."""
    if settings.strict_msgpack:
        more = " and allowed classes" if settings.allowed_classes else ""
        yield ok("ledger types", f"the ledger accepts classes of the graph's schemas{more}")
    else:
        yield warn(
            "ledger types",
            "runs build any class that the ledger names: a role that can write to it can run code"
            " in them",
            "unset AIODURABLE_STRICT_MSGPACK, and allow classes with"
            " AIODURABLE_ALLOWED_MSGPACK_MODULES",
        )
    if STRICT_MSGPACK_ENABLED:
        yield ok(
            "state types", "LANGGRAPH_STRICT_MSGPACK: runs build classes of the graph's schemas"
        )
    else:
        yield warn(
            "state types",
            "runs build any class that a checkpoint names: a role that can write checkpoints can"
            " run code in them",
            "run `aiodurable check` with LANGGRAPH_STRICT_MSGPACK=true, then set it for every"
            " process",
        )


def arithmetic(settings: Settings) -> Finding:
    """Whether the lease times fit together."""
    stops = settings.lease_ttl_s - settings.lease_safety_margin_s
    found = (
        f"heartbeat every {settings.lease_heartbeat_s:g} s; without one, the holder stops after"
        f" {stops:g} s and the server releases its locks after {settings.lease_ttl_s:g} s; a run"
        f" may recover a lost lock for {settings.recovery_grace_s:g} s"
    )
    if settings.lease_heartbeat_s < 0.5:
        return warn(
            "settings",
            found,
            "raise lease_heartbeat_s: under 0.5 s, every idle lock session costs too many"
            " statements",
        )
    if settings.recovery_grace_s > stops:
        return warn(
            "settings",
            found,
            f"lower recovery_grace_s to {stops:g} s at most: beyond that, a run goes on although"
            " another process may already hold its thread",
        )
    return ok("settings", found)


def read_dsn(dsn: str | None, settings: Settings) -> tuple[Dsn | None, Dsn | None, list[Finding]]:
    """The DSN of the pool, the DSN of the direct connections, and findings about both."""
    findings: list[Finding] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a finding reports the dropped options
        try:
            pool = parse_dsn(dsn, schema=settings.schema, compression=settings.compression)
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
    except (OSError, ValueError) as error:  # a certificate that is missing or invalid
        yield fail(
            name,
            f"cannot read the TLS files of {dsn.safe}: {type(error).__name__}",
            "check their paths and contents",
        )
        return
    asyncpg.pop("dsn", None)  # it holds the TLS options, which psycopg's list shows
    found = f"{dsn.safe}; psycopg: {spelled(dsn.psycopg)}; asyncpg: {spelled(asyncpg)}"
    if dsn.dropped:
        yield warn(
            name,
            f"{found}; asyncpg ignores {', '.join(dsn.dropped)}",
            "remove it from the DSN: the connections for locks and checkpoints, which use asyncpg,"
            " do not have it",
        )
    else:
        yield ok(name, found)


def spelled(options: Mapping[str, object]) -> str:
    """Options as `name=value`, with `…` for any value that might be a secret."""
    words = [
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in options.items()
        if name in _SHOWN
    ]
    words += [f"{name}=…" for name in options if name not in _SHOWN]
    return " ".join(words)
