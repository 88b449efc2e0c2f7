"""The two files libpq reads, services and passwords, by libpq's rules."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from psycopg import pq

from aiodurable.errors import ConfigurationError

__all__ = ["known_options", "password_for", "service_options"]


def known_options() -> list[str]:
    """The names that this libpq understands."""
    return [option.keyword.decode() for option in pq.Conninfo.get_defaults()]


def service_options(service: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What the service file says of `service`: the user's file, else the system's.

    Raises:
        ConfigurationError: no file has it, or one cannot be read.
    """
    files = [Path("~/.pg_service.conf").expanduser()]
    if chosen := environ.get("PGSERVICEFILE"):
        files = [Path(chosen)]
    if system := environ.get("PGSYSCONFDIR"):
        files.append(Path(system) / "pg_service.conf")
    for file in files:
        sections = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
        try:
            sections.read(file)
        except (configparser.Error, UnicodeDecodeError):
            raise ConfigurationError(
                f"the service file {file} cannot be read: it is no [service] and key=value"
            ) from None
        if sections.has_section(service):
            found = dict(sections[service])
            if unknown := found.keys() - set(known_options()):
                raise ConfigurationError(
                    f"service {service!r} in {file} has no such option: {', '.join(sorted(unknown))}"
                )
            return found
    raise ConfigurationError(
        f"wanted the service {service!r}, found it in none of {', '.join(map(str, files))}: name the file in PGSERVICEFILE"
    )


def password_for(passfile: str | None, addresses: Sequence[tuple[str, int]], database: str, user: str) -> str | None:
    """The first line of the password file that fits one of `addresses`; None if none does, or others may read the file.

    asyncpg reads the file too, but leaves the escapes of `:` and `\\` in the password.
    """
    file = Path(passfile) if passfile else Path("~/.pgpass").expanduser()
    try:
        if file.stat().st_mode & 0o077:
            return None
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for host, port in addresses:
        wanted = (("localhost", host) if host.startswith("/") else (host,), (str(port),), (database,), (user,))
        for line in lines:
            *fields, password = [re.sub(r"\\(.)", r"\1", part) for part in _fields(line)] or [""]
            if len(fields) == 4 and all(
                field == "*" or field in fits for field, fits in zip(fields, wanted, strict=True)
            ):
                return password
    return None


def _fields(line: str) -> list[str]:
    if line.startswith("#"):
        return []
    return [field for field, _ in re.findall(r"((?:\\.|[^:\\])*)(:|$)", line)][:5]
