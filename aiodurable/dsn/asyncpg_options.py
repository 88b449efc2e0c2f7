"""libpq's options as arguments of `asyncpg.connect`."""

from __future__ import annotations

import random
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from aiodurable.dsn.libpq_files import password_for

__all__ = ["asyncpg_options", "is_dropped", "refused", "split"]

_TLS = [
    "sslmode",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
]
_SAME = ("user", "password", "passfile", "target_session_attrs", "krbsrvname", "gsslib")
_ELSEWHERE = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "options",
    "application_name",
    "fallback_application_name",
    "connect_timeout",
    "load_balance_hosts",
    "service",
]
_REFUSED = {
    "channel_binding": ("require",),
    "gssencmode": ("require",),
    "requirepeer": None,
    "require_auth": None,
    "sslcertmode": ("require", "disable"),
    "replication": None,
}
"""Options that promise what asyncpg cannot keep: with these values, or (None) with any."""

_DEFAULTS = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "sslcertmode": ("allow",),
    "client_encoding": ("auto", "utf8", "UTF8", "utf-8", "UTF-8"),
    "sslcompression": ("0",),
    "sslsni": ("1",),
    "gssdelegation": ("0",),
}
"""Values that ask for no more than asyncpg does anyway: left out without a warning."""


def refused(options: Mapping[str, str]) -> str | None:
    """The first option that asks for a safety asyncpg cannot give, as `name=value`."""
    for name, values in _REFUSED.items():
        value = options.get(name)
        if value and (values is None or value in values):
            return f"{name}={value}"
    return None


def is_dropped(name: str, value: str) -> bool:
    """Whether this option has a meaning, but does not apply to asyncpg's connections."""
    return name not in (*_TLS, *_SAME, *_ELSEWHERE) and value not in _DEFAULTS.get(name, ())


def split(options: Mapping[str, str], name: str) -> list[str]:
    """The comma-separated parts of an option; none if it is missing."""
    return options[name].split(",") if options.get(name) else []


def _addresses(options: Mapping[str, str], *, named: bool = False) -> list[tuple[str, int]]:
    names, numbers = split(options, "host"), split(options, "hostaddr")
    # By name also where TLS verifies the name: asyncpg compares the certificate with what it
    # connects to.
    named = named or options.get("sslmode") == "verify-full"
    hosts = (names or numbers) if named else (numbers or names)
    ports = split(options, "port") or [""]
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return [(host, int(port or 5432)) for host, port in zip(hosts, ports, strict=True)]


def asyncpg_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Keyword arguments with which `asyncpg.connect` connects as libpq would with `options`."""
    wanted: dict[str, Any] = {name: options[name] for name in _SAME if options.get(name)}
    wanted["database"] = options.get("dbname") or options["user"]
    if addresses := _addresses(options):
        if options.get("load_balance_hosts") == "random":
            random.shuffle(addresses)
        wanted["host"], wanted["port"] = ([*column] for column in zip(*addresses, strict=True))
    elif port := options.get("port"):
        wanted["port"] = int(port)
    if "password" not in wanted:
        password = _from_passfile(options)
        wanted |= {"password": password} if password is not None else {}
    if (seconds := int(options.get("connect_timeout", "0"))) > 0:
        # libpq's applies to each host and is at least 2 seconds; asyncpg's applies to all hosts
        # together.
        wanted["timeout"] = float(max(2, seconds) * max(1, len(addresses)))
    settings = {"options": options.get("options")}
    settings["application_name"] = options.get("application_name") or options.get(
        "fallback_application_name"
    )
    if settings := {name: value for name, value in settings.items() if value}:
        wanted["server_settings"] = settings
    return wanted | _tls(options)


def _from_passfile(options: Mapping[str, str]) -> str | None:
    # The file names a host if it has a name, and calls the default socket localhost.
    named = _addresses(options, named=True) or [("localhost", int(options.get("port", "5432")))]
    return password_for(
        options.get("passfile"), named, options.get("dbname") or options["user"], options["user"]
    )


def _tls(options: Mapping[str, str]) -> dict[str, Any]:
    wanted = {name: options[name] for name in _TLS if options.get(name)}
    if wanted.get("sslrootcert") != "system":
        # asyncpg accepts these only in its URI.
        return {"dsn": "postgresql://?" + urlencode(wanted, quote_via=quote)} if wanted else {}
    # `system` is libpq's name for the system's roots; asyncpg would open a file of that name.
    context = ssl.create_default_context()
    if certificate := wanted.get("sslcert"):
        context.load_cert_chain(
            certificate, wanted.get("sslkey"), lambda: wanted.get("sslpassword", "")
        )
    for name, attribute in (
        ("ssl_min_protocol_version", "minimum_version"),
        ("ssl_max_protocol_version", "maximum_version"),
    ):
        if version := wanted.get(name):
            setattr(context, attribute, ssl.TLSVersion[version.replace(".", "_")])
    if crl := wanted.get("sslcrl"):
        context.load_verify_locations(crl)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    if wanted.get("sslnegotiation") == "direct":
        context.set_alpn_protocols(["postgresql"])
        return {"ssl": context, "direct_tls": True}
    return {"ssl": context}
