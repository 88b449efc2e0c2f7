"""What aiodurable's errors mean over HTTP."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from langgraph.types import Interrupt

from aiodurable.errors import (
    AiodurableError,
    CircuitOpenError,
    LeaseLostError,
    LockTimeoutError,
    NotResumableError,
    PostgresUnavailableError,
    ThreadInterruptedError,
    ThreadNotFoundError,
    WorkflowAlreadyRunningError,
)
from aiodurable.fastapi import add_exception_handlers

SECRET = "postgresql://db.internal, backend 4711"


async def answer_to(error: Exception) -> httpx.Response:
    app = FastAPI()
    add_exception_handlers(app)

    @app.get("/")
    async def fail() -> None:
        raise error

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.get("/")


@pytest.mark.parametrize(
    ("error", "code", "again"),
    [
        (ThreadNotFoundError(SECRET, thread_id="t"), 404, None),
        (WorkflowAlreadyRunningError(SECRET, thread_id="t"), 409, None),
        (LockTimeoutError(SECRET, thread_id="t"), 409, None),
        (NotResumableError(SECRET, thread_id="t"), 409, None),
        (LeaseLostError(SECRET, thread_id="t"), 503, "1"),
        (PostgresUnavailableError(SECRET, thread_id="t"), 503, "1"),
    ],
)
async def test_an_error_is_answered_with_its_code_and_without_its_text(
    error: AiodurableError, code: int, again: str | None
) -> None:
    response = await answer_to(error)
    assert (response.status_code, response.headers.get("retry-after")) == (code, again)
    assert response.json().keys() == {"error", "thread_id", "detail"}
    assert (response.json()["error"], response.json()["thread_id"]) == (type(error).__name__, "t")
    assert "internal" not in response.text
    assert "4711" not in response.text


async def test_a_database_that_stays_away_is_answered_with_when_to_come_back() -> None:
    response = await answer_to(CircuitOpenError(SECRET, retry_after=3.2))
    assert (response.status_code, response.headers["retry-after"]) == (503, "4")
    assert "internal" not in response.text


async def test_a_thread_that_waits_for_an_answer_shows_its_questions() -> None:
    response = await answer_to(ThreadInterruptedError("", thread_id="t", interrupts=(Interrupt("sure?", id="i1"),)))
    assert response.status_code == 409
    assert response.json()["interrupts"] == [{"value": "sure?", "id": "i1"}]


async def test_the_servers_own_faults_are_not_blamed_on_the_caller() -> None:
    with pytest.raises(AiodurableError, match="mine"):
        await answer_to(AiodurableError("mine"))
