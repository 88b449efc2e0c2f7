"""Parses the text that a user gave into a `Dsn`."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote

from psycopg import Error, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from aiodurable.dsn.asyncpg_options import asyncpg_options, is_dropped, refused, split
from aiodurable.dsn.libpq_files import known_options, service_options
from aiodurable.errors import ConfigurationError
from aiodurable.models import Compression

__all__ = ["Dsn", "Hidden", "PasswordFunction", "direct_dsn", "parse_dsn"]

PasswordFunction = Callable[[], str | Awaitable[str]]
"""Gives the password of one new connection. It may be async."""

_SCHEME = re.compile(r"postgres(?:ql)?(?:\+\w+)?://")
_SECRET = {"password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"}
_COSMETIC = _SECRET | {
    "passfile",
    "application_name",
    "fallback_application_name",
    "connect_timeout",
    "service",
}
_ENOUGH = ("host", "hostaddr", "port", "dbname", "user", "service")


class Hidden(str):
    """Text that crash reporters do not show: they print the `repr` of variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"


@dataclass(frozen=True)
class Dsn:
    """The address of a database, for both drivers. Printing it shows no password.

    Attributes:
        conninfo: for psycopg; includes the environment and the service file. It holds the password.
        safe: user, host, port and database, for messages.
        identity: equal for two DSNs with the same server, database, user and session options.
        dropped: libpq options that do not apply to asyncpg's connections.
        password: gives the password of each new connection, in place of the one above; None: that
            one applies.
        schema: the only schema of the search path; None: the search path of the role applies.
        compression: of large values that its connections write.
    """

    conninfo: str = field(repr=False)
    safe: str = field(compare=False)
    identity: tuple[tuple[str, str], ...] = field(repr=False)
    dropped: tuple[str, ...] = ()
    password: PasswordFunction | None = field(default=None, repr=False, compare=False)
    schema: str | None = None
    compression: Compression = "auto"

    def __str__(self) -> str:
        return self.safe

    @property
    def psycopg(self) -> dict[str, str]:
        """libpq's options by name. They hold the password."""
        return {name: str(value) for name, value in conninfo_to_dict(self.conninfo).items()}

    @property
    def asyncpg(self) -> dict[str, Any]:
        """Keyword arguments for `asyncpg.connect`: a new dictionary each time. It holds the
        password.
        """
        return asyncpg_options(self.psycopg)


def parse_dsn(
    dsn: str | None = None,
    *,
    password: PasswordFunction | None = None,
    schema: str | None = None,
    compression: Compression = "auto",
    purpose: str = "Postgres",
    environ: Mapping[str, str] | None = None,
) -> Dsn:
    """Parse `dsn`, else `AIODURABLE_DSN`, else `DATABASE_URL`, else the `PG*` variables.

    A URI (also SQLAlchemy's, `postgresql+psycopg://`) or `key=value`. As in libpq, the service file
    and the `PG*` variables complete it. An option that cannot apply to asyncpg's connections gives
    a `UserWarning`.

    Args:
        dsn: the argument that the user gave, if any.
        password: gives the password of each new connection; None: that of the DSN applies.
        schema: the only schema of the search path, as `Settings.schema` checked it; None: the
            search path of the role, or of the DSN's options.
        compression: of large values that its connections write.
        purpose: what it is for, in error messages.
        environ: in place of the process's environment.

    Raises:
        ConfigurationError: no DSN was given, it cannot be parsed, or it asks for safety that
            asyncpg cannot give, or `password` cannot be called. The message never quotes the DSN.
    """
    if password is not None and not callable(password):
        raise ConfigurationError(
            "cannot use password: it must be a function that returns the password; a password that"
            " never changes belongs into the DSN"
        )
    environ = os.environ if environ is None else environ
    text, source = dsn, "the DSN"
    for name in ("AIODURABLE_DSN", "DATABASE_URL"):
        if not text:
            text, source = environ.get(name), name
    given = _parse(text.strip(), source) if text else {}
    options = _complete(given, environ)
    if not any(options.get(name) for name in _ENOUGH):
        raise ConfigurationError(
            f"cannot find a DSN for {purpose}: pass dsn='postgresql://user@host/database', or set"
            " AIODURABLE_DSN, DATABASE_URL or libpq's PGHOST, PGDATABASE, PGUSER …"
        )
    options.setdefault("user", _os_user())
    if schema is not None and (path := f'-csearch_path="{schema}"') not in options.get(
        "options", ""
    ):
        options["options"] = f"{options.get('options', '')} {path}".strip()
    _check(options, source if text else "the PG* variables")
    dropped = tuple(sorted(name for name, value in options.items() if is_dropped(name, value)))
    if dropped:
        warnings.warn(
            f"{', '.join(dropped)} in {source} does not apply to the connections for locks and"
            " checkpoint writes: asyncpg has no such option",
            stacklevel=2,
        )
    # asyncpg speaks nothing else; with the encoding of an SQL_ASCII database psycopg would return
    # bytes for text.
    options["client_encoding"] = "utf8"
    return Dsn(
        conninfo=Hidden(make_conninfo("", **options)),
        safe=_safe(options),
        identity=tuple(
            sorted((name, value) for name, value in options.items() if not _is_cosmetic(name))
        ),
        dropped=dropped,
        password=password,
        schema=schema,
        compression=compression,
    )


