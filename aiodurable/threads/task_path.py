"""Parses the `task_path` of a task's writes (langgraph's `pregel._algo.task_path_str`)."""

from __future__ import annotations

import re

__all__ = ["called_by", "caller_of", "node_of", "pull_path", "send_index"]

_PULL = re.compile(r"~__pregel_pull, (?P<node>.*?)(?:, node_error_handler, \d+)?")
"""A node that a channel triggered, or such a node's error handler."""
_SEND = re.compile(r"~__pregel_push, (?P<index>[0-9]{1,18}), [0-9]+(?:, node_error_handler, \d+)?")
"""A node that a `Send` started, by its index in `__pregel_tasks`."""
_CALL = re.compile(r"(?:~__pregel_push, )+~__pregel_pull, (?P<node>.*?)(?:, \d+, \d+)+")
"""A `@task`, by the `@entrypoint` or node that called it: the path does not name the task itself.
"""


def node_of(path: str, sends: list[str]) -> str | None:
    """The node of a task, given the nodes of its step's Sends. None for a `@task` and for an empty
    path.
    """
    if found := _PULL.fullmatch(path):
        return found["node"]
    index = send_index(path)
    return sends[index] if index is not None and index < len(sends) else None


def caller_of(path: str) -> str | None:
    """The node of a task, or the node that called a `@task`. None for a Send."""
    found = _PULL.fullmatch(path) or _CALL.fullmatch(path)
    return found["node"] if found else None


def send_index(path: str) -> int | None:
    """The index of a Send among those of its step. None for any other task."""
    found = _SEND.fullmatch(path)
    return int(found["index"]) if found else None


def called_by(path: str, caller: str) -> bool:
    """Whether `path` is that of a `@task` which the task with path `caller` called."""
    return path.startswith(f"~__pregel_push, {caller}, ")


def pull_path(node: str) -> str:
    """The path of a node that a channel triggers."""
    return f"~__pregel_pull, {node}"
