"""What aiodurable's errors mean over HTTP, and the how-to's app as a server and a client see it."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated, Any, TypedDict

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from langgraph.errors import GraphDrained
from langgraph.graph import START, StateGraph
from langgraph.types import Interrupt, interrupt

from aiodurable.current import get_checkpoint_status
from aiodurable.durable import Durable
from aiodurable.errors import (
    AiodurableError,
    AlreadyAnsweredError,
    CircuitOpenError,
    GraphChangedError,
    InvalidArgumentError,
    LeaseLostError,
    LockCapacityError,
    LockTimeoutError,
    OutOfResourcesError,
    PostgresUnavailableError,
    RunCancelledError,
    RunInProgressError,
    ThreadCompleteError,
    ThreadExistsError,
    ThreadInterruptedError,
    ThreadNotFoundError,
    ThreadPausedError,
    WorkflowAlreadyRunningError,
)
from aiodurable.integrations.fastapi import (
    add_exception_handlers,
    durable_lifespan,
    leased,
    server_sent_events,
)
from aiodurable.integrations.fastapi.leased import event_id, run_of_key
from aiodurable.models import LockHolder, PauseReason, ThreadStatus
from aiodurable.runs.durable_run import DurableRun
from aiodurable.which_durable import current
from tests.support.example_programs import REPOSITORY
from tests.support.waiting import wait_until, within

SECRET = "postgresql://db.internal, backend 4711"


async def answer_to(error: Exception, *, show_holder: bool = False) -> httpx.Response:
    app = FastAPI()
    add_exception_handlers(app, show_holder=show_holder)

    @app.get("/")
    async def fail() -> None:
        raise error

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        return await client.get("/")


@pytest.mark.parametrize(
    ("error", "code", "again"),
    [
        (ThreadNotFoundError(SECRET, thread_id="t"), 404, None),
        (WorkflowAlreadyRunningError(SECRET, thread_id="t"), 409, None),
        (LockTimeoutError(SECRET, thread_id="t"), 409, None),
        (RunInProgressError(SECRET, thread_id="t"), 409, None),
        (ThreadCompleteError(SECRET, thread_id="t"), 409, None),
        (ThreadExistsError(SECRET, thread_id="t"), 409, None),
        (AlreadyAnsweredError(SECRET, thread_id="t"), 409, None),
        (GraphChangedError(SECRET, thread_id="t"), 409, None),
        (LeaseLostError(SECRET, thread_id="t"), 503, "1"),
        (PostgresUnavailableError(SECRET, thread_id="t"), 503, "1"),
        (OutOfResourcesError(SECRET, thread_id="t", resource="connections"), 503, "1"),
        (OutOfResourcesError(SECRET, thread_id="t", resource="locks"), 503, "1"),
        (OutOfResourcesError(SECRET, thread_id="t", resource="disk"), 503, None),
        (LockCapacityError(SECRET, thread_id="t"), 503, "1"),
    ],
)
async def test_an_error_is_answered_with_its_code_and_without_its_text(
    error: AiodurableError, code: int, again: str | None
) -> None:
    response = await answer_to(error)
    assert (response.status_code, response.headers.get("retry-after")) == (code, again)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json().keys() == {"title", "status", "detail", "error", "thread_id"}
    assert response.json()["status"] == code
    assert (response.json()["error"], response.json()["thread_id"]) == (type(error).__name__, "t")
    assert "internal" not in response.text
    assert "4711" not in response.text


HOLDER = LockHolder(
    1, 2, "aiodurable:locks@web1.internal:4711", "10.0.0.1", datetime(2026, 1, 2, tzinfo=UTC)
)


@pytest.mark.parametrize(("show_holder", "process"), [(False, {}), (True, "web1.internal:4711")])
async def test_a_busy_thread_says_since_when_and_only_on_request_who_has_it(
    show_holder: bool, process: Any
) -> None:
    since = datetime(2026, 3, 4, tzinfo=UTC)
    error = WorkflowAlreadyRunningError(SECRET, thread_id="t", holder=HOLDER, since=since)
    response = await answer_to(error, show_holder=show_holder)
    holder = response.json()["holder"]
    assert datetime.fromisoformat(holder.pop("since")) == since
    assert holder == (process and {"process": process})


async def test_a_run_that_its_stopping_server_drained_may_be_requested_again() -> None:
    response = await answer_to(GraphDrained())
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"] == "GraphDrained"


async def test_a_database_that_stays_away_is_answered_with_when_to_come_back() -> None:
    response = await answer_to(CircuitOpenError(SECRET, retry_after_s=3.2))
    assert (response.status_code, response.headers["retry-after"]) == (503, "4")
    assert "internal" not in response.text


async def test_a_thread_that_waits_for_an_answer_shows_its_questions() -> None:
    response = await answer_to(
        ThreadInterruptedError("", thread_id="t", interrupts=(Interrupt("sure?", id="i1"),))
    )
    assert response.status_code == 409
    assert response.json()["interrupts"] == [{"value": "sure?", "id": "i1"}]


async def test_the_servers_own_faults_are_not_blamed_on_the_caller() -> None:
    with pytest.raises(AiodurableError, match="mine"):
        await answer_to(AiodurableError("mine"))


async def test_a_bad_argument_is_the_callers_fault_and_named() -> None:
    response = await answer_to(InvalidArgumentError(SECRET, argument="thread_id"))
    assert (response.status_code, response.json()["argument"]) == (422, "thread_id")
    assert "internal" not in response.text


async def test_a_thread_that_was_stopped_on_purpose_says_where() -> None:
    response = await answer_to(
        ThreadPausedError(SECRET, thread_id="t", reason="breakpoint", pending=["pay"])
    )
    assert response.status_code == 409
    assert (response.json()["reason"], response.json()["pending"]) == ("breakpoint", ["pay"])


@pytest.mark.parametrize("taken_over", [None, True, False])
async def test_a_lost_lease_is_not_said_to_be_anothers(taken_over: bool | None) -> None:
    response = await answer_to(LeaseLostError(SECRET, thread_id="t", taken_over=taken_over))
    assert response.status_code == 503
    assert "another process" not in response.text


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], b"\xff", {("a", "b"): 1}, "\ud800", 10**5000, object()],
    ids=["nan", "inf", "bytes", "tuple keys", "lone surrogate", "huge", "object"],
)
async def test_a_question_that_json_cannot_carry_is_shown_as_text(value: Any) -> None:
    questions = (Interrupt(value, id="i1"), Interrupt("sure?", id="i2"))
    response = await answer_to(ThreadInterruptedError("", thread_id="t", interrupts=questions))
    assert response.status_code == 409
    first, second = response.json()["interrupts"]
    assert first["id"] == "i1"
    assert first["value"]
    assert second == {"id": "i2", "value": "sure?"}


def test_without_fastapi_the_import_says_what_to_install() -> None:
    program = "import sys; sys.modules['fastapi'] = None; import aiodurable.integrations.fastapi"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "pip install 'aiodurable[fastapi]'" in result.stderr.splitlines()[-1]


# --- the how-to's app, served by uvicorn
# -----------------------------------------------------------------------------


class Report(TypedDict):
    topic: str
    text: str


writing: dict[str, asyncio.Event] = {}
allowed: dict[str, asyncio.Event] = {}


async def outline(state: Report) -> dict[str, Any]:
    return {}


async def write(state: Report) -> dict[str, Any]:
    if state["topic"] == "ask":
        interrupt(math.nan)
    if state["topic"] == "slow":
        writing["monday"].set()
        await allowed["monday"].wait()
    if state["topic"] == "broken":
        raise ConnectionError(SECRET)
    return {"text": f"all about {state['topic']}"}


report = StateGraph(Report).add_sequence([outline, write]).add_edge(START, "outline")


@pytest.fixture
async def client(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app that the how-to's blocks make when they are typed one after the other."""
    monkeypatch.setenv("AIODURABLE_DSN", dsn)
    page = (REPOSITORY / "docs" / "howto" / "fastapi.md").read_text()
    typed: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if not block.startswith("async with"):
            exec(block, typed)
    typed["report"] = report
    writing["monday"], allowed["monday"] = asyncio.Event(), asyncio.Event()
    async with (
        served(typed["app"]) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        yield client


@asynccontextmanager
async def served(app: FastAPI) -> AsyncGenerator[int, None]:
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=5)
    )
    serving = asyncio.create_task(server.serve())
    try:
        await wait_until(lambda: server.started or serving.done())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def test_the_short_path_answers_what_the_page_says(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIODURABLE_DSN", dsn)
    page = (REPOSITORY / "docs" / "howto" / "fastapi.md").read_text()
    typed: dict[str, Any] = {}
    exec(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0], typed)
    (path, answer), *_ = re.findall(r'-X POST "localhost:8000(.+?)"  # (.+)', page)
    async with served(typed["app"]) as port, httpx.AsyncClient() as client:
        response = await client.post(f"http://127.0.0.1:{port}{path}", timeout=60)
    assert response.text == answer


