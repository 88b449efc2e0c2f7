"""What a process of the demo is to do."""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = ["Job", "section_step"]


class Job(TypedDict):
    """One process's part.

    Attributes:
        dsn: where Postgres is. It travels through a pipe: arguments and environment are easier to
            look at.
        thread_id: the thread to run.
        on_busy: what to do where somebody else has it.
        timeout_s: seconds to wait for it, with "wait".
        at_once: how many steps it does at a time.
        paths, output: the workflow's input.
    """

    dsn: str
    thread_id: str
    on_busy: Literal["reject", "wait"]
    timeout_s: float
    at_once: int
    paths: list[str]
    output: str


def section_step(index: int) -> str:
    """The name of the step that analyses one section."""
    return f"section {index + 1}"
