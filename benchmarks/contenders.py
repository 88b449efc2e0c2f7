"""Who takes part, each as one awaitable call a thread: four nodes, or four durable steps, that do
nothing but carry a state.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from random import Random
from typing import Any, TypedDict
from urllib.parse import quote, urlencode

import psycopg
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from aiodurable import Durable, Settings
from aiodurable.dsn import parse_dsn

Run = Callable[[str], Awaitable[Any]]
NODES = ("a", "b", "c", "d")
OURS = "aiodurable"
LEAN = "aiodurable, lean rows"
"""Without what the tasks of a step returned, where it ended in one go."""
BASE = "stock saver, sync"
CONNECTIONS = 10
"""For each contender that takes a pool; aiodurable's own default is two lock sessions, two writers
and its small pool.
"""


class State(TypedDict, total=False):
    text: list[str]
    count: int


def words(state_kb: int) -> list[str]:
    """So many kB of random hexadecimal digits, as strings of 1 kB; 0: a few words.

    No method of Postgres makes them smaller: pglz and lz4 look for what comes again, and only a
    code of four bits a digit, which neither has, would halve them. So what stands in the WAL is
    what was sent, and the time of compressing is that of a search in vain. Prose is stored as 0.58
    (pglz) or 0.68 (lz4) of its size.
    """
    return [Random(number).randbytes(512).hex() for number in range(state_kb)] or [
        "a few words of state"
    ]


def four_nodes(state_kb: int) -> StateGraph[Any, Any, Any, Any]:
    text = words(state_kb)

    async def node(state: State) -> State:
        return {"text": text, "count": state.get("count", 0) + 1}

    builder = StateGraph(State).add_sequence([(name, node) for name in NODES])
    return builder.add_edge(START, NODES[0]).add_edge(NODES[-1], END)


@asynccontextmanager
async def aiodurable(
    dsn: str, state_kb: int, *, keep_step_writes: bool = True
) -> AsyncGenerator[Run, None]:
    settings = Settings(keep_step_writes=keep_step_writes)
    async with Durable(dsn, graphs={"four": four_nodes(state_kb)}, settings=settings) as durable:

        async def run(thread_id: str) -> Any:
            async with durable.run(thread_id, "four") as opened:
                return await opened.ainvoke({"count": 0})

        yield run


@asynccontextmanager
async def in_memory(dsn: str, state_kb: int) -> AsyncIterator[Run]:
    del dsn
    saver = InMemorySaver()
    graph = four_nodes(state_kb).compile(checkpointer=saver)

    async def run(thread_id: str) -> Any:
        result = await graph.ainvoke(
            {"count": 0}, {"configurable": {"thread_id": thread_id}}, durability="sync"
        )
        saver.delete_thread(thread_id)  # it would fill the memory, and then measure that
        return result

    yield run


class NoLock:
    """In the place of the stock saver's lock."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc_info: object) -> None: ...


@asynccontextmanager
async def stock(
    dsn: str, state_kb: int, *, durability: Any = "sync", lock: bool = True
) -> AsyncGenerator[Run, None]:
    options = {"autocommit": True, "row_factory": dict_row, "prepare_threshold": 0}
    conninfo = parse_dsn(dsn).conninfo
    async with AsyncConnectionPool(
        conninfo, min_size=CONNECTIONS, max_size=CONNECTIONS, timeout=600, kwargs=options
    ) as pool:
        saver: Any = AsyncPostgresSaver(pool)  # pyright: ignore[reportArgumentType]
        if not lock:
            saver.lock = NoLock()
        graph = four_nodes(state_kb).compile(checkpointer=saver)

        async def run(thread_id: str) -> Any:
            config: Any = {"configurable": {"thread_id": thread_id}}
            return await graph.ainvoke({"count": 0}, config, durability=durability)

        yield run


def for_sqlalchemy(dsn: str) -> str:
    """With everything but the login in the query, where a socket's folder is understood."""
    place = {name: str(value) for name, value in conninfo_to_dict(parse_dsn(dsn).conninfo).items()}
    login = ":".join(
        quote(place.pop(name), safe="") for name in ("user", "password") if name in place
    )
    return f"postgresql+psycopg://{login}@/{quote(place.pop('dbname'))}?{urlencode(place)}"


