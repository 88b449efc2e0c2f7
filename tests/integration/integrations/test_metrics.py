"""The metrics say what happened, with bounded labels, and cost no run anything when they fail."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from aiodurable import Durable, observers
from aiodurable.errors import ConfigurationError, InvalidArgumentError
from aiodurable.events import (
    AttemptEnded,
    Event,
    LeaseAcquired,
    RunClaimed,
    emit,
    inline,
)
from aiodurable.integrations import cluster_metrics, small_server
from aiodurable.integrations.asgi import respond
from aiodurable.integrations.health import health_app, liveness, readiness
from aiodurable.integrations.labels import Labels
from aiodurable.integrations.logging import JsonFormatter, LoggingObserver
from aiodurable.integrations.prometheus import PrometheusObserver, metrics_app
from aiodurable.integrations.small_server import serving
from aiodurable.observers import ObserverThread, prepared
from aiodurable.postgres.pool import PsycopgPool
from tests.support.waiting import wait_until

INPUT = {"count": 1}


@pytest.fixture
def admin_of(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection beside the tested ones, to their database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def chain() -> Any:
    async def add(state: Any) -> Any:
        return {"count": state["count"] + 1}

    graph = StateGraph(dict).add_node("one", add).add_node("two", add)
    return graph.add_edge(START, "one").add_edge("one", "two").add_edge("two", END)


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def get(app: Any, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    await app({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
    return sent[0]["status"], sent[1]["body"].decode()


async def test_a_worker_s_run_is_in_the_metrics_of_its_process_and_of_the_database(
    dsn: str,
) -> None:
    observer = PrometheusObserver()
    async with Durable(dsn, graphs={"story": chain()}, observers=[observer]) as durable:
        run = await durable.runs.create("thread-secret", "story", INPUT)
        app = metrics_app(durable, observer=observer, every_s=0)
        async with durable.work() as worker:
            await durable.runs.wait(run.run_id)
            await wait_until(lambda: not worker.health().running)
            await wait_until(durable.insights.workers, what="a registered worker")
            status, text = await get(app)
        assert status == 200
        found = values(text)
        attempts = (("graph", "story"), ("status", "complete"))
        assert found["aiodurable_attempts_total", attempts] == 1
        queue = (("queue", "default"),)
        assert found["aiodurable_schedule_to_start_seconds_count", queue] == 1
        assert 0 <= found["aiodurable_schedule_to_start_seconds_sum", queue] < 60
        assert found["aiodurable_batch_writes_count", ()] >= 1
        assert found["aiodurable_lease_wait_seconds_count", ()] >= 1
        assert found["aiodurable_circuit_open", ()] == 0
        assert found["aiodurable_threads", (("status", "complete"),)] == 1
        assert found["aiodurable_cluster_up", ()] == 1
        assert found["aiodurable_workers", ()] == 1
        quantile = (("graph", "story"), ("quantile", "0.95"))
        assert found["aiodurable_recent_run_seconds", quantile] >= 0
        assert found["aiodurable_recent_wait_seconds", quantile] >= 0
        assert "thread-secret" not in text
        assert run.run_id not in text


async def test_scrapes_share_what_was_read_and_survive_an_outage(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Durable(dsn, graphs={"story": chain()}) as durable:
        reads = 0
        overview = durable.insights.overview_and_queues

        async def counted() -> Any:
            nonlocal reads
            reads += 1
            if reads > 1:
                raise TimeoutError
            return await overview()

        monkeypatch.setattr(durable.insights, "overview_and_queues", counted)
        app = metrics_app(durable, every_s=1000)
        await asyncio.gather(*(get(app) for _ in range(5)))
        assert reads == 1
        app = metrics_app(durable, every_s=0)
        assert values((await get(app))[1])["aiodurable_cluster_up", ()] == 0


async def test_a_scrape_sends_no_statement_twice(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = list[str]()
    fetch = PsycopgPool.fetch

    async def counted(self: PsycopgPool, statement: str, *params: Any) -> Any:
        sent.append(statement)
        return await fetch(self, statement, *params)

    async with Durable(dsn, graphs={"story": chain()}) as durable:
        await durable.runs.create("thread-1", "story", INPUT)
        monkeypatch.setattr(PsycopgPool, "fetch", counted)
        status, text = await get(metrics_app(durable, every_s=0))
    assert status == 200
    ready = (("queue", "default"), ("state", "ready"))
    assert values(text)["aiodurable_queue_runs", ready] == 1
    assert sent
    assert len(set(sent)) == len(sent)


async def test_numbers_that_cannot_be_read_are_marked_and_then_left_out(
    dsn: str, admin_of: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = PrometheusObserver()
    async with Durable(dsn, graphs={"story": chain()}, observers=[observer]) as durable:
        app = metrics_app(durable, observer=observer, every_s=0)
        before = values((await get(app))[1])
        assert before["aiodurable_cluster_up", ()] == 1
        monkeypatch.setattr(cluster_metrics, "_READ_S", 0.3)
        with admin_of.transaction():
            admin_of.execute("LOCK TABLE aiodurable_runs IN ACCESS EXCLUSIVE MODE")
            hung = values((await asyncio.wait_for(get(app), 30))[1])
            monkeypatch.setattr(cluster_metrics, "_STALE_S", 0.0)
            stale = values((await asyncio.wait_for(get(app), 30))[1])
        monkeypatch.setattr(cluster_metrics, "_READ_S", 30.0)
        again = values((await get(app))[1])
    running = ("aiodurable_running_runs", ())
    assert hung["aiodurable_cluster_up", ()] == 0
    assert hung["aiodurable_cluster_age_seconds", ()] >= 0.3
    assert hung[running] == 0
    assert stale["aiodurable_cluster_up", ()] == 0
    assert stale["aiodurable_cluster_age_seconds", ()] > hung["aiodurable_cluster_age_seconds", ()]
    assert running not in stale
    assert stale["aiodurable_circuit_open", ()] == 0
    assert again["aiodurable_cluster_up", ()] == 1


async def test_a_queue_that_has_become_empty_is_at_0(dsn: str) -> None:
    async with Durable(dsn, graphs={"story": chain()}) as durable:
        run = await durable.runs.create("thread-1", "story", INPUT, queue="mail")
        app = metrics_app(durable, every_s=0)
        full = values((await get(app))[1])
        await durable.runs.cancel(run.run_id)
        empty = values((await get(app))[1])
    ready = ("aiodurable_queue_runs", (("queue", "mail"), ("state", "ready")))
    assert full[ready] == 1
    assert empty[ready] == 0
    assert empty["aiodurable_queue_oldest_ready_seconds", (("queue", "mail"),)] == 0
    assert empty["aiodurable_queue_paused", (("queue", "mail"),)] == 0


def test_labels_are_bounded_and_names_that_are_not_known_share_one() -> None:
    observer = PrometheusObserver(graphs={"known"})
    for n in range(300):
        observer(RunClaimed(f"t{n}", run_id="r", graph="known", queue=f"q{n}", waited_s=0.1))
    text = asyncio.run(get(metrics_app(observer=observer)))[1]
    queues = {
        dict(labels)["queue"]
        for name, labels in values(text)
        if name == "aiodurable_schedule_to_start_seconds_count"
    }
    assert len(queues) == 101
    assert "other" in queues
    label = Labels({"known"})
    assert [label("known"), label("other one"), label(None)] == ["known", "other", ""]


async def test_an_observer_that_hangs_or_raises_reaches_no_run(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    let_go = threading.Event()
    seen: list[Event] = []

    def hangs(event: Event) -> None:
        let_go.wait(60)

    def raises(event: Event) -> None:
        raise ValueError("of the observer")

    try:
        async with Durable(dsn, observers=[hangs, raises, seen.append]) as durable:
            async with durable.run("thread-1", chain()) as run:
                await asyncio.wait_for(run.ainvoke(INPUT), 20)
            await wait_until(lambda: any(isinstance(event, AttemptEnded) for event in seen))
            await wait_until(lambda: "of the observer" in caplog.text)
    finally:
        let_go.set()


def test_a_slow_inline_observer_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    released = threading.Event()

    def slow(event: Event) -> None:
        released.wait(0.12)

    called = prepared([inline(slow)])
    for _ in range(2):
        emit(called, LeaseAcquired("t", token=1, waited_s=0))
    assert caplog.text.count("kept the event loop") == 1


def test_what_an_observer_does_not_keep_up_with_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    let_go, entered = threading.Event(), threading.Event()

    def hangs(event: Event) -> None:
        entered.set()
        let_go.wait(60)

    thread = ObserverThread(hangs)
    event = LeaseAcquired("t", token=1, waited_s=0)
    thread(event)
    assert entered.wait(30)
    for _ in range(10_005):
        thread(event)
    let_go.set()
    assert thread.dropped == 5
    assert caplog.text.count("does not keep up") == 1


def test_the_warning_of_an_observer_that_hangs_names_its_frames_and_comes_once_an_event(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers, "_HANGS_S", 0.0)
    let_go, entered = threading.Event(), threading.Event()

    def waits_for_a_socket(secret: str) -> None:
        entered.set()
        let_go.wait(60)

    def hangs(event: Event) -> None:
        waits_for_a_socket("SECRET")

    thread = ObserverThread(hangs)
    event = LeaseAcquired("t", token=1, waited_s=0)
    thread(event)
    assert entered.wait(30)
    thread(event)
    thread(event)
    let_go.set()
    (message,) = [each for each in caplog.messages if "has been at one event for" in each]
    assert message.index("waits_for_a_socket (") < message.index("hangs (")
    assert "test_metrics.py:" in message
    assert "SECRET" not in message


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_observer_s_thread_that_could_not_start_or_has_ended_starts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, again = list[Event](), threading.Event()

    def observer(event: Event) -> None:
        seen.append(event)
        if len(seen) == 1:
            raise SystemExit
        again.set()

    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    called = prepared([observer])
    event = LeaseAcquired("t", token=1, waited_s=0)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        emit(called, event)
    emit(called, event)
    (thread,) = called
    assert isinstance(thread, ObserverThread)
    for _ in range(3000):
        if seen and not any(one.name == "aiodurable observer" for one in threading.enumerate()):
            break
        threading.Event().wait(0.01)
    emit(called, event)
    assert again.wait(30)


async def test_an_observer_is_added_before_a_durable_opens(dsn: str) -> None:
    durable = Durable(dsn)
    seen: list[Event] = []
    durable.observe(inline(seen.append))
    async with durable:
        async with durable.hold("thread-1"):
            pass
        with pytest.raises(ConfigurationError, match="is open"):
            durable.observe(seen.append)
    assert any(isinstance(event, LeaseAcquired) for event in seen)


def test_metrics_of_nothing_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="cannot serve metrics"):
        metrics_app()
    PrometheusObserver(CollectorRegistry())


async def test_probes_say_whether_a_process_lives_and_whether_it_is_ready(dsn: str) -> None:
    durable = Durable(dsn, graphs={"story": chain()})
    assert not liveness(durable).ok
    assert not readiness(durable).ok
    async with durable, durable.work() as worker:
        app = health_app(durable, worker)
        await wait_until(lambda: readiness(durable, worker).ok)
        assert (await get(app, "/livez"))[0] == 200
        status, text = await get(app, "/below/any/path/readyz")
        assert (status, '"ok": true' in text) == (200, True)
        assert "postgres" not in text
        await worker.drain()
        assert (await get(app, "/readyz"))[0] == 503
        assert (await get(app, "/livez"))[0] == 200
        assert (await get(app, "/other"))[0] == 404


async def test_the_small_server_answers_and_refuses(dsn: str) -> None:
    observer = PrometheusObserver()

    async def request(port: int, text: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        answer = await reader.read()
        writer.close()
        return answer

    async with serving({"/metrics": metrics_app(observer=observer)}, port=0) as port:
        found = await request(port, b"GET /metrics?x=1 HTTP/1.1\r\nhost: a\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"aiodurable_circuit_open 0.0" in found
        assert b" 404 " in await request(port, b"GET /secret HTTP/1.1\r\n\r\n")
        assert b" 405 " in await request(port, b"POST /metrics HTTP/1.1\r\n\r\n")
        assert await request(port, b"x" * 40_000) == b""
        with pytest.raises(ConfigurationError, match="choose another port"):
            async with serving({}, port=port):
                pass


async def test_a_probe_is_answered_whoever_else_is_connected_and_says_nothing() -> None:
    async def probe(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, scope, 200, b"ok")

    async with serving({"/livez": probe}, port=0) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        assert [await one.read() for one, _ in silent[:10]] == [b""] * 10
        for _, one in (*silent, (reader, writer)):
            one.close()


async def test_the_small_server_leaves_a_client_that_reads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(small_server, "_ANSWER_S", 0.2)
    most, requested = 50_000_000, asyncio.Event()

    async def large(scope: Any, receive: Any, send: Any) -> None:
        requested.set()
        await respond(send, scope, 200, b"x" * most)

    async with serving({"/large": large}, port=0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
        writer.write(b"GET /large HTTP/1.1\r\n\r\n")
        await requested.wait()
        await asyncio.sleep(1.5)
        read = 0
        with suppress(ConnectionError):
            while text := await reader.read(1_000_000):
                read += len(text)
        writer.close()
    assert read < most


async def test_a_failed_run_is_logged_with_its_traceback_and_without_its_text(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(state: Any) -> Any:
        raise ValueError(f"SECRET {state}")

    graph = StateGraph(dict).add_node("broken", broken)
    graph.add_edge(START, "broken").add_edge("broken", END)
    caplog.set_level(logging.INFO, "aiodurable.events")
    async with Durable(
        dsn, graphs={"broken": graph}, observers=[inline(LoggingObserver())]
    ) as durable:
        with pytest.raises(ValueError, match="SECRET"):
            async with durable.run("t\nforged line", "broken") as run:
                await run.ainvoke({"a": 1})
    records = [r for r in caplog.records if r.name == "aiodurable.events"]
    (failed,) = [r for r in records if r.levelno == logging.ERROR]
    assert "in broken" in failed.getMessage()
    assert "ValueError" in failed.getMessage()
    assert "SECRET" not in failed.getMessage()
    assert "\nforged" not in failed.getMessage()
    line = JsonFormatter().format(failed)
    assert "SECRET" not in line
    assert '"event": "AttemptEnded"' in line
    assert "\n" not in line


def test_a_message_of_several_lines_is_whole_in_one_line_of_json() -> None:
    record = logging.LogRecord("app", logging.INFO, "f", 1, "first\n%s", ("second",), None)
    line = JsonFormatter().format(record)
    assert json.loads(line)["message"] == "first\nsecond"
    assert "\n" not in line
