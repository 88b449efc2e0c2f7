"""Structured logs of what happens: an observer for the standard library's `logging`, and a
formatter that writes JSON.

A failed run is logged with its traceback. The text of an exception may quote a state, so it is left
out unless `include_message`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from aiodurable.events import (
    AttemptEnded,
    AttemptStarted,
    BatchCommitted,
    CircuitChanged,
    Event,
    LeaseAcquired,
    LeaseLost,
    LeaseReleased,
    LoopLagMeasured,
    RunClaimed,
    WriteRefused,
)
from aiodurable.models import RunStatus

__all__ = ["JsonFormatter", "LoggingObserver"]

_QUIET: Final = (
    AttemptStarted,
    BatchCommitted,
    LeaseAcquired,
    LeaseReleased,
    LoopLagMeasured,
    RunClaimed,
)
_LOUD: Final = (CircuitChanged, LeaseLost, WriteRefused)
_BAD: Final = (RunStatus.FAILED, RunStatus.QUARANTINED)
_MOST_FRAMES: Final = 50


class LoggingObserver:
    """Logs each event; its fields are attributes of the record, below `aiodurable`.

    Args:
        logger: the logger, or its name.
        include_message: whether the text of an exception is logged with its traceback. It may
            quote a state.
    """

    def __init__(
        self, logger: logging.Logger | str = "aiodurable.events", *, include_message: bool = False
    ) -> None:
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self._include_message = include_message

    def __call__(self, event: Event) -> None:
        """Log one event."""
        level = self._level(event)
        if not self._logger.isEnabledFor(level):
            return
        fields = _fields(event)
        text = " ".join(f"{name}={_plain(value)}" for name, value in fields.items())
        found = ""
        if isinstance(event, AttemptEnded) and event.exception is not None:
            fields["traceback"] = found = self._traceback(event.exception)
            found = f"\n{found}"
        name = type(event).__name__
        # The fields are values, never a format.
        self._logger.log(
            level, "%s %s%s", name, text, found, extra={"aiodurable": {"event": name, **fields}}
        )

    @staticmethod
    def _level(event: Event) -> int:
        if isinstance(event, AttemptEnded):
            return logging.ERROR if event.status in _BAD else logging.INFO
        if isinstance(event, _LOUD):
            return logging.WARNING
        return logging.DEBUG if isinstance(event, _QUIET) else logging.INFO

    def _traceback(self, error: BaseException) -> str:
        if self._include_message:
            return "".join(traceback.format_exception(error)).rstrip()
        lines = list[str]()
        seen = set[int]()
        chain: BaseException | None = error
        while chain is not None and id(chain) not in seen:
            seen.add(id(chain))
            frames = traceback.extract_tb(chain.__traceback__)[-_MOST_FRAMES:]
            part = [f'  File "{at.filename}", line {at.lineno}, in {at.name}' for at in frames]
            kind = f"{type(chain).__module__}.{type(chain).__qualname__}"
            lines = ["Traceback (most recent call last):", *part, kind, *lines]
            chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """Writes each record as one line of JSON: time, level, logger, message, and the fields of an
    event.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        found = getattr(record, "aiodurable", None)
        if isinstance(found, Mapping):
            line["message"] = line["message"].partition("\n")[0]  # the traceback is a field
            line |= found
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(event: Event) -> dict[str, Any]:
    values = {
        field.name: getattr(event, field.name)
        for field in dataclasses.fields(event)
        if field.name != "exception"
    }
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in values.items()
        if not (name == "thread_id" and value == "")
    }


def _plain(value: object) -> str:
    """A value in one line, whatever characters it has."""
    if isinstance(value, str):
        return (
            value if value.isascii() and value.isprintable() and " " not in value else ascii(value)
        )
    return ascii(value)