@asynccontextmanager
async def dbos(dsn: str, state_kb: int) -> AsyncIterator[Run]:
    """A workflow of four steps in its own schema of the same database."""
    from dbos import DBOS, SetWorkflowID  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    text = words(state_kb)
    url = for_sqlalchemy(dsn)
    await asyncio.to_thread(
        DBOS, config={"name": "bench", "system_database_url": url, "log_level": "ERROR"}
    )

    @DBOS.step()  # pyright: ignore[reportUntypedFunctionDecorator]
    async def step(state: State) -> State:
        return {"text": text, "count": state.get("count", 0) + 1}

    @DBOS.workflow()  # pyright: ignore[reportUntypedFunctionDecorator]
    async def workflow(state: State) -> State:
        for _ in NODES:
            state = await step(state)
        return state

    async def run(thread_id: str) -> Any:
        with SetWorkflowID(thread_id):
            return await workflow({"count": 0})

    await asyncio.to_thread(DBOS.launch)
    try:
        yield run
    finally:
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True)
        # it had made its own executor the loop's, and has shut it down
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())


@asynccontextmanager
async def absurd(dsn: str, state_kb: int) -> AsyncIterator[Run]:
    """A task of four steps. Each of ten clients spawns a task and then works one off, so that
    nobody waits for a poll.

    A claim passes over rows that another one has locked, so it may come back with nothing: then it
    is made again.
    """
    from absurd_sdk import AsyncAbsurd  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    from absurdctl import BUNDLED_SCHEMA_SQL  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    conninfo = parse_dsn(dsn).conninfo
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        if not await (
            await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'absurd'")
        ).fetchone():
            await connection.execute(BUNDLED_SCHEMA_SQL)
    text = words(state_kb)
    finished: dict[str, asyncio.Future[Any]] = {}

    async def task(state: Any, context: Any) -> Any:
        thread_id = state.pop("thread_id")

        async def step() -> State:
            return {"text": text, "count": state.get("count", 0) + 1}

        for name in NODES:
            state = await context.step(name, step)
        finished[thread_id].set_result(state)
        return state

    clients: asyncio.Queue[Any] = asyncio.Queue()

    @asynccontextmanager
    async def lent() -> AsyncIterator[Any]:
        client = await clients.get()
        try:
            yield client
        finally:
            clients.put_nowait(client)

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            client = AsyncAbsurd(conninfo, queue_name="bench")
            stack.push_async_callback(client.close)
            client.register_task("four")(task)
            await client.create_queue()
            clients.put_nowait(client)

        async def run(thread_id: str) -> Any:
            done = finished[thread_id] = asyncio.get_running_loop().create_future()
            async with lent() as client:
                await client.spawn("four", {"thread_id": thread_id, "count": 0})
                await client.work_batch()
            while not (await asyncio.wait({done}, timeout=0.02))[0]:
                async with lent() as client:
                    await client.work_batch()
            del finished[thread_id]
            return done.result()

        yield run


CONTENDERS: dict[str, Callable[[str, int], AbstractAsyncContextManager[Run]]] = {
    "in memory": in_memory,
    OURS: aiodurable,
    LEAN: lambda dsn, state_kb: aiodurable(dsn, state_kb, keep_step_writes=False),
    BASE: stock,
    "stock saver, async": lambda dsn, state_kb: stock(dsn, state_kb, durability="async"),
    "stock saver, exit": lambda dsn, state_kb: stock(dsn, state_kb, durability="exit"),
    "stock saver, no lock": lambda dsn, state_kb: stock(dsn, state_kb, lock=False),
    "DBOS": dbos,
    "Absurd": absurd,
}
NEEDED = {"DBOS": ("dbos",), "Absurd": ("absurd_sdk", "absurdctl")}


def missing(name: str) -> list[str]:
    """The modules that a contender lacks here."""
    return [module for module in NEEDED.get(name, ()) if find_spec(module) is None]
