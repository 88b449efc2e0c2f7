"""The pages that the navigation lists, with their keyboard shortcuts (`g`, then the key)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PAGES", "Link"]


class Link(NamedTuple):
    """A page in the navigation.

    Attributes:
        path: inside the dashboard.
        label: its name.
        key: `g`, then this letter opens it.
    """

    path: str
    label: str
    key: str


PAGES = (
    Link("/", "Overview", "o"),
    Link("/threads", "Threads", "t"),
    Link("/runs", "Runs", "r"),
    Link("/questions", "Inbox", "i"),
    Link("/quarantine", "Quarantine", "x"),
    Link("/queues", "Queues", "q"),
    Link("/schedules", "Schedules", "s"),
    Link("/workers", "Workers", "w"),
    Link("/database", "Database", "d"),
    Link("/audit", "Audit", "a"),
)
