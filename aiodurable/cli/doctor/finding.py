"""`Finding`: the result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Grade", "fail", "ok", "warn"]


class Grade(StrEnum):
    """The result of a check in one word."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: its name.
        grade: ok, warn or fail.
        found: the facts.
        advice: what to do; None where there is nothing to do, or `found` already says it.
    """

    check: str
    grade: Grade
    found: str
    advice: str | None = None


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Grade.OK, found)


def warn(check: str, found: str, advice: str) -> Finding:
    """It works, but weaker or slower than it could."""
    return Finding(check, Grade.WARN, found, advice)


def fail(check: str, found: str, advice: str | None = None) -> Finding:
    """It does not work."""
    return Finding(check, Grade.FAIL, found, advice)
