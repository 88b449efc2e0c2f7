"""Routes that answer 202: a run is accepted once, a worker executes it, and its route says how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

import httpx
import psycopg
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse
from langgraph.graph import START, StateGraph

from aiodurable import (
    Durable,
    RetryPolicy,
    RunFailedError,
    RunStatus,
    ThreadQuarantinedError,
    WaitTimeoutError,
    Worker,
)
from aiodurable.integrations.fastapi import (
    accepting,
    add_exception_handlers,
    durable_lifespan,
    run_router,
)
from aiodurable.queue import Runs
from tests.examples.test_examples import NOTES, Service
from tests.support.example_programs import EXAMPLES, Start
from tests.support.waiting import wait_until


class State(TypedDict):
    topic: str
    text: str


gate = asyncio.Event()


async def write(state: State) -> dict[str, Any]:
    if state["topic"] == "trouble":
        raise ZeroDivisionError("a secret of the server")
    if state["topic"] == "slow":
        await gate.wait()
    return {"text": f"All about {state['topic']}"}


GRAPHS: dict[str, Any] = {"report": StateGraph(State).add_node(write).add_edge(START, "write")}
Accept = Annotated[Callable[[Any], Awaitable[JSONResponse]], Depends(accepting("report"))]
Rejecting = Annotated[
    Callable[[Any], Awaitable[JSONResponse]], Depends(accepting("report", on_busy="reject"))
]


def app(dsn: str, *, work: bool | Callable[[Durable], Worker]) -> FastAPI:
    made = FastAPI(lifespan=durable_lifespan(lambda: Durable(dsn, graphs=GRAPHS), work=work))
    made.include_router(run_router(results=True))
    add_exception_handlers(made)

    @made.post("/reports/{thread_id}", status_code=202)
    async def order(topic: str, accept: Accept) -> JSONResponse:
        return await accept({"topic": topic})

    @made.post("/impatient/{thread_id}", status_code=202)
    async def impatient(topic: str, accept: Rejecting) -> JSONResponse:
        return await accept({"topic": topic})

    return made


def client_of(made: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://test")


def once(durable: Durable) -> Worker:
    return durable.work(retry_policy=RetryPolicy(max_attempts=1))


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """Of an app with a worker."""
    gate.clear()
    made = app(dsn, work=once)
    async with made.router.lifespan_context(made), client_of(made) as client:
        yield client


@pytest.fixture
async def idle(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """Of an app without a worker."""
    made = app(dsn, work=False)
    async with made.router.lifespan_context(made), client_of(made) as client:
        yield client


async def test_a_run_is_accepted_and_its_route_has_the_result(client: httpx.AsyncClient) -> None:
    accepted = await client.post("/reports/monday?topic=tides")
    assert accepted.status_code == 202
    body = accepted.json()
    assert (body["thread_id"], body["graph"], body["over"]) == ("monday", "report", False)
    assert accepted.headers["location"] == f"/runs/{body['run_id']}"
    assert accepted.headers["retry-after"] == "1"
    found = await client.get(accepted.headers["location"], params={"wait": 30})
    assert found.status_code == 200
    assert (found.json()["status"], found.json()["over"]) == ("complete", True)
    assert found.json()["result"]["text"] == "All about tides"
    assert "retry-after" not in found.headers


async def test_until_a_worker_comes_it_is_queued(idle: httpx.AsyncClient) -> None:
    accepted = await idle.post("/reports/monday?topic=tides")
    place = accepted.headers["location"]
    for wait in (0, 0.05):
        found = await idle.get(place, params={"wait": wait})
        assert (found.json()["status"], found.json()["over"]) == ("queued", False)
        assert found.headers["retry-after"] == "1"
        assert found.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("wait", ["-1", "31", "nan", "soon"])
async def test_a_wait_that_is_none_is_refused(idle: httpx.AsyncClient, wait: str) -> None:
    assert (await idle.get("/runs/r", params={"wait": wait})).status_code == 422


async def test_the_same_idempotency_key_is_the_same_run(idle: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "k 1/2"}
    first = await idle.post("/reports/monday?topic=tides", headers=key)
    second = await idle.post("/reports/monday?topic=tides", headers=key)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["run_id"] == second.json()["run_id"]
    assert first.headers["location"] == second.headers["location"]
    found = await idle.get(first.headers["location"])
    assert found.json()["run_id"] == first.json()["run_id"]
    other = await idle.post("/reports/monday?topic=moons", headers=key)
    assert other.status_code == 422
    assert other.json()["error"] == "InvalidArgumentError"


async def test_a_busy_thread_queues_or_refuses(idle: httpx.AsyncClient) -> None:
    await idle.post("/reports/monday?topic=tides")
    assert (await idle.post("/reports/monday?topic=moons")).status_code == 202
    refused = await idle.post("/impatient/monday?topic=stars")
    assert (refused.status_code, refused.json()["error"]) == (409, "RunInProgressError")


async def test_a_run_that_fails_says_so_and_not_how(client: httpx.AsyncClient) -> None:
    accepted = await client.post("/reports/monday?topic=trouble")
    found = await client.get(accepted.headers["location"], params={"wait": 30})
    assert (found.json()["status"], found.json()["over"]) == ("quarantined", True)
    assert "secret" not in found.text
    assert "result" not in found.json()


async def test_a_client_that_disconnects_leaves_the_run_at_work(
    client: httpx.AsyncClient,
) -> None:
    accepted = await client.post("/reports/monday?topic=slow")
    place = accepted.headers["location"]
    waiting = asyncio.create_task(client.get(place, params={"wait": 30}))

    async def runs() -> bool:
        return (await client.get(place)).json()["status"] == "running"

    await wait_until(runs)
    waiting.cancel()
    gate.set()
    found = await client.get(place, params={"wait": 30})
    assert found.json()["result"]["text"] == "All about slow"


async def test_an_unknown_run_is_404(idle: httpx.AsyncClient) -> None:
    found = await idle.get("/runs/nobody/ever")
    assert (found.status_code, found.json()["error"]) == (404, "RunNotFoundError")


@pytest.mark.parametrize(
    ("error", "code", "more"),
    [
        (WaitTimeoutError("secret"), 504, {}),
        (
            RunFailedError("secret", thread_id="t", run_id="r", status=RunStatus.QUARANTINED),
            500,
            {"run_id": "r", "run_status": "quarantined"},
        ),
        (ThreadQuarantinedError("secret", thread_id="t"), 409, {}),
    ],
)
async def test_what_keeps_a_route_from_a_result_is_a_problem(
    error: Exception, code: int, more: dict[str, Any]
) -> None:
    made = FastAPI()
    add_exception_handlers(made)

    @made.get("/")
    async def fail() -> None:
        raise error

    async with client_of(made) as client:
        answer = await client.get("/")
    assert answer.status_code == code
    assert answer.headers["content-type"] == "application/problem+json"
    assert more.items() <= answer.json().items()
    assert "secret" not in answer.text
    assert answer.headers.get("retry-after") == ("1" if code == 504 else None)


async def test_the_service_is_killed_and_its_next_process_finishes_what_was_accepted(
    start: Start, dsn: str, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    service = Service(start, dsn, EXAMPLES / "fastapi_service.py", go_on=go_on)
    await service.up()
    key = {"idempotency-key": "k"}
    async with service.client() as client:
        accepted = await client.post("/reports/monday", json={"topic": "tides"}, headers=key)
        assert (accepted.status_code, accepted.headers["location"]) == (202, "/runs/monday/k")

        async def runs() -> bool:
            return (await client.get("/runs/monday/k")).json()["status"] == "running"

        await wait_until(runs)
        await service.kill()
    go_on.touch()
    await service.up()
    async with service.client() as client:

        async def result() -> Any:
            found = await client.get("/runs/monday/k", params={"wait": 30})
            return found.json().get("result")

        assert (await wait_until(result, 60))["text"] == NOTES
        again = await client.post("/reports/monday", json={"topic": "tides"}, headers=key)
        assert (again.status_code, again.json()["status"]) == (202, "complete")
    await service.stop()


async def test_a_result_that_is_not_there_has_an_answer_of_its_own(
    client: httpx.AsyncClient, dsn: str
) -> None:
    place = (await client.post("/reports/monday?topic=tides")).headers["location"]
    await client.get(place, params={"wait": 30})
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE aiodurable_runs SET graph = 'of another service'")
        found = await client.get(place)
        assert (found.status_code, found.json()["status"]) == (200, "complete")
        assert "result" not in found.json()
        connection.execute("UPDATE aiodurable_runs SET graph = 'report'")
        connection.execute("DELETE FROM checkpoints")
    pruned = await client.get(place)
    assert (pruned.status_code, pruned.json()["error"]) == (410, "ResultPrunedError")


async def test_a_run_that_is_removed_while_its_result_is_read_is_404(
    client: httpx.AsyncClient, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = (await client.post("/reports/monday?topic=tides")).headers["location"]
    await client.get(place, params={"wait": 30})
    wait = Runs.wait

    async def removed(runs: Runs, run_id: str) -> Any:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("DELETE FROM aiodurable_runs")
        return await wait(runs, run_id)

    monkeypatch.setattr(Runs, "wait", removed)
    gone = await client.get(place)
    assert (gone.status_code, gone.json()["error"]) == (404, "RunNotFoundError")
