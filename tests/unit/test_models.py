"""What a status says by itself."""

from __future__ import annotations

import pytest

from aiodurable.models import PauseReason, ThreadStatus, WorkflowCheckpoint

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
