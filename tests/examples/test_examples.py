"""Every example runs unchanged and prints what its page promises."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from psycopg import AsyncConnection

from aiodurable.durable import Durable
from tests.programs import PROGRAMS
from tests.support.example_programs import EXAMPLES, Start, output, read_until
from tests.support.forked import Process
from tests.support.ports import free_port
from tests.support.waiting import wait_until

SAYS = {
    "adopt_threads.py": [
        "threads: 1 complete, 2 failed\n",
        "failed at store: OSError('no space left on device')",
        "finished: /archive/letters",
        "threads: 3 complete\n",
        "pruning would free ",
    ],
    "charge_once.py": ["failed: the answer was lost", "receipt 1: 1 charge\n"],
    "functional_api.py": [
        "status: failed",
        "resumed: published 12",
        "calls: {'Rome': 1, 'Oslo': 1, 'Lima': 1, 'publish': 2}",
    ],
    "human_in_the_loop.py": [
        "asked: Pay 12 to the baker?",
        "refused: cannot go on with thread 'payment-",
        "answered: Pay 12 to the baker? -> paid",
    ],
    "approval.py": [
        "waiting for approval\n",
        "refused, as nobody answered: paid 0\n",
        "answered: True\n",
        "answered: False\n",
        "approved by Ada: paid 120\n",
    ],
    "accept_runs.py": [
        "accepted: queued; a second delivery made no run: True\n",
        "finished: All about tides\n",
        "finished: All about moons\n",
        "finished: All about stars\n",
    ],
    "schedule.py": [
        "nightly: next at 02:30 in Europe/Berlin\n",
        "triggered: all is well in the north\n",
        "backfilled: ",
        "often: 2 slots have fired\n",
    ],
    "other_entries.py": [
        "executor: {'n': 2}",
        "decorator: closing the books; a run was refused: WorkflowAlreadyRunningError",
        "mixin: 42",
        "status: complete",
    ],
}
LOOK_AT_ALL_THREADS = {"adopt_threads.py", "human_in_the_loop.py"}
"""They say the same again where threads of other programs are."""
WITH_TESTS_OF_THEIR_OWN = {"fastapi_app.py", "fastapi_service.py", "worker.py"}


def test_no_example_is_left_untested() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text()}
    assert programs == SAYS.keys() | WITH_TESTS_OF_THEIR_OWN


def test_an_example_fits_on_a_page() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 90, path.name


async def test_an_example_brings_a_postgres_of_its_own(start: Start) -> None:
    printed = await output(await start(EXAMPLES / "approval.py"))
    for line in SAYS["approval.py"]:
        assert line in printed


@pytest.mark.parametrize("name", SAYS)
def test_every_example_finds_its_postgres_in_the_same_way(name: str) -> None:
    assert "    async with database() as dsn" in (EXAMPLES / name).read_text()


@pytest.mark.parametrize("name", SAYS)
async def test_an_example_says_what_it_should_on_the_readers_database(
    name: str, start: Start, dsn: str
) -> None:
    for _ in range(2 if name in LOOK_AT_ALL_THREADS else 1):
        printed = await output(await start(EXAMPLES / name, dsn=dsn))
        for line in SAYS[name]:
            assert line in printed


async def test_the_worker_finishes_what_failed_and_stops_on_request(start: Start, dsn: str) -> None:
    worker = await start(EXAMPLES / "worker.py", dsn=dsn)
    printed = ""
    while printed.count(": now {") < 3:
        printed += await read_until(worker, ": now {")
    for number in (1, 2, 3):
        failed = f"no mail for order {number}: the mail server is down"
        assert re.search(f"order-{number}: .*{failed}.*, again at ", printed)
        assert f"order-{number}: now {{'number': {number}, 'sent': True}}" in printed
    worker.send_signal(signal.SIGTERM)
    assert await output(worker) == "SIGTERM: claiming no more, draining\n"


class Service:
    """The FastAPI example, served by uvicorn in a process that may be killed.

    Args:
        go_on: a file; its reports take until it is there. None: a second, as the example has it.
    """

    def __init__(
        self,
        start: Start,
        dsn: str,
        program: Path = EXAMPLES / "fastapi_app.py",
        *,
        go_on: Path | None = None,
    ) -> None:
        self._start = start
        self._dsn = dsn
        self._port = free_port()
        self._program: list[str | Path] = [program, str(self._port)]
        if go_on is not None:
            self._program[:0] = [PROGRAMS / "held_report.py", go_on]
        self.process: Process | None = None

    async def up(self, says: str = "Uvicorn running", times: int = 1) -> None:
        program, *arguments = self._program
        self.process = await self._start(program, *arguments, dsn=self._dsn)
        for _ in range(times):
            await read_until(self.process, says)

    async def stop(self) -> None:
        """End it and the processes that it started."""
        assert self.process is not None
        self.process.terminate()
        await self.process.communicate()

    async def kill(self) -> None:
        """Returns when Postgres has noticed: until then the process has its locks."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        await wait_until(self._has_no_client)

    async def _has_no_client(self) -> bool:
        async with await AsyncConnection.connect(self._dsn) as connection:
            others = await connection.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database()"
                " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return not others.rowcount

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._port}", trust_env=False, timeout=60
        ) as client:
            yield client


@pytest.fixture
async def service(start: Start, dsn: str) -> Service:
    service = Service(start, dsn)
    await service.up()
    return service


@pytest.fixture
def go_on(tmp_path: Path) -> Path:
    """A file that lets `held` write its reports."""
    return tmp_path / "go on"