async def test_a_request_finds_the_durable_that_the_lifespan_installed(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/reports/monday", params={"topic": "tides"})
    assert (response.status_code, response.json()) == (200, "all about tides")
    assert isinstance(current(), Durable)
    assert (await client.get("/health")).json()["healthy"]


@pytest.mark.parametrize("thread_id", ["x" * 600, "%00", "%ED%A0%80" * 200])
async def test_a_thread_id_that_cannot_be_stored_is_422(
    client: httpx.AsyncClient, thread_id: str
) -> None:
    for path in (f"/reports/{thread_id}", f"/reports/{thread_id}/stream"):
        assert (await client.post(path, params={"topic": "tides"})).status_code == 422


def events_in(text: str) -> list[dict[str, str]]:
    return [
        dict(line.split(": ", 1) for line in event.splitlines() if not line.startswith(":"))
        for event in text.strip().split("\n\n")
    ]


async def test_a_stream_is_server_sent_events_that_no_proxy_keeps(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/reports/monday/stream", params={"topic": "tides"})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    events = events_in(response.text)
    assert [event["event"] for event in events] == ["updates", "updates", "end"]
    assert json.loads(events[1]["data"]) == {"write": {"text": "all about tides"}}
    assert json.loads(events[2]["data"]) == {"status": "complete", "interrupts": []}
    assert len({event["id"] for event in events}) == 3


async def test_a_client_that_reconnects_goes_on_with_its_run_until_it_has_the_end(
    client: httpx.AsyncClient,
) -> None:
    topic, ids = {"topic": "slow"}, list[str]()
    async with client.stream("POST", "/reports/monday/stream", params=topic) as response:
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                ids.append(line.removeprefix("id: "))
                break
        await within(60, writing["monday"].wait(), what="the report to be in writing")

    async def paused() -> bool:
        return (await get_checkpoint_status("monday")).status is ThreadStatus.PAUSED

    await wait_until(paused)
    left = await get_checkpoint_status("monday")
    allowed["monday"].set()
    again = await client.post(
        "/reports/monday/stream", params=topic, headers={"last-event-id": ids[0]}
    )
    events = events_in(again.text)
    assert [event["event"] for event in events] == ["updates", "end"]
    assert (await get_checkpoint_status("monday")).run_id == left.run_id
    done = await client.post(
        "/reports/monday/stream", params=topic, headers={"last-event-id": events[-1]["id"]}
    )
    assert (done.status_code, done.text) == (204, "")


@pytest.mark.parametrize("topic", ["slow", None])
async def test_a_client_that_reconnects_does_not_go_on_with_what_a_person_has_cancelled(
    dsn: str, topic: str | None
) -> None:
    writing["monday"], allowed["monday"] = asyncio.Event(), asyncio.Event()
    app = FastAPI(lifespan=durable_lifespan(lambda: Durable(dsn, graphs={"report": report})))
    given = None if topic is None else {"topic": topic}

    @app.get("/{thread_id}", response_class=EventSourceResponse)
    async def stream(
        request: Request, run: Annotated[DurableRun[Any, Any, Any], Depends(leased("report"))]
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in server_sent_events(request, run, given):
            yield event

    async with served(app) as port:
        durable = app.state.durable

        async def run() -> None:
            async with durable.run("monday", "report", run_id="r") as run:
                await run.ainvoke({"topic": "slow"})

        running = asyncio.create_task(run())
        await within(60, writing["monday"].wait(), what="the report to be in writing")
        await durable.threads.cancel("monday")
        with pytest.raises(RunCancelledError):
            await running
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            missed = {"last-event-id": event_id("r", 1)}
            events = events_in((await client.get("/monday", headers=missed)).text)
            last = {"last-event-id": events[-1]["id"]}
            assert (await client.get("/monday", headers=last)).status_code == 204
        (event,) = events
        assert (event["event"], json.loads(event["data"])["error"]) == (
            "problem",
            "RunCancelledError",
        )
        assert (await durable.threads.status("monday")).reason == PauseReason.CANCELLED


async def test_a_client_that_left_and_repeats_its_idempotency_key_goes_on_with_its_run(
    client: httpx.AsyncClient,
) -> None:
    topic, key = {"topic": "slow"}, {"idempotency-key": "k"}
    async with client.stream("POST", "/reports/monday/stream", params=topic, headers=key):
        await within(60, writing["monday"].wait(), what="the report to be in writing")

    async def paused() -> bool:
        return (await get_checkpoint_status("monday")).status is ThreadStatus.PAUSED

    await wait_until(paused)
    allowed["monday"].set()
    another = await client.post("/reports/monday", params=topic)
    assert (another.status_code, another.json()["error"]) == (409, "ThreadPausedError")
    again = await client.post("/reports/monday", params=topic, headers=key)
    assert (again.status_code, again.json()) == (200, "all about slow")


async def test_a_stream_that_fails_ends_with_a_problem_without_the_errors_text(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/reports/monday/stream", params={"topic": "broken"})
    last = events_in(response.text)[-1]
    assert last["event"] == "problem"
    assert json.loads(last["data"]) == {"title": "Internal Server Error", "status": 500}
    assert last["id"].endswith(":end")
    assert SECRET not in response.text


async def test_the_status_route_shows_the_questions_and_not_the_error(
    client: httpx.AsyncClient,
) -> None:
    missing = await client.get("/threads/monday")
    assert (missing.status_code, missing.json()["error"]) == (404, "ThreadNotFoundError")
    await client.post("/reports/monday", params={"topic": "ask"})
    response = await client.get("/threads/monday")
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["status"] == "interrupted"
    assert [asked["value"] for asked in response.json()["interrupts"]] == ["NaN"]
    with suppress(httpx.HTTPError):
        await client.post("/reports/friday", params={"topic": "broken"})
    response = await client.get("/threads/friday")
    assert response.json()["status"] == "failed"
    assert SECRET not in response.text


async def test_the_same_idempotency_key_runs_once(client: httpx.AsyncClient) -> None:
    for topic, key, code in [("tides", "a", 200), ("tides", "a", 200), ("moons", "a", 422)]:
        response = await client.post(
            "/reports/monday", params={"topic": topic}, headers={"idempotency-key": key}
        )
        assert response.status_code == code
    assert (await get_checkpoint_status("monday")).run_id == "monday/a"


async def test_a_stream_of_a_busy_thread_is_409_before_its_first_byte(
    client: httpx.AsyncClient,
) -> None:
    first = asyncio.create_task(client.post("/reports/monday", params={"topic": "slow"}))
    await within(60, writing["monday"].wait(), what="the report to be in writing")
    response = await client.post("/reports/monday/stream", params={"topic": "tides"})
    assert (response.status_code, response.json()["error"]) == (409, "WorkflowAlreadyRunningError")
    first.cancel()


async def test_a_stream_of_a_thread_that_asks_is_409_with_the_question(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/reports/monday/stream", params={"topic": "ask"})
    response = await client.post("/reports/monday/stream", params={"topic": "tides"})
    assert response.status_code == 409
    assert [question["value"] for question in response.json()["interrupts"]] == ["NaN"]


async def test_a_client_that_leaves_a_stream_cancels_the_run_and_frees_the_thread(
    client: httpx.AsyncClient,
) -> None:
    async with client.stream(
        "POST", "/reports/monday/stream", params={"topic": "slow"}
    ) as response:
        assert response.status_code == 200
        await within(60, writing["monday"].wait(), what="the report to be in writing")

    async def paused() -> bool:
        return (await get_checkpoint_status("monday")).status is ThreadStatus.PAUSED

    await wait_until(paused)


async def test_an_event_of_another_stream_does_not_hide_the_idempotency_key(
    client: httpx.AsyncClient,
) -> None:
    keyed = {"idempotency-key": "k", "last-event-id": "17"}
    for _ in range(2):
        response = await client.post(
            "/reports/monday/stream", params={"topic": "tides"}, headers=keyed
        )
        assert events_in(response.text)[-1]["event"] == "end"
    assert (await get_checkpoint_status("monday")).run_id == "monday/k"


@pytest.mark.parametrize("run_id", ["tuesday/k", "chosen"])
async def test_a_client_names_no_run_by_an_event_that_it_never_got(
    client: httpx.AsyncClient, run_id: str
) -> None:
    await client.post("/reports/tuesday", params={"topic": "x"}, headers={"idempotency-key": "k"})
    chosen = {"last-event-id": f"{run_id}:3"}
    path, topic = "/reports/monday/stream", {"topic": "tides"}
    refused = await client.post(path, params=topic, headers=chosen)
    assert (refused.status_code, refused.json()["error"]) == (404, "RunNotFoundError")
    assert (await get_checkpoint_status("monday")).status is ThreadStatus.NEW


async def test_a_stream_that_ended_before_its_run_was_accepted_starts_one(
    client: httpx.AsyncClient,
) -> None:
    before_first = {"last-event-id": "1f0b-never-accepted:0"}
    response = await client.post(
        "/reports/monday/stream", params={"topic": "tides"}, headers=before_first
    )
    assert events_in(response.text)[-1]["event"] == "end"
    assert (await get_checkpoint_status("monday")).run_id != "1f0b-never-accepted"


def test_the_keys_of_two_threads_never_name_one_run() -> None:
    named = {
        run_of_key(thread_id, key)
        for thread_id, key in [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c")]
    }
    assert len(named) == 3
    assert run_of_key("monday", "k") == "monday/k"
