"""The exit codes, which scripts rely on."""

from __future__ import annotations

from enum import IntEnum

import click

from aiodurable.cli.format import lines
from aiodurable.errors import (
    AiodurableError,
    CheckpointNotFoundError,
    ConfigurationError,
    InvalidArgumentError,
    PostgresUnavailableError,
    RunNotFoundError,
    ScheduleNotFoundError,
    SchemaMismatchError,
    ThreadNotFoundError,
    WorkflowAlreadyRunningError,
)

__all__ = ["Exit", "FailedCommand", "exit_of"]


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    ALREADY_RUNNING = 4
    DATABASE = 5
    PIPE = 141
    """The reader of the output has closed the pipe. Shells use this code for a program that SIGPIPE
    ended.
    """


def exit_of(error: AiodurableError) -> Exit:
    """The exit code for an error."""
    match error:
        case (
            ThreadNotFoundError()
            | CheckpointNotFoundError()
            | RunNotFoundError()
            | ScheduleNotFoundError()
        ):
            return Exit.NOT_FOUND
        case WorkflowAlreadyRunningError():
            return Exit.ALREADY_RUNNING
        case PostgresUnavailableError() | SchemaMismatchError():
            return Exit.DATABASE
        case ConfigurationError() | InvalidArgumentError():
            return Exit.USAGE
        case _:
            return Exit.FAILED


class FailedCommand(click.ClickException):
    """The failure of a command. click prints the message and exits with the code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(lines(message))
        self.exit_code = int(code)  # pyright: ignore[reportAttributeAccessIssue]  # click reads it from the instance
