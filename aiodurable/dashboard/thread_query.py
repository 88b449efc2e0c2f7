"""The search of the threads page: `status:failed graph:order error:"timed out" older:1h order-`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, cast

from aiodurable.errors import InvalidArgumentError
from aiodurable.models import PauseReason, ThreadStatus
from aiodurable.threads import ThreadFilters

__all__ = ["QUALIFIERS", "age_of", "completions", "filters_of", "with_qualifier"]

_WORD = re.compile(r'(?:([a-z]+):)?(?:"([^"]*)"|(\S+))')
_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|min|h|d|w)")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_YES = {"yes": True, "true": True, "no": False, "false": False}


class Qualifier(NamedTuple):
    """One `name:value` of a search.

    Attributes:
        filter: the filter of `durable.threads.search` that it sets.
        read: makes the filter's value of the text; raises ValueError.
        values: what a person may want to write after the colon.
        explained: in a few words.
    """

    filter: str
    read: Callable[[str], Any]
    values: tuple[str, ...]
    explained: str


def age_of(text: str) -> timedelta:
    """`90s`, `15m`, `1.5h`, `2d`, `1w` as a length of time. Raises ValueError."""
    found = _AGE.fullmatch(text)
    if found is None:
        raise ValueError("an age is a number and a unit, such as 30s, 15m, 2h, 3d or 1w")
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds > 100 * 365 * 86_400:
        raise ValueError("that is more than a hundred years")
    return timedelta(seconds=seconds)


def _statuses(text: str) -> list[ThreadStatus]:
    try:
        return [ThreadStatus(word) for word in text.split(",") if word]
    except ValueError:
        raise ValueError(f"choose from {', '.join(ThreadStatus)}") from None


def _yes(text: str) -> bool:
    if text not in _YES:
        raise ValueError("write yes or no")
    return _YES[text]


_AGES = ("5m", "1h", "1d", "1w")
QUALIFIERS: Mapping[str, Qualifier] = {
    "status": Qualifier(
        "status",
        _statuses,
        tuple(status.value for status in ThreadStatus if status is not ThreadStatus.NEW),
        "one status, or several with commas",
    ),
    "graph": Qualifier("graph", str, (), "the name of its graph"),
    "error": Qualifier("error", str, (), "a part of its error"),
    "older": Qualifier("older_than", age_of, _AGES, "not written to for so long"),
    "newer": Qualifier("newer_than", age_of, _AGES, "written to within so long"),
    "reason": Qualifier(
        "reason",
        str,
        tuple(f'"{reason}"' if " " in reason else reason.value for reason in PauseReason),
        "why it is paused or quarantined",
    ),
    "holder": Qualifier("holder", str, (), "a part of the host and process that holds it"),
    "resumable": Qualifier("resumable", _yes, ("yes",), "may go on without a person"),
    "orphaned": Qualifier("orphaned", _yes, ("yes",), "its process is gone"),
    "doubtful": Qualifier("doubtful", _yes, ("yes", "no"), "its status may be wrong"),
}


def filters_of(query: str | None) -> ThreadFilters:
    """The filters of a search. A word without a qualifier is the beginning of the thread_id.

    Raises:
        InvalidArgumentError: an unknown qualifier, or a value that it cannot have.
    """
    filters: dict[str, Any] = {}
    for name, quoted, plain in _WORD.findall(query or ""):
        value = quoted or plain
        if not name or name not in QUALIFIERS:
            # `order:7` is the beginning of a thread_id, not a qualifier
            text = f"{name}:{value}" if name else value
            if "prefix" in filters:
                raise InvalidArgumentError(
                    f"cannot search for two beginnings, {filters['prefix']!r} and {text!r}: a"
                    " thread_id has one; the qualifiers are"
                    f" {', '.join(f'{known}:' for known in QUALIFIERS)}",
                    argument="q",
                )
            filters["prefix"] = text
            continue
        qualifier = QUALIFIERS[name]
        try:
            filters[qualifier.filter] = qualifier.read(value)
        except ValueError as error:
            raise InvalidArgumentError(
                f"cannot search for {name}:{value}: {error}", argument="q"
            ) from None
    return cast("ThreadFilters", filters)


def with_qualifier(query: str | None, name: str, value: str | None) -> str | None:
    """The same search with one qualifier set, or without it."""
    kept = [word.group(0) for word in _WORD.finditer(query or "") if word.group(1) != name]
    if value is not None:
        kept.append(f"{name}:{value}")
    return " ".join(kept) or None


def completions(graphs: tuple[str, ...]) -> list[tuple[str, str]]:
    """What the search box offers: a text and its explanation."""
    found: list[tuple[str, str]] = []
    for name, qualifier in QUALIFIERS.items():
        values = graphs if name == "graph" else qualifier.values
        found += [(f"{name}:{value}", qualifier.explained) for value in values or ("",)]
    return found
