"""The click type of ages: `90s`, `15m`, `2h`, `7d`."""

from __future__ import annotations

import re
from datetime import timedelta

import click

__all__ = ["Duration"]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Duration(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic only in newer clicks
    """A click type: a number and one of s, m, h, d."""

    name = "age"

    def convert(
        self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Parse an age as a timedelta. An invalid one is click's usage error (exit code 2)."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", value.strip())
        if not found:
            self.fail(f"must be an age such as 90s, 15m, 2h or 7d, got {value!r}", param, ctx)
        try:
            return timedelta(**{_UNITS[found[2]]: float(found[1])})
        except OverflowError:
            self.fail(f"{value!r} is too long: at most 999999999d", param, ctx)
