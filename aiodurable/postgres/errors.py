"""The one map from the errors of both drivers to ours: what they mean and which error says so."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg
import psycopg

from aiodurable.dsn import Dsn
from aiodurable.errors import (
    AiodurableError,
    ConfigurationError,
    OutOfResourcesError,
    PostgresUnavailableError,
    StatementRefusedError,
)

__all__ = [
    "DRIVER_FAILURES",
    "PasswordFunctionError",
    "is_bad_value",
    "is_conflict",
    "is_disconnect",
    "is_out_of_connections",
    "is_refusal",
    "is_rule",
    "is_transient",
    "shown_cause",
    "to_denied",
    "to_out_of_resources",
    "to_refused",
    "to_unavailable",
    "translate",
    "was_ended",
]

DRIVER_FAILURES: Final = (
    psycopg.Error,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # TimeoutError is one
)
"""Everything that either driver raises by itself. The texts may quote stored values: log the type,
not the text.
"""


class PasswordFunctionError(psycopg.OperationalError):
    """The caller's password function gave no password. Its own error, which may quote one, is only
    the cause.
    """


_DISCONNECTED: Final = ("08", "57P", "25P03")
"""SQLSTATEs, or their classes, of a connection that is gone or refused: connection exceptions;
shutdown, crash, starting up; a session that was silent in a transaction for too long.
"""

_BROKEN: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    asyncpg.InterfaceError,
    # a statement between the server's last message and the end of the connection
    asyncpg.InternalClientError,
    OSError,
)
"""What the drivers raise without a SQLSTATE when a connection can no longer be used."""


def is_bad_value(error: BaseException) -> bool:
    """Whether a statement met a value that it cannot read: text where a number should be, a list
    for an object.
    """
    state: str | None = getattr(error, "sqlstate", None)
    return state is not None and state.startswith("22")


def is_disconnect(error: BaseException) -> bool:
    """Whether a driver's error means that the server is gone, rather than that it refused a
    statement.
    """
    state: str | None = getattr(error, "sqlstate", None)
    if state is not None:
        return state.startswith(_DISCONNECTED)
    return isinstance(error, _BROKEN)


def was_ended(error: BaseException | None) -> bool:
    """Whether the server had accepted the connection and then ended it: an administrator's word,
    or a crash. Not where it cannot be reached, or is not ready.
    """
    ended = ("57P01", "57P02", "08003", "08006")
    if isinstance(error, asyncpg.InterfaceError):  # between two statements: it has no SQLSTATE
        return "connection is closed" in str(error)
    return getattr(error, "sqlstate", None) in ended


def is_transient(error: BaseException) -> bool:
    """Whether the same statement may succeed later: a deadlock, a conflict, a lock or a resource
    that another one has, an operator's word, a server that is gone.
    """
    state: str | None = getattr(error, "sqlstate", None)
    passing = state is not None and state.startswith(("40", "53", "55", "57"))
    return passing or (isinstance(error, DRIVER_FAILURES) and is_disconnect(error))


def is_conflict(error: BaseException) -> bool:
    """Whether another transaction was in the way: a deadlock, a serialization failure, or a lock
    that was not granted in time. The same statement may succeed at once.
    """
    return getattr(error, "sqlstate", None) in ("40001", "40P01", "55P03")


def is_rule(error: BaseException) -> bool:
    """Whether a constraint or a trigger of the operator's own refused a statement, which breaks
    none of ours. A function may raise any SQLSTATE.
    """
    state: str | None = getattr(error, "sqlstate", None)
    if state is None:
        return False
    raised = _raised_in(error) is not None and not is_transient(error)
    return raised or state.startswith(("09", "23", "27", "44", "P0"))


def shown_cause(error: BaseException) -> BaseException | None:
    """The driver's error as the cause of ours, which a traceback shows. None: its text may quote
    the row, as a function raised it, or its context has the parameters of the statement
    (`log_parameter_max_length_on_error`).
    """
    return None if _context(error) else error


def is_refusal(error: BaseException | None) -> bool:
    """Whether the server is there but refuses this user, password or database: no waiting helps."""
    if isinstance(error, PasswordFunctionError):
        return False
    text = str(error)  # psycopg gives no SQLSTATE for what fails before there is a connection
    return (
        getattr(error, "sqlstate", None) in ("28P01", "28000", "3D000")
        or "password" in text
        or ("does not exist" in text and ('role "' in text or 'database "' in text))
    )


def is_out_of_connections(error: BaseException) -> bool:
    """Whether the server is there but has no connection left."""
    state: str | None = getattr(error, "sqlstate", None)
    if state is not None:  # the text may be that of a trigger's function
        return state == "53300"
    text = str(error)  # psycopg gives no SQLSTATE for what fails before there is a connection
    return "too many c" in text or "connection slots" in text


def to_denied(error: BaseException, dsn: Dsn) -> AiodurableError | None:
    """The error that says what a live server refused: a missing right, a read-only database, an
    unknown character, or a resource that ran out. None: none of these.

    Either driver's text names what it is about (a table, a kind of statement), never a value,
    unless a function raised it: then it is none of these.
    """
    if is_rule(error):
        return None
    match getattr(error, "sqlstate", None):
        case "42501":
            return ConfigurationError(
                f"cannot use {dsn.safe}: its role lacks a right ({_first_line(error)}); grant it,"
                " `aiodurable doctor` lists every missing one"
            )
        case "25006":
            return PostgresUnavailableError(
                f"cannot write to {dsn.safe}: it is read-only ({_first_line(error)}); is it a"
                " standby, or is default_transaction_read_only set for this role or database?"
            )
        case "22P05":  # the driver's text contains the character
            return ConfigurationError(
                f"cannot store a text in {dsn.safe}: the database's encoding lacks one of its"
                " characters (it is not UTF8; `aiodurable doctor` names it); use a thread_id and"
                " values within that encoding, or a database created with ENCODING 'UTF8'"
            )
        case _:
            return to_out_of_resources(error, dsn)


def to_refused(error: BaseException, what: str) -> StatementRefusedError:
    """The error for a statement that a live server refused. It says by which rule, and nothing of
    the driver's text, which quotes the row.

    Raise it `from None`: a traceback would show the driver's text.

    Args:
        error: the driver's, or a `StatementRefusedError`.
        what: what could not be done.
    """
    if isinstance(error, StatementRefusedError):
        return error
    said = getattr(error, "diag", error)  # psycopg's and asyncpg's names are the same there
    sent = getattr(said, "severity", None) is not None  # asyncpg's own errors have a SQLSTATE, too
    state: str | None = getattr(error, "sqlstate", None) if sent else None
    constraint: str | None = getattr(said, "constraint_name", None)
    table: str | None = getattr(said, "table_name", None)
    function = _raised_in(error)
    kind = f"{type(error).__name__}{'' if state is None else f', SQLSTATE {state}'}"
    if constraint:
        by = f"constraint {constraint!r}" + (f" of table {table!r}" if table else "")
    elif function:
        by = f"function {function}"
    elif is_rule(error):
        by = "a constraint or a trigger"
    else:
        by = "the driver" if state is None else "Postgres"
    if is_rule(error):
        advice = "change that rule, or what breaks it"
    elif state is None:
        advice = "it cannot send one of the values"
    elif is_transient(error):
        advice = "try again, it may pass"
    else:
        advice = "check the schema and this role's rights"
    log = "" if state is None else ". The server's log has the text, which may quote the row"
    return StatementRefusedError(
        f"{what}: {by} refused it ({kind}). Nothing was written; {advice}{log}",
        sqlstate=state,
        constraint=constraint,
        table=table,
        function=function,
    )


def _context(error: BaseException) -> str:
    said = getattr(error, "diag", error)  # psycopg's and asyncpg's names are the same there
    return getattr(said, "context", None) or ""


def _raised_in(error: BaseException) -> str | None:
    """The PL/pgSQL function that an error's context names, the innermost first. Other lines of it
    quote statements.
    """
    found = re.search(
        r'^[^"\n(]*PL/pgSQL[^"\n(]*?([\w.$]+\([^"\n)]*\))', _context(error), re.MULTILINE
    )
    return None if found is None else found[1]


_ADVICE: Final = {
    "disk": "the server's disk is full; free some space",
    "memory": "the server is out of memory; try again, or give it more",
    "locks": (
        "the server's lock table is full; hold fewer locks at a time, or raise"
        " max_locks_per_transaction and restart Postgres"
    ),
    "connections": (
        "no connection is left; open fewer, or raise max_connections or the CONNECTION LIMIT of"
        " this role or database"
    ),
    "descriptors": (
        "this process has no file descriptor left; close some, or raise its limit (ulimit -n)"
    ),
}


def to_out_of_resources(error: BaseException, dsn: Dsn) -> OutOfResourcesError | None:
    """The error that says which resource ran out, at the server or in this process. None: none
    did.
    """
    resource = _exhausted(error)
    if resource is None:
        return None
    return OutOfResourcesError(
        f"cannot run a statement at {dsn.safe} ({type(error).__name__}): {_ADVICE[resource]}",
        resource=resource,
    )


def _exhausted(error: BaseException) -> str | None:
    state = getattr(error, "sqlstate", None)
    if state == "53100":
        return "disk"
    if state == "53200":
        hint = (
            # asyncpg keeps it apart; no language translates a setting's name
            f"{getattr(error, 'hint', '')} {error}"
        )
        return "locks" if "max_locks_per_transaction" in hint else "memory"
    if is_out_of_connections(error):
        return "connections"
    # Without a descriptor psycopg only says that it got no connection, and a resolver that the name
    # is unknown.
    if (
        state is None
        and isinstance(error, OSError | psycopg.OperationalError)
        and _no_descriptor_left()
    ):
        return "descriptors"
    return None


def _no_descriptor_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def to_unavailable(error: BaseException, dsn: Dsn) -> AiodurableError:
    """The error to raise when `dsn` could not be reached or failed: why, as far as a driver's error
    says, and what to do.

    What `to_denied` knows keeps that meaning; everything else becomes `PostgresUnavailableError`.
    """
    if (denied := to_denied(error, dsn)) is not None:
        return denied
    state: str | None = getattr(error, "sqlstate", None)
    text = str(error)
    if isinstance(error, PasswordFunctionError):
        advice = str(error)
    elif is_refusal(error):
        if state == "3D000" or 'database "' in text:
            advice = "the server has no such database; create it or name another"
        else:
            advice = "the server refused this user and password; check both, and pg_hba.conf"
    elif "unsupported startup parameter" in text:
        advice = (
            "a pooler refuses an option of this DSN; remove it, or add it to PgBouncer's"
            " ignore_startup_parameters"
        )
    elif (
        isinstance(error, socket.gaierror)
        or "resolve" in text
        or "Name or service not known" in text
    ):
        advice = "the host name cannot be resolved; check its spelling"
    elif isinstance(error, TimeoutError) or "timeout" in text:
        advice = "no answer in time; check the host, the port and any firewall in between"
    else:
        advice = "is it running, and are host and port right?"
    # The driver's text stays with the cause: it may quote what it was given.
    return PostgresUnavailableError(f"cannot reach {dsn.safe} ({type(error).__name__}): {advice}")


@contextmanager
def translate(dsn: Dsn) -> Iterator[None]:
    """Raise `to_unavailable(error, dsn)` in place of what a driver raises in the body; the driver's
    error is the cause.
    """
    try:
        yield
    except DRIVER_FAILURES as error:
        raise to_unavailable(error, dsn) from shown_cause(error)
