"""Threads that older LangGraphs left behind: format 2 by langgraph 0.2.62, format 3 by 0.3.34,
format 4 by 1.2.0.

`formats/*.sql` holds the heads those versions wrote and the checkpoints before them. Of formats 2
and 3 a thread's name says how it stands. 1.2.0 is the oldest that this library works with; its
threads are named like their scenarios.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from aiodurable.runs.threads import Threads
from tests.support.langgraph_statuses import assert_agrees, read

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
OF_THE_OLDEST: dict[str, tuple[str, tuple[str, ...]]] = {
    "ran_through": ("complete", ()),
    "killed_before_the_last_node": ("crashed", ("b",)),
    "killed_between_a_node_and_its_checkpoint": ("crashed", ()),
    "last_node_failed": ("failed", ("b",)),
    "node_failed_on_exit": ("failed", ("b",)),
    "killed_in_async": ("crashed", ()),
    "branches_joined": ("complete", ()),
    "one_branch_failed": ("failed", ("b",)),
    "killed_when_one_branch_had_written": ("crashed", ("c",)),
    "killed_at_the_join": ("crashed", ("d",)),
    "both_branches_ask": ("interrupted", ("b", "c")),
    "one_send_failed": ("failed", ("part",)),
    "killed_when_one_send_had_written": ("crashed", ("part", "part")),
    "killed_after_the_router": ("crashed", ("b",)),
    "router_raised": ("failed", ("a",)),
    "killed_after_a_node_commanded": ("crashed", ("b",)),
    "killed_after_a_command_from_outside": ("crashed", ("b",)),
    "killed_when_the_deferred_was_due": ("crashed", ("d",)),
    "deferred_failed": ("failed", ("d",)),
    "node_of_a_subgraph_failed": ("failed", ("inner",)),
    "subgraph_asks": ("interrupted", ("inner",)),
    "killed_in_a_subgraph": ("crashed", ("inner",)),
    "node_asks": ("interrupted", ("ask",)),
    "killed_when_the_answer_was_written": ("crashed", ("ask",)),
    "handler_failed": ("failed", ("a",)),
    "failure_was_handled": ("complete", ()),
    "task_failed": ("failed", ("story",)),
    "story_asks": ("interrupted", ("story",)),
    "killed_after_a_task": ("crashed", ("story",)),
    "tool_of_an_agent_failed": ("failed", ("tools",)),
    "node_of_a_delta_channel_failed": ("failed", ("b",)),
    "values_of_a_failed_thread_were_mended": ("crashed", ("b",)),
    "forked_and_failed": ("failed", ("b",)),
    "cancelled_in_two_branches": ("crashed", ("b", "c")),
}


@pytest.mark.parametrize("version", ["2", "3"])
async def test_a_thread_of_an_older_format_has_its_true_status_or_a_doubt(
    dsn: str, threads: Threads, saver: AsyncPostgresSaver, version: str
) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute((FORMATS / f"{version}.sql").read_bytes())
    told = {thread.thread_id: thread async for thread in threads.search()}
    assert set(told) == THREADS
    wrong = {name for name, thread in told.items() if thread.status != name.rpartition("-")[2]}
    # Before format 3 a plain edge was a channel named like its source: what follows is known to the
    # graph alone.
    assert wrong == ({"crashed"} if version == "2" else set())
    doubted = {name for name, thread in told.items() if thread.doubt}
    assert wrong <= doubted
    assert not doubted & {"failed", "send-failed", "interrupted"}
    assert [asked.value for asked in told["interrupted"].interrupts] == ["q?"]
    assert told["failed"].error == "ValueError('broken')"
    assert told["cond-crashed"].pending == ("b",)
    for name, thread in told.items():
        assert_agrees(thread, await read(saver, name))


async def test_a_thread_of_the_oldest_langgraph_has_its_true_status(
    dsn: str, threads: Threads, saver: AsyncPostgresSaver
) -> None:
    with psycopg.connect(
        dsn, autocommit=True
    ) as connection:  # the file has transactions of its own
        connection.execute((FORMATS / "4.sql").read_bytes())
    told = {thread.thread_id: thread async for thread in threads.search()}
    assert {
        name: (thread.status.value, thread.pending) for name, thread in told.items()
    } == OF_THE_OLDEST
    assert told["node_of_a_subgraph_failed"].failed_path == ("inner", "j")
    assert [asked.value for asked in told["both_branches_ask"].interrupts] == ["b?", "c?"]
    for name, thread in told.items():
        assert_agrees(thread, await read(saver, name))
