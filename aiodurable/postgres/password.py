"""The password that a function of the caller gives for each new connection: a token of a managed
Postgres, a rotated secret.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any, Final, cast

from aiodurable.dsn import Hidden, PasswordFunction
from aiodurable.errors import ConfigurationError
from aiodurable.postgres.errors import PasswordFunctionError
from aiodurable.postgres.own_thread import in_own_thread

__all__ = ["call_password", "password_option"]

_WITHIN_S: Final = 10.0
"""Seconds for one call, unless a caller says otherwise."""


async def call_password(function: PasswordFunction, *, timeout_s: float = _WITHIN_S) -> Hidden:
    """What the function returns. One that is not async is called in a thread of its own.

    Raises:
        PasswordFunctionError: it raised, or took longer than `timeout_s`.
        ConfigurationError: it returned something else than text.
    """
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            password = await _result(function)
    except Exception as error:
        why = (
            f"returned nothing within {timeout_s:g} s"
            if limit.expired()
            else f"raised {type(error).__name__}"
        )
        raise PasswordFunctionError(f"the password function {why}; see its cause") from error
    if not isinstance(password, str):
        kind = type(password).__name__
        del password  # a crash reporter would show it
        raise ConfigurationError(
            f"cannot use what the password function returned ({kind}): it must return text"
        )
    return Hidden(password)


async def _result(function: PasswordFunction) -> object:
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # an object with an async __call__
    ):
        return await cast("Awaitable[object]", function())
    result = await in_own_thread(function, name="aiodurable password")
    return await result if inspect.isawaitable(result) else result


async def password_option(function: PasswordFunction | None) -> dict[str, Any]:
    """The password as an option of `psycopg.connect`; nothing without a function. Raises as
    `call_password`.
    """
    return {} if function is None else {"password": await call_password(function)}
