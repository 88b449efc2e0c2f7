"""One call on a run: what the caller asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from aiodurable.runs.decision import OnUnfinished

__all__ = ["NONE_ANSWER", "Call"]

NONE_ANSWER: Final[Any] = object()
"""Stands for the answer None, which `Command(resume=None)` cannot carry."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one call asks for.

    Attributes:
        input: its input; None: none.
        on_unfinished: what to do with unfinished work.
        run_id: the run it names; None: none.
        config: its config; a resumption merges what the run was accepted with.
        context: its context.
        options: LangGraph's own options.
        takes_over: whether its input takes the place of what the thread had left (`on_busy`).
    """

    input: Any
    on_unfinished: OnUnfinished
    run_id: str | None
    config: RunnableConfig
    context: Any
    options: dict[str, Any]
    takes_over: bool = False

    @property
    def given(self) -> bool:
        """Whether the call has an input."""
        return self.input is not None

    @property
    def durability(self) -> str | None:
        """LangGraph's option: "sync", unless the call has another."""
        return self.options.get("durability", "sync")

    @property
    def command(self) -> Command[Any] | None:
        """Its input, if that is a `Command`."""
        return cast("Command[Any]", self.input) if isinstance(self.input, Command) else None

    @property
    def answers(self) -> bool:
        """Whether its input is a `Command` that answers."""
        return self.command is not None and self.command.resume is not None

    @property
    def answer(self) -> Any:
        """The answer of its `Command`, which may be None."""
        assert self.command is not None, "only a call that answers has an answer"
        return None if self.command.resume is NONE_ANSWER else self.command.resume
