"""What a status says by itself."""

from __future__ import annotations

from typing import get_args

import pytest
from langgraph_sdk import schema as sdk

from aiodurable.models import (
    PauseReason,
    PlatformRunStatus,
    PlatformThreadStatus,
    RunStatus,
    ThreadStatus,
    WorkflowCheckpoint,
)

S = ThreadStatus
RESUMABLE = {(S.CRASHED, None), (S.FAILED, None), (S.PAUSED, PauseReason.DRAINED)}


@pytest.mark.parametrize("reason", [None, *PauseReason, "forked from thread 'a'"])
@pytest.mark.parametrize("status", ThreadStatus)
def test_only_what_crashed_failed_or_was_drained_goes_on_without_a_person(
    status: ThreadStatus, reason: str | None
) -> None:
    found = WorkflowCheckpoint("t", status, reason=reason)
    paused = status is S.PAUSED
    assert found.resumable is ((status, reason if paused else None) in RESUMABLE)


def test_what_plain_langgraph_may_have_stopped_at_a_gate_waits_for_a_person() -> None:
    assert not WorkflowCheckpoint("t", S.CRASHED, doubt="…", maybe_at_gate=True).resumable
    assert WorkflowCheckpoint("t", S.CRASHED, doubt="plain LangGraph takes no lease").resumable


def test_every_status_has_a_word_of_langgraphs_own_sdk() -> None:
    assert set(get_args(PlatformThreadStatus)) == set(get_args(sdk.ThreadStatus))
    assert set(get_args(PlatformRunStatus)) == set(get_args(sdk.RunStatus))
    assert {status.platform for status in ThreadStatus} == set(get_args(sdk.ThreadStatus))
    assert {status.platform for status in RunStatus} == set(get_args(sdk.RunStatus)) - {"timeout"}


@pytest.mark.parametrize(
    "status", [status for status in RunStatus if status.value in set(ThreadStatus)]
)
def test_a_thread_and_its_run_agree_in_the_platforms_words(status: RunStatus) -> None:
    run = {"pending": "busy", "running": "busy", "success": "idle"}.get(
        status.platform, status.platform
    )
    assert ThreadStatus(status.value).platform == run
