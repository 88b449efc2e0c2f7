"""Who takes part in `python -m benchmarks worker`: each accepts a thread's run in Postgres, and
worker processes execute it.

A run is four nodes that carry a state, or four durable steps with DBOS and Absurd. Procrastinate
and PgQueuer have no steps: their task runs the same graph with LangGraph's own saver.

`python -m benchmarks.queues NAME DSN CONCURRENCY` is one worker process: it prints "ready", and
works until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg

from aiodurable import Durable
from aiodurable.dsn import parse_dsn
from aiodurable.queue.new_run import NewRun

from .contenders import NODES, State, for_sqlalchemy, four_nodes, stock, words

Create = Callable[[Sequence[str]], Awaitable[object]]
Opened = AbstractAsyncContextManager[None]
DIRECT = "durable.run, no queue"
OURS = "aiodurable"
_QUEUE = "bench"


@dataclass(frozen=True, slots=True)
class Queue:
    """A contender.

    Attributes:
        prepare: makes what its tables need, once.
        creating: opens what accepts a batch of runs, one for each thread_id.
        working: opens what executes them, so many at a time, until it is closed.
        settled: SQL for the number of runs that have ended, since ever.
        modules: what must be installed.
    """

    prepare: Callable[[str], Awaitable[object]]
    creating: Callable[[str], AbstractAsyncContextManager[Create]]
    working: Callable[[str, int], Opened]
    settled: str
    modules: tuple[str, ...] = ()


async def _our_tables(dsn: str) -> None:
    async with Durable(dsn):
        pass


@asynccontextmanager
async def _our_creates(dsn: str) -> AsyncIterator[Create]:
    async with Durable(dsn, graphs={"four": four_nodes(0)}) as durable:

        async def create(thread_ids: Sequence[str]) -> None:
            if len(thread_ids) == 1:
                await durable.runs.create(thread_ids[0], "four", {"count": 0}, queue=_QUEUE)
            else:
                await durable.runs.create_many(
                    NewRun(thread_id=thread_id, graph="four", input={"count": 0}, queue=_QUEUE)
                    for thread_id in thread_ids
                )

        yield create


@asynccontextmanager
async def _our_worker(dsn: str, concurrency: int) -> AsyncIterator[None]:
    async with (
        Durable(dsn, graphs={"four": four_nodes(0)}) as durable,
        durable.work(queues=[_QUEUE], concurrency=concurrency),
    ):
        yield


@asynccontextmanager
async def _nothing_created(dsn: str) -> AsyncIterator[Create]:
    del dsn

    async def create(thread_ids: Sequence[str]) -> None:
        """The worker processes get the thread_ids themselves."""

    yield create


@asynccontextmanager
async def _direct(dsn: str, concurrency: int) -> AsyncIterator[None]:
    """Executes the thread_ids that standard input brings."""
    thread_ids: asyncio.Queue[str] = asyncio.Queue()
    _on_line(thread_ids.put_nowait)
    async with Durable(dsn, graphs={"four": four_nodes(0)}) as durable:

        async def caller() -> None:
            while True:
                async with durable.run(await thread_ids.get(), "four") as run:
                    await run.ainvoke({"count": 0})

        async with _tasks(caller() for _ in range(concurrency)):
            yield


async def _dbos_tables(dsn: str) -> None:
    async with _dbos(dsn, 0):
        pass


@asynccontextmanager
async def _dbos_creates(dsn: str) -> AsyncIterator[Create]:
    from dbos import DBOSClient  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    client = await asyncio.to_thread(DBOSClient, system_database_url=for_sqlalchemy(dsn))

    async def create(thread_ids: Sequence[str]) -> None:
        gate = asyncio.Semaphore(10)  # it has no batches

        async def one(thread_id: str) -> None:
            async with gate:
                await client.enqueue_async(
                    {
                        "workflow_name": "four",
                        "queue_name": _QUEUE,
                        "workflow_id": thread_id,
                    },
                    {"count": 0},
                )

        await asyncio.gather(*map(one, thread_ids))

    try:
        yield create
    finally:
        await asyncio.to_thread(client.destroy)


@asynccontextmanager
async def _dbos(dsn: str, concurrency: int) -> AsyncIterator[None]:
    from dbos import DBOS  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    text = words(0)
    await asyncio.to_thread(
        DBOS,
        config={
            "name": "bench",
            "system_database_url": for_sqlalchemy(dsn),
            "log_level": "ERROR",
            "application_version": "1",
        },
    )

    @DBOS.step()  # pyright: ignore[reportUntypedFunctionDecorator]
    async def step(state: State) -> State:
        return {"text": text, "count": state.get("count", 0) + 1}

    @DBOS.workflow(name="four")  # pyright: ignore[reportUntypedFunctionDecorator]
    async def workflow(state: State) -> State:
        for _ in NODES:
            state = await step(state)
        return state

    await asyncio.to_thread(DBOS.launch)
    if concurrency:
        await DBOS.register_queue_async(
            _QUEUE, worker_concurrency=concurrency, polling_interval_sec=0.1
        )
    try:
        yield
    finally:
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True)


def _procrastinate_app(dsn: str) -> Any:
    from procrastinate import App, PsycopgConnector  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    return App(connector=PsycopgConnector(conninfo=parse_dsn(dsn).conninfo, max_size=10))


async def _procrastinate_tables(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(parse_dsn(dsn).conninfo) as connection:
        found = await connection.execute("SELECT to_regclass('procrastinate_jobs') IS NOT NULL")
        there = await found.fetchone()
    if there != (True,):
        async with _procrastinate_app(dsn).open_async() as app:
            await app.schema_manager.apply_schema_async()
    await _stock_tables(dsn)


async def _stock_tables(dsn: str) -> None:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver  # noqa: PLC0415

    async with AsyncPostgresSaver.from_conn_string(parse_dsn(dsn).conninfo) as saver:
        await saver.setup()


@asynccontextmanager
async def _procrastinate_creates(dsn: str) -> AsyncIterator[Create]:
    async with _procrastinate_app(dsn).open_async() as app:
        task = app.configure_task("four", queue=_QUEUE)

        async def create(thread_ids: Sequence[str]) -> None:
            for start in range(0, len(thread_ids), 500):
                await task.batch_defer_async(
                    *({"thread_id": thread_id} for thread_id in thread_ids[start : start + 500])
                )

        yield create


@asynccontextmanager
async def _procrastinate(dsn: str, concurrency: int) -> AsyncIterator[None]:
    async with stock(dsn, 0) as run, _procrastinate_app(dsn).open_async() as app:

        @app.task(name="four", queue=_QUEUE)  # pyright: ignore[reportUntypedFunctionDecorator]
        async def four(thread_id: str) -> None:
            await run(thread_id)

        working = app.run_worker_async(
            queues=[_QUEUE],
            concurrency=concurrency,
            fetch_job_polling_interval=0.25,
            install_signal_handlers=False,
        )
        async with _tasks([working]):
            yield


async def _pgqueuer_tables(dsn: str) -> None:
    from pgqueuer import Queries  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    try:
        if not await connection.fetchval("SELECT to_regclass('pgqueuer') IS NOT NULL"):
            await Queries.from_asyncpg_connection(connection).install()
    finally:
        await connection.close()
    await _stock_tables(dsn)


@asynccontextmanager
async def _pgqueuer_creates(dsn: str) -> AsyncIterator[Create]:
    from pgqueuer import Queries  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    queries = Queries.from_asyncpg_connection(connection)

    async def create(thread_ids: Sequence[str]) -> None:
        for start in range(0, len(thread_ids), 500):
            some = thread_ids[start : start + 500]
            await queries.enqueue(
                ["four"] * len(some), [one.encode() for one in some], [0] * len(some)
            )

    try:
        yield create
    finally:
        await connection.close()


@asynccontextmanager
async def _pgqueuer(dsn: str, concurrency: int) -> AsyncIterator[None]:
    from datetime import timedelta  # noqa: PLC0415

    from pgqueuer import PgQueuer  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    queuer = PgQueuer.from_asyncpg_connection(connection)
    async with stock(dsn, 0) as run:

        @queuer.entrypoint("four")  # pyright: ignore[reportUntypedFunctionDecorator]
        async def four(job: Any) -> None:
            await run(job.payload.decode())

        working = queuer.run(
            batch_size=concurrency,
            max_concurrent_tasks=2 * concurrency,
            dequeue_timeout=timedelta(seconds=0.25),
        )
        async with _tasks([working]):
            yield
    await connection.close()


def _absurd_client(dsn: str) -> Any:
    from absurd_sdk import AsyncAbsurd  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    return AsyncAbsurd(parse_dsn(dsn).conninfo, queue_name=_QUEUE)


async def _absurd_tables(dsn: str) -> None:
    from absurdctl import BUNDLED_SCHEMA_SQL  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    conninfo = parse_dsn(dsn).conninfo
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        found = await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'absurd'")
        if not await found.fetchone():
            await connection.execute(BUNDLED_SCHEMA_SQL)
    client = _absurd_client(dsn)
    await client.create_queue()
    await client.close()


@asynccontextmanager
async def _absurd_creates(dsn: str) -> AsyncIterator[Create]:
    clients = [_absurd_client(dsn) for _ in range(10)]

    async def create(thread_ids: Sequence[str]) -> None:
        async def some(client: Any, mine: Sequence[str]) -> None:
            for thread_id in mine:  # it has no batches
                await client.spawn("four", {"thread_id": thread_id, "count": 0}, queue=_QUEUE)

        await asyncio.gather(
            *(
                some(client, thread_ids[place :: len(clients)])
                for place, client in enumerate(clients)
            )
        )

    try:
        yield create
    finally:
        for client in clients:
            await client.close()


@asynccontextmanager
async def _absurd(dsn: str, concurrency: int) -> AsyncIterator[None]:
    """Its client has one connection, on which its tasks wait for each other: so ten of them."""
    text = words(0)

    async def four(state: Any, context: Any) -> Any:
        async def step() -> State:
            return {"text": text, "count": state.get("count", 0) + 1}

        for name in NODES:
            state = await context.step(name, step)
        return state

    clients = [_absurd_client(dsn) for _ in range(10)]
    for client in clients:
        client.register_task("four")(four)
    each = max(1, concurrency // len(clients))
    working = [
        client.start_worker(worker_id=f"{id(client)}", concurrency=each, poll_interval=0.05)
        for client in clients
    ]
    try:
        async with _tasks(working):
            yield
    finally:
        for client in clients:
            await client.close()


@asynccontextmanager
async def _tasks(bodies: Any) -> AsyncIterator[None]:
    """Run these for the body, then cancel them."""
    tasks = [asyncio.ensure_future(body) for body in bodies]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.wait(tasks)


_RUNS = "SELECT count(*) FROM aiodurable_runs WHERE finished_at IS NOT NULL"
QUEUES: dict[str, Queue] = {
    OURS: Queue(_our_tables, _our_creates, _our_worker, _RUNS),
    DIRECT: Queue(_our_tables, _nothing_created, _direct, _RUNS),
    "DBOS": Queue(
        _dbos_tables,
        _dbos_creates,
        _dbos,
        "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'",
        ("dbos",),
    ),
    "Procrastinate, stock saver": Queue(
        _procrastinate_tables,
        _procrastinate_creates,
        _procrastinate,
        "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'",
        ("procrastinate",),
    ),
    "PgQueuer, stock saver": Queue(
        _pgqueuer_tables,
        _pgqueuer_creates,
        _pgqueuer,
        "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'",
        ("pgqueuer",),
    ),
    "Absurd": Queue(
        _absurd_tables,
        _absurd_creates,
        _absurd,
        f"SELECT count(*) FROM absurd.t_{_QUEUE} WHERE state = 'completed'",
        ("absurd_sdk", "absurdctl"),
    ),
}

_heard: list[Callable[[str], None]] = []


def _on_line(receive: Callable[[str], None]) -> None:
    _heard.append(receive)


async def work(name: str, dsn: str, concurrency: int) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(QUEUES[name].working(dsn, concurrency))
        print("ready", flush=True)
        while line := await reader.readline():
            for receive in _heard:
                for thread_id in json.loads(line):
                    receive(thread_id)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2], int(sys.argv[3])))
