"""A web server stops in the middle of runs: none is lost, and no step that was done is done again.

Real uvicorn processes, with a grace that is shorter than a node.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from aiodurable.current import find_failed_workflows
from aiodurable.durable import Durable
from aiodurable.models import ClaimState, PauseReason, RunStatus, ThreadStatus
from tests.programs import PROGRAMS
from tests.programs.web_process import STEPS, graphs
from tests.support.forked import python
from tests.support.ports import free_port
from tests.support.waiting import wait_until, within


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
async def durable(dsn: str, log: Path, gate: Path) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs=graphs(str(log), str(gate))) as opened:
        yield opened


Stop = Callable[[], Awaitable[None]]


@asynccontextmanager
async def server(
    dsn: str, log: Path, gate: Path, workers: int
) -> AsyncIterator[tuple[httpx.AsyncClient, Stop]]:
    """A client, and a function that sends SIGTERM and waits until the server is gone."""
    port = free_port()
    process = await python(
        PROGRAMS / "web_process.py",
        *(str(port), str(workers), log, gate),
        env={**os.environ, "AIODURABLE_DSN": dsn},
        new_session=True,
    )

    async def stop() -> None:
        process.terminate()
        await within(60, process.wait(), what="the server to stop")

    limits = httpx.Limits(max_keepalive_connections=0)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=120, limits=limits
        ) as client:

            async def up() -> bool:
                with suppress(httpx.TransportError):
                    return (await client.get("/nothing")).status_code in (404, 405)
                return False

            await wait_until(up, 120)
            yield client, stop
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def written(log: Path) -> list[str]:
    return log.read_text("utf-8").splitlines() if log.exists() else []


async def in_the_middle(log: Path, thread_ids: list[str]) -> None:
    await wait_until(lambda: {f"{one} begun-sort" for one in thread_ids} <= set(written(log)), 60)


async def request(client: httpx.AsyncClient, thread_id: str) -> int:
    """The answer to a run, or to its stream; 0: the server closed the connection."""
    try:
        if thread_id.startswith("s"):
            return (await client.get(f"/{thread_id}/stream")).status_code
        headers = {"idempotency-key": "k"}
        return (await client.post(f"/{thread_id}", headers=headers)).status_code
    except httpx.TransportError:
        return 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2])
async def test_what_a_deploy_stops_is_drained_and_a_worker_goes_on_with_it(
    dsn: str, log: Path, gate: Path, durable: Durable, workers: int
) -> None:
    threads = ["a", "b", "c", "d", "s1", "s2"]
    async with server(dsn, log, gate, workers) as (client, stop):
        asked = [asyncio.create_task(request(client, one)) for one in threads]
        await in_the_middle(log, threads)
        await stop()
        assert set(await asyncio.gather(*asked)) <= {0, 200, 500}
    found = [await durable.threads.status(one) for one in threads]
    assert {(one.status, one.reason) for one in found} == {
        (ThreadStatus.PAUSED, PauseReason.DRAINED)
    }
    assert {one.thread_id async for one in find_failed_workflows()} == set(threads)
    run_ids = [one.run_id for one in found if one.run_id is not None]
    for run_id in run_ids:
        assert (await durable.runs.get(run_id)).claim_state is ClaimState.READY
    gate.touch()
    async with durable.work():
        for run_id in run_ids:
            assert (await durable.runs.wait(run_id, timeout=60))["words"] == STEPS
    for thread_id, run_id in zip(threads, run_ids, strict=True):
        assert [written(log).count(f"{thread_id} {step}") for step in STEPS] == [1, 1, 1]
        assert written(log).count(f"{thread_id} begun-collect") == 1
        assert (await durable.runs.get(run_id)).status is RunStatus.COMPLETE


@pytest.mark.timeout(600)
async def test_what_a_deploy_stops_goes_on_with_the_next_call(
    dsn: str, log: Path, gate: Path, durable: Durable
) -> None:
    async with server(dsn, log, gate, 1) as (client, stop):
        asked = [asyncio.create_task(request(client, one)) for one in ("a", "b")]
        await in_the_middle(log, ["a", "b"])
        await stop()
        await asyncio.gather(*asked)
    gate.touch()
    async with durable.run("a", "steps", run_id="a/k") as run:
        assert (await run.ainvoke({"words": []}))["words"] == STEPS
    async with durable.run("b", "steps") as run:  # another input: after the one that was left
        assert (await run.ainvoke({"words": ["more"]}))["words"] == [*STEPS, "more", *STEPS]
    assert written(log).count("a collect") == 1
    async with durable.work():
        last = await durable.runs.create("c", "steps", {"words": []})
        await durable.runs.wait(last.run_id, timeout=60)
    assert written(log).count("a tell") == 1


@pytest.mark.timeout(600)
async def test_what_a_client_left_before_the_stop_stays_its_own(
    dsn: str, log: Path, gate: Path, durable: Durable
) -> None:
    async with server(dsn, log, gate, 1) as (client, stop):
        async with client.stream("GET", "/s/stream"):
            await in_the_middle(log, ["s"])

        async def paused() -> bool:
            return (await durable.threads.status("s")).status is ThreadStatus.PAUSED

        await wait_until(paused)
        await stop()
    thread = await durable.threads.status("s")
    assert thread.reason in (PauseReason.CANCELLED, PauseReason.STREAM_CLOSED)
    assert thread.run_id is not None
    assert (await durable.runs.get(thread.run_id)).claim_state is None
    assert not [one async for one in find_failed_workflows()]
