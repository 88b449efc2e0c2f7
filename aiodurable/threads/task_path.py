"""What a task is called: its node, read out of the `task_path` beside its writes (langgraph's
`pregel._algo.task_path_str`).
"""

from __future__ import annotations

import re

__all__ = ["called_by", "caller_of", "node_of", "pull_path", "send_index"]

_PULL = re.compile(r"~__pregel_pull, (?P<node>.*?)(?:, node_error_handler, \d+)?")
"""A node that a channel triggered, or the error handler of one."""
_SEND = re.compile(r"~__pregel_push, (?P<index>[0-9]{1,18}), [0-9]+(?:, node_error_handler, \d+)?")
"""A node that a `Send` started: its place in `__pregel_tasks`."""
_CALL = re.compile(r"(?:~__pregel_push, )+~__pregel_pull, (?P<node>.*?)(?:, \d+, \d+)+")
"""A `@task`, called in an `@entrypoint` or a node: of itself it has no name here."""


def node_of(path: str, sends: list[str]) -> str | None:
    """The node of a task, given the nodes of its step's Sends; None for a `@task` and where no path
    was written.
    """
    if found := _PULL.fullmatch(path):
        return found["node"]
    index = send_index(path)
    return sends[index] if index is not None and index < len(sends) else None


def caller_of(path: str) -> str | None:
    """The node, or the one a `@task` was called in; None for a Send."""
    found = _PULL.fullmatch(path) or _CALL.fullmatch(path)
    return found["node"] if found else None


def send_index(path: str) -> int | None:
    """The place of a Send among those of its step; None for any other task."""
    found = _SEND.fullmatch(path)
    return int(found["index"]) if found else None


def called_by(path: str, caller: str) -> bool:
    """Whether this is the path of a `@task` that the task of the other path called."""
    return path.startswith(f"~__pregel_push, {caller}, ")


def pull_path(node: str) -> str:
    """The path of a node that a channel triggers."""
    return f"~__pregel_pull, {node}"
