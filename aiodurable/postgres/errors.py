"""What the errors of either driver mean: the server is away, it refused us, or this role may not do what was asked."""

from __future__ import annotations

import errno
import os
import socket

import asyncpg
import psycopg

from aiodurable.dsn import Dsn
from aiodurable.errors import AiodurableError, ConfigurationError, OutOfResourcesError, PostgresUnavailableError

__all__ = ["DRIVER_ERRORS", "is_disconnect", "is_refusal", "not_allowed", "out_of_resources", "unavailable"]

DRIVER_ERRORS = (psycopg.Error, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What either driver raises by itself. Their texts may quote what is stored: log the type, not the text."""

_DISCONNECTED = ("08", "57P")
"""SQLSTATE classes that say the connection is gone or refused: connection exceptions; shutdown, crash, starting up."""

_BROKEN = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a statement between the server's farewell and the end of the connection
    OSError,
    TimeoutError,
)
"""What the drivers raise, without a SQLSTATE, when a connection cannot be used any more."""


driver_errors = (psycopg.Error, asyncpg.PostgresError, *_BROKEN)
"""All that either driver raises by itself."""


def is_disconnect(error: BaseException) -> bool:
    """Whether a driver's error means that the server is not there, rather than that it refused a statement."""
    state: str | None = getattr(error, "sqlstate", None)
    if state is not None:
        return state.startswith(_DISCONNECTED)
    return isinstance(error, _BROKEN)


def is_refusal(error: BaseException | None) -> bool:
    """Whether the server is there but refuses this user, password or database: no waiting helps."""
    text = str(error)  # psycopg gives no SQLSTATE for what fails before there is a connection
    return (
        getattr(error, "sqlstate", None) in ("28P01", "28000", "3D000")
        or "password" in text
        or ("does not exist" in text and ('role "' in text or 'database "' in text))
    )


def is_out_of_connections(error: BaseException) -> bool:
    """Whether the server is there but has no connection left."""
    text = str(error)  # psycopg gives no SQLSTATE for what fails before there is a connection
    return getattr(error, "sqlstate", None) == "53300" or "too many c" in text or "connection slots" in text


def not_allowed(error: BaseException, dsn: Dsn) -> AiodurableError | None:
    """The error to raise where the server is there and what was asked is not for this role, or not for this database; None:
    not that.

    Either driver's text names what it is about (a table, a kind of statement), never a value.
    """
    match getattr(error, "sqlstate", None):
        case "42501":
            return ConfigurationError(
                f"the role of {dsn.safe} lacks a right ({_first_line(error)}): grant it; `aiodurable doctor` tells all "
                "that are missing"
            )
        case "25006":
            return PostgresUnavailableError(
                f"wanted to write to {dsn.safe}, found it read-only ({_first_line(error)}): is it a standby, or "
                "default_transaction_read_only set for this role or database?"
            )
        case "22P05":  # the driver's text has the character
            return ConfigurationError(
                f"a text has a character that the encoding of {dsn.safe} lacks (it is not UTF8; `aiodurable doctor` names "
                "it): use a thread_id and values that it has, or a database created with ENCODING 'UTF8'"
            )
        case _:
            return out_of_resources(error, dsn)


_ADVICE = {
    "disk": "the server's disk is full; make room there",
    "memory": "the server is out of memory; try again, or give it more",
    "locks": "the server's lock table is full; hold fewer locks at a time, or raise max_locks_per_transaction and restart "
    "Postgres",
    "connections": "no connection is left; open fewer, or raise max_connections or the CONNECTION LIMIT of this role or "
    "database",
    "descriptors": "this process has no file descriptor left; close some, or raise its limit (ulimit -n)",
}


def out_of_resources(error: BaseException, dsn: Dsn) -> OutOfResourcesError | None:
    """The error to raise where something has run out, at the server or here; None: not that."""
    resource = _run_out(error)
    if resource is None:
        return None
    return OutOfResourcesError(
        f"{dsn.safe} could not do what it was asked ({type(error).__name__}): {_ADVICE[resource]}", resource=resource
    )


def _run_out(error: BaseException) -> str | None:
    state = getattr(error, "sqlstate", None)
    if state == "53100":
        return "disk"
    if state == "53200":
        hint = f"{getattr(error, 'hint', '')} {error}"  # asyncpg has it apart; a setting's name is in no language
        return "locks" if "max_locks_per_transaction" in hint else "memory"
    if is_out_of_connections(error):
        return "connections"
    # psycopg says of it no more than that no connection was had, and a resolver that the name is unknown.
    return (
        "descriptors"
        if state is None and isinstance(error, OSError | psycopg.OperationalError) and _none_left()
        else None
    )


def _none_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def unavailable(error: BaseException, dsn: Dsn) -> AiodurableError:
    """The error to raise, from a driver's own, when `dsn` could not be reached: what was wanted, found, and what to do."""
    if (refused := not_allowed(error, dsn)) is not None:
        return refused
    state: str | None = getattr(error, "sqlstate", None)
    text = str(error)
    if is_refusal(error):
        if state == "3D000" or 'database "' in text:
            advice = "the server is there but has no such database; create it or name another"
        else:
            advice = "the server refused this user and password; check both, and pg_hba.conf"
    elif "unsupported startup parameter" in text:
        advice = (
            "a pooler refuses an option of this DSN; take it out, or name it in PgBouncer's ignore_startup_parameters"
        )
    elif isinstance(error, socket.gaierror) or "resolve" in text or "Name or service not known" in text:
        advice = "the host name cannot be resolved; check its spelling"
    elif isinstance(error, TimeoutError) or "timeout" in text:
        advice = "no answer in time; check the host, the port and any firewall in between"
    else:
        advice = "is it running, and are host and port right?"
    # The driver's text is the cause's, not ours to repeat: it may quote what it was given.
    return PostgresUnavailableError(f"wanted a connection to {dsn.safe}, found {type(error).__name__}: {advice}")
