"""The two files that libpq reads, for services and for passwords, by libpq's rules."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from psycopg import pq

from aiodurable.errors import ConfigurationError

__all__ = ["known_options", "password_for", "service_options"]


def known_options() -> list[str]:
    """The names of the options that this libpq knows."""
    return [option.keyword.decode() for option in pq.Conninfo.get_defaults()]


def service_options(service: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The options of `service`, from the user's service file or else the system's.

    Raises:
        ConfigurationError: no file contains it, or one cannot be parsed.
    """
    files = [Path("~/.pg_service.conf").expanduser()]
    if chosen := environ.get("PGSERVICEFILE"):
        files = [Path(chosen)]
    if system := environ.get("PGSYSCONFDIR"):
        files.append(Path(system) / "pg_service.conf")
    for file in files:
        sections = configparser.RawConfigParser(
            delimiters=("=",), comment_prefixes=("#",), strict=False
        )
        try:
            sections.read(file)
        except (configparser.Error, UnicodeDecodeError):
            raise ConfigurationError(
                f"cannot read the service file {file}: it must hold [service] headings and"
                " key=value lines"
            ) from None
        if sections.has_section(service):
            found = dict(sections[service])
            if unknown := found.keys() - set(known_options()):
                raise ConfigurationError(
                    f"cannot use service {service!r} in {file}: libpq has no option"
                    f" {', '.join(sorted(unknown))}"
                )
            return found
    raise ConfigurationError(
        f"cannot find the service {service!r} in {', '.join(map(str, files))}: add it, or name its"
        " file in PGSERVICEFILE"
    )


def password_for(
    passfile: str | None, addresses: Sequence[tuple[str, int]], database: str, user: str
) -> str | None:
    """The password of the first line that fits one of `addresses`; None if no line does, or others
    may read the file.

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
        wanted = (
            ("localhost", host) if host.startswith("/") else (host,),
            (str(port),),
            (database,),
            (user,),
        )
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
