"""The times that a fault took, printed when all tests are over: for readers, who need not believe
anybody.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

PROPERTY = "timetable"
"""A report's property travels from pytest-xdist's processes to the one that has the terminal."""


class Timetable:
    """One line a time, one column a trial, in seconds."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._lines: dict[str, list[float]] = {}

    def trial(self, **times_s: float) -> None:
        for line, time_s in times_s.items():
            self._lines.setdefault(line.replace("_", " "), []).append(time_s)

    def __str__(self) -> str:
        width = max(map(len, self._lines), default=0)
        lines = (
            f"    {line:<{width}} {' '.join(f'{each:7.3f}' for each in at)}"
            for line, at in self._lines.items()
        )
        return "\n".join((f"{self.title} [s]", *lines))


def printed(reporter: pytest.TerminalReporter) -> None:
    """Print every table of this run."""
    reports = [report for reports in reporter.stats.values() for report in reports]
    tables = sorted(
        {value for report in reports for name, value in _properties(report) if name == PROPERTY}
    )
    if tables:
        reporter.section("times of faults")
        reporter.write_line("\n".join(tables))


def _properties(report: object) -> Iterator[tuple[str, object]]:
    yield from getattr(report, "user_properties", ())
