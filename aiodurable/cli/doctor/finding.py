"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Grade", "fail", "ok", "warn"]


class Grade(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        grade: how it ended.
        found: what is so.
        advice: what to do about it; None where nothing is to be done, or `found` says it.
    """

    check: str
    grade: Grade
    found: str
    advice: str | None = None


def ok(check: str, found: str) -> Finding:
    """It is as it should be."""
    return Finding(check, Grade.OK, found)


def warn(check: str, found: str, advice: str) -> Finding:
    """It works, but weaker or slower than it need be."""
    return Finding(check, Grade.WARN, found, advice)


def fail(check: str, found: str, advice: str | None = None) -> Finding:
    """It does not work so."""
    return Finding(check, Grade.FAIL, found, advice)