@pytest.fixture
async def held(start: Start, dsn: str, go_on: Path) -> Service:
    """The service whose reports take until `go_on` is there."""
    service = Service(start, dsn, go_on=go_on)
    await service.up()
    return service


async def status(client: httpx.AsyncClient, thread_id: str) -> str:
    return (await client.get(f"/threads/{thread_id}")).json()["status"]


def make(
    client: httpx.AsyncClient, topic: str = "tides", **headers: str
) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(
        client.post("/reports/monday", json={"topic": topic}, headers=headers)
    )


async def is_writing(client: httpx.AsyncClient, dsn: str) -> bool:
    """Whether the first node's checkpoint is committed while the second node works."""
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        head = await saver.aget_tuple({"configurable": {"thread_id": "monday"}})
    return (
        head is not None
        and head.metadata.get("step") == 1
        and await status(client, "monday") == "running"
    )


async def test_a_request_for_a_busy_thread_gets_409_and_no_second_run(
    held: Service, go_on: Path, dsn: str
) -> None:
    async with held.client() as client:
        first = make(client)
        await wait_until(lambda: is_writing(client, dsn))
        second = await make(client)
        assert second.status_code == 409
        answer = second.json()
        since = datetime.fromisoformat(answer.pop("holder")["since"])
        assert since <= datetime.now(UTC)
        assert answer == {
            "title": "Conflict",
            "status": 409,
            "detail": "another run has this thread now",
            "error": "WorkflowAlreadyRunningError",
            "thread_id": "monday",
        }
        go_on.touch()
        assert (await first).json() == {
            "text": "tides: note 1\ntides: note 2\ntides: note 3",
            "resumed": False,
        }
        assert await status(client, "monday") == "complete"


NOTES = "tides: note 1\ntides: note 2\ntides: note 3"


async def test_a_request_killed_in_the_middle_is_finished_by_the_next_server(
    held: Service, go_on: Path, dsn: str
) -> None:
    async with held.client() as client:
        first = make(client)
        await wait_until(lambda: is_writing(client, dsn))
        await held.kill()
        with pytest.raises(httpx.TransportError):
            await first
        go_on.touch()
        await held.up()
        assert await status(client, "monday") == "crashed"
        assert (await make(client)).json() == {"text": NOTES, "resumed": True}


async def test_another_idempotency_key_never_gets_the_report_of_the_one_that_was_killed(
    held: Service, go_on: Path, dsn: str
) -> None:
    async with held.client() as client:
        first = make(client, **{"idempotency-key": "k1"})
        await wait_until(lambda: is_writing(client, dsn))
        await held.kill()
        with pytest.raises(httpx.TransportError):
            await first
        go_on.touch()
        await held.up()
        second = await make(client, "moons", **{"idempotency-key": "k2"})
        assert second.json() == {"text": NOTES.replace("tides", "moons"), "resumed": False}
        assert (await make(client, **{"idempotency-key": "k1"})).json()["text"] == NOTES
        assert (await make(client, "stars", **{"idempotency-key": "k1"})).status_code == 422


async def test_the_service_tells_a_load_balancer_how_it_is(service: Service) -> None:
    async with service.client() as client:
        response = await client.get("/health")
        assert response.status_code == 200
        health = response.json()
        assert (health["healthy"], health["locks"]["held"], health["checkpoints"]["circuit"]) == (
            True,
            0,
            "closed",
        )


async def test_the_service_tells_no_client_the_text_of_a_nodes_error(
    service: Service, dsn: str
) -> None:
    async def fail(state: dict[str, Any]) -> None:
        raise ConnectionError("no route to db.internal")

    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        graph = (
            StateGraph(dict)
            .add_node("fail", fail)
            .add_edge(START, "fail")
            .compile(checkpointer=saver)
        )
        with pytest.raises(ConnectionError):
            await graph.ainvoke({}, {"configurable": {"thread_id": "monday"}})
    async with service.client() as client:
        answer = await client.get("/threads/monday")
        assert answer.json()["status"] == "failed"
        assert "internal" not in answer.text


async def test_the_same_idempotency_key_makes_a_report_once(service: Service) -> None:
    async with service.client() as client:
        texts: list[Any] = []
        for topic, key in [("tides", "a"), ("tides", "a"), ("moons", "b")]:
            texts.append((await make(client, topic, **{"Idempotency-Key": key})).json()["text"][:5])
        assert texts == ["tides", "tides", "moons"]
        assert (await make(client, "moons", **{"Idempotency-Key": "a"})).status_code == 422


@pytest.mark.timeout(600)
async def test_two_worker_processes_refuse_a_busy_thread_and_run_others(
    start: Start, dsn: str
) -> None:
    async def wait(state: dict[str, Any]) -> None:
        pass

    service = Service(start, dsn, program=PROGRAMS / "web_workers.py")

    async def post(thread_id: str) -> int:
        async with service.client() as client:  # a connection of its own, to either process
            answer = await client.post(f"/reports/{thread_id}", json={"topic": "tides"})
            return answer.status_code

    await service.up(says="Application startup complete", times=2)
    try:
        graph = StateGraph(dict).add_node("wait", wait).add_edge(START, "wait")
        async with Durable(dsn) as durable, durable.run("monday", graph):
            busy = [post("monday") for _ in range(6)]
            others = [post(f"t{number}") for number in range(4)]
            codes = await asyncio.gather(*busy, *others)
        assert codes == [409] * 6 + [200] * 4
        assert await post("monday") == 200
    finally:
        await service.stop()