def direct_dsn(dsn: Dsn, lock_dsn: str | None) -> Dsn:
    """The DSN for what needs a session of its own: `lock_dsn` if the settings name one, with the
    same password function, schema and compression, else `dsn` itself.
    """
    if not lock_dsn:
        return dsn
    return parse_dsn(
        lock_dsn,
        password=dsn.password,
        schema=dsn.schema,
        compression=dsn.compression,
        purpose="the locks",
    )


def _parse(text: str, source: str) -> dict[str, str]:
    if scheme := _SCHEME.match(text):
        text = "postgresql://" + text[scheme.end() :]
        before_query = text.removeprefix("postgresql://").partition("?")[0]
        authority, _, path = before_query.partition("/")
        if authority.count("@") > 1 or "@" in path:
            # Parsed all the same, a part of the password would become the name of the host or the
            # database.
            raise ConfigurationError(
                f"cannot parse {source}: it has more than one @; write @ as %40, / as %2F, : as"
                " %3A, ? as %3F and # as %23 in user and password"
            )
    elif "://" in text or "=" not in text:
        raise ConfigurationError(
            f"cannot parse {source}: it must be postgresql://user:password@host:port/database or"
            " key=value pairs"
        )
    try:
        return {
            name: str(value) for name, value in conninfo_to_dict(text).items() if value is not None
        }
    except Error as error:
        # Without its cause: libpq quotes what it could not parse, and that may be the password.
        raise ConfigurationError(f"cannot parse {source}: {_why(str(error))}") from None


def _why(message: str) -> str:
    if "percent" in message:
        return "a % must be followed by two hexadecimal digits; write a plain % as %25"
    if unknown := re.search(
        r'invalid (?:connection option|URI query parameter:?) "(\w+)"', message
    ):
        known = get_close_matches(unknown[1], known_options(), n=1)
        return "it has an option that libpq does not know" + (
            f"; did you mean {known[0]}?" if known else ""
        )
    if 'missing "="' in message or "unterminated quoted string" in message:
        return "spaces separate key=value pairs; put a value with spaces or quotes in single quotes"
    form = (
        "; it must be postgresql://user:password@host:port/database?option=value&…, with : / ? #"
        " and @ in user and password percent-encoded"
    )
    return re.sub(r'"[^"]*"', "…", message).strip() + (form if "URI" in message else "")


def _complete(given: dict[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Complete the options in libpq's order: those given, then the service file, then the
    environment.
    """
    options = dict(given)
    if service := given.get("service") or environ.get("PGSERVICE"):
        options = service_options(service, environ) | options | {"service": service}
    for option in pq.Conninfo.get_defaults():
        name, variable = option.keyword.decode(), (option.envvar or b"").decode()
        if variable and environ.get(variable):
            options.setdefault(name, environ[variable])
    return options


def _os_user() -> str:
    """The name that libpq uses; asyncpg would use LOGNAME."""
    for option in pq.Conninfo.get_defaults():
        if option.keyword == b"user" and option.val:
            return option.val.decode()
    return "postgres"


def _check(options: dict[str, str], source: str) -> None:
    if promise := refused(options):
        raise ConfigurationError(
            f"cannot use {source}: asyncpg cannot keep {promise} on the connections for locks and"
            " checkpoint writes; remove it, and use sslmode=verify-full with sslrootcert=system to"
            " be sure of the server"
        )
    for port in options.get("port", "").split(","):
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigurationError(
                f"cannot use {source}: its port is not a number from 1 to 65535; if the password"
                " contains : / ? # or @, percent-encode it"
            )
    timeout = options.get("connect_timeout", "0")
    if not re.fullmatch(r"-?\d+", timeout):
        raise ConfigurationError(f"cannot use {source}: connect_timeout must be whole seconds")
    hosts = max(split(options, "host"), split(options, "hostaddr"), key=len)
    if len(split(options, "port")) not in (0, 1, len(hosts)):
        raise ConfigurationError(
            f"cannot use {source}: give one port, or one for each of its {len(hosts)} hosts"
        )
    if (
        options.get("sslrootcert") == "system"
        and options.setdefault("sslmode", "verify-full") != "verify-full"
    ):
        raise ConfigurationError(
            f"cannot use {source}: sslrootcert=system needs sslmode=verify-full, for anybody can"
            " get a certificate"
        )


def _is_cosmetic(name: str) -> bool:
    return name in _COSMETIC or name.startswith("keepalives") or name == "tcp_user_timeout"


def _safe(options: Mapping[str, str]) -> str:
    hosts = split(options, "host") or split(options, "hostaddr") or [""]
    ports = (split(options, "port") or [""]) * len(hosts)
    places = ",".join(
        f"{quote(host, safe=':')}:{port}" if port else quote(host, safe=":")
        for host, port in zip(hosts, ports, strict=False)
    )
    user, database = options["user"], options.get("dbname") or options["user"]
    return f"postgresql://{quote(user)}@{places}/{quote(database)}"
