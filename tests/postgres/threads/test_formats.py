"""Threads that older LangGraphs left behind: format 2 by langgraph 0.2.62, format 3 by 0.3.34.

`formats/*.sql` holds the heads those versions wrote and the checkpoints before them. A thread's name says how it stands.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from aiodurable.threads import Threads

FORMATS = Path(__file__).parent / "formats"
THREADS = {
    "complete",
    "cond-complete",
    "send-complete",
    "crashed",
    "cond-crashed",
    "send-crashed",
    "failed",
    "send-failed",
    "interrupted",
}


@pytest.mark.parametrize("version", ["2", "3"])
async def test_a_thread_of_an_older_format_is_told_as_it_is_or_doubted(
    dsn: str, threads: Threads, version: str
) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute((FORMATS / f"{version}.sql").read_bytes())
    told = {thread.thread_id: thread async for thread in threads.find()}
    assert set(told) == THREADS
    wrong = {name for name, thread in told.items() if thread.status != name.rpartition("-")[2]}
    # Before format 3 a plain edge was a channel named like its source: what follows is known to the graph alone.
    assert wrong == ({"crashed"} if version == "2" else set())
    doubted = {name for name, thread in told.items() if thread.doubt}
    assert wrong <= doubted
    assert not doubted & {"failed", "send-failed", "interrupted"}
    assert [asked.value for asked in told["interrupted"].interrupts] == ["q?"]
    assert told["failed"].error == "ValueError('broken')"
    assert told["cond-crashed"].pending == ("b",)
