"""Waits: what a node sleeps or waits for, as LangGraph stores it in place of a question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

__all__ = [
    "Wait",
    "first_due",
    "is_of_a_wait",
    "payload_of",
    "signal_answer",
    "signal_value",
    "timeout_answer",
    "unreadable_answer",
    "unreadable_signal",
    "wait_of",
    "woken_answer",
]

_KIND: Final = "aiodurable"
"""The key of a payload or an answer by which it is known as ours."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What a node sleeps or waits for. Nobody has to answer it.

    Attributes:
        id: of LangGraph's interrupt.
        name: the signal that it waits for; None: it sleeps.
        until: when it wakes or its wait times out; None: never.
    """

    id: str
    name: str | None
    until: datetime | None


def payload_of(name: str | None, until: datetime | None) -> dict[str, Any]:
    """The value of the interrupt that stands for a sleep, or for a wait for a signal."""
    at = None if until is None else until.isoformat()
    if name is None:
        return {_KIND: "sleep", "until": at}
    return {_KIND: "wait", "name": name, "until": at}


def wait_of(interrupt_id: str, value: Any) -> Wait | None:
    """The wait that an interrupt of this value stands for; None: it is a person's question."""
    if not isinstance(value, Mapping):
        return None
    payload = cast("Mapping[str, Any]", value)
    name, until = payload.get("name"), payload.get("until")
    if payload.get(_KIND) not in ("sleep", "wait"):
        return None
    try:
        at = None if until is None else datetime.fromisoformat(until)
        if at is not None:
            if at.tzinfo is None:
                return None
            at = at.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
    if payload[_KIND] == "sleep":
        return None if at is None else Wait(interrupt_id, None, at)
    # a graph may ask what a stranger has sent: Postgres must be able to store the name
    return Wait(interrupt_id, name, at) if isinstance(name, str) and name.isprintable() else None


def first_due(waits: Iterable[Wait]) -> datetime | None:
    """When the first of them is due; None: no time ends any."""
    return min((wait.until for wait in waits if wait.until is not None), default=None)


def woken_answer() -> dict[str, Any]:
    """The answer to a sleep that is due."""
    return {_KIND: "woken"}


def timeout_answer() -> dict[str, Any]:
    """The answer to a wait that no signal has come for in time."""
    return {_KIND: "timeout"}


def signal_answer(value: Any) -> dict[str, Any]:
    """The answer to a wait: the value of its signal."""
    return {_KIND: "signal", "value": value}


def unreadable_answer(why: str) -> dict[str, Any]:
    """The answer to a wait whose signal came with a value that the graph cannot read."""
    return {_KIND: "unreadable", "why": why}


def unreadable_signal(answer: Any) -> str | None:
    """Why the value of the signal cannot be read; None: it can, or none came."""
    if is_of_a_wait(answer) and answer[_KIND] == "unreadable":
        return str(answer.get("why"))
    return None


def is_of_a_wait(answer: Any) -> bool:
    """Whether this is the answer to a sleep or a wait, and no person's."""
    return isinstance(answer, Mapping) and _KIND in answer


def signal_value(answer: Any) -> tuple[bool, Any]:
    """Whether a signal came, and its value. What somebody gave through plain LangGraph is one."""
    if is_of_a_wait(answer):
        given = cast("Mapping[str, Any]", answer)
        return given[_KIND] == "signal", given.get("value")
    return True, answer
