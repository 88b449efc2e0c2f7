"""Close open tool calls: a chat that stopped between the calls of a model and their results is
refused by every provider, until each call has a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, ToolMessage
from langgraph.types import StateSnapshot

__all__ = ["UNFINISHED_CALL", "results_of_open_calls"]

UNFINISHED_CALL: Final = "This tool call was interrupted before it had a result."
"""What the model reads of a call that has none."""


def results_of_open_calls(state: StateSnapshot, text: str) -> dict[str, list[AnyMessage]]:
    """A result for each tool call of the last turn that has none, by the channel of its messages:
    what a task of the step has written already, or else an error.

    Args:
        state: the thread's state.
        text: what the errors say.
    """
    values = cast("Mapping[str, Any]", state.values) if isinstance(state.values, Mapping) else {}
    written = {
        message.tool_call_id: message
        for task in state.tasks
        for message in _messages(task.result)
        if isinstance(message, ToolMessage)
    }
    found: dict[str, list[AnyMessage]] = {}
    for channel, value in values.items():
        if isinstance(value, list) and (open_calls := _open(cast("list[Any]", value), written)):
            found[channel] = [
                written.get(call_id)
                or ToolMessage(text, tool_call_id=call_id, name=name, status="error")
                for call_id, name in open_calls
            ]
    return found


def _open(messages: Sequence[Any], written: Mapping[str, ToolMessage]) -> list[tuple[str, str]]:
    """Id and name of each call of the last model's message without a result in a checkpoint.

    A state shows what tasks have written as if it were in one; a change of the state drops it.
    """
    answered = set[str]()
    for message in reversed(messages):
        if isinstance(message, ToolMessage):
            answered |= {message.tool_call_id}.difference(written)
        elif isinstance(message, AIMessage):
            return [
                (call["id"], call["name"])
                for call in message.tool_calls
                if call["id"] is not None and call["id"] not in answered
            ]
        else:  # a result must follow its call: it is too late for one
            return []
    return []


def _messages(written: Any) -> Iterator[BaseMessage]:
    """The messages in what a task has written."""
    if isinstance(written, BaseMessage):
        yield written
    elif isinstance(written, Mapping):
        for value in cast("Mapping[Any, Any]", written).values():
            yield from _messages(value)
    elif isinstance(written, list | tuple):
        for value in cast("Sequence[Any]", written):
            yield from _messages(value)
