"""The rows are byte for byte the stock saver's: the same calls go to both, then the tables are
compared.
"""

import asyncio
import copy
import dataclasses
import datetime as dt
import random
import uuid
from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from typing import Any

import asyncpg
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from aiodurable.checkpoints import DurableSaver
from aiodurable.checkpoints.encoding import Rows, Write, commit, dump_json
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.dsn import parse_dsn
from aiodurable.postgres.text_columns import as_texts
from tests.support.checkpoint_rows import State, checkpoint, config, fan_out, linear, rows, step


class Recorder(InMemorySaver):
    """Remembers the calls that write."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def get_next_version(self, current: Any, channel: Any) -> Any:
        return AsyncPostgresSaver.get_next_version(self, current, channel)  # pyright: ignore[reportArgumentType]

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        self.calls.append(("aput", (config, *copy.deepcopy((checkpoint, metadata, new_versions)))))
        return await super().aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: Any, writes: Any, task_id: str, task_path: str = ""
    ) -> None:
        self.calls.append(("aput_writes", (config, copy.deepcopy(writes), task_id, task_path)))
        await super().aput_writes(config, writes, task_id, task_path)


async def replay(
    calls: list[tuple[str, tuple[Any, ...]]], saver: AsyncPostgresSaver, thread_id: str
) -> None:
    for name, (call_config, *rest) in calls:
        await getattr(saver, name)(
            {
                **call_config,
                "configurable": {**call_config["configurable"], "thread_id": thread_id},
            },
            *rest,
        )


@pytest.fixture
async def stock(dsn: str) -> AsyncIterator[AsyncPostgresSaver]:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        yield saver


async def run_linear(saver: InMemorySaver) -> None:
    await linear().compile(saver).ainvoke({"topic": "tides"}, config("t"))


async def run_fan_out(saver: InMemorySaver) -> None:
    await fan_out().compile(saver).ainvoke({"topic": "tides"}, config("t"))


async def run_subgraph(saver: InMemorySaver) -> None:
    outer = StateGraph(State)
    outer.add_node("inner", linear(2).compile())
    outer.add_node("last", step("last"))
    outer.add_edge(START, "inner")
    outer.add_edge("inner", "last")
    await outer.compile(saver).ainvoke({"topic": "tides"}, config("t"))


async def run_interrupt(saver: InMemorySaver) -> None:
    async def ask(state: State) -> State:
        return {"seen": [interrupt("which?"), interrupt("and?")]}

    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    graph = builder.compile(saver)
    await graph.ainvoke({"topic": "tides"}, config("t"))
    await graph.ainvoke(Command(resume="this"), config("t"))
    await graph.ainvoke(Command(resume="that"), config("t"))


async def run_failure(saver: InMemorySaver) -> None:
    async def fail(state: State) -> State:
        raise ValueError("no tide today")

    builder = StateGraph(State)
    builder.add_node("good", step("good"))
    builder.add_node("bad", fail)
    builder.add_edge(START, "good")
    builder.add_edge(START, "bad")
    with pytest.raises(ValueError, match="no tide"):
        await builder.compile(saver).ainvoke({"topic": "tides"}, config("t"))


async def run_functional(saver: InMemorySaver) -> None:
    @task
    async def double(number: int) -> int:
        return number * 2

    @entrypoint(checkpointer=saver)
    async def workflow(number: int, *, previous: Any = None) -> Any:
        return entrypoint.final(value=await double(number), save=[number, previous])

    await workflow.ainvoke(3, config("t"))
    await workflow.ainvoke(4, config("t"))


async def run_update_and_fork(saver: InMemorySaver) -> None:
    graph = linear(2).compile(saver)
    await graph.ainvoke({"topic": "tides"}, config("t"))
    await graph.aupdate_state(config("t"), {"total": 5}, as_node="step1")
    history = [state async for state in graph.aget_state_history(config("t"))]
    await graph.ainvoke(None, history[-2].config)


@pytest.mark.parametrize(
    "scenario",
    [
        run_linear,
        run_fan_out,
        run_subgraph,
        run_interrupt,
        run_failure,
        run_functional,
        run_update_and_fork,
    ],
    ids=lambda scenario: scenario.__name__,
)
async def test_what_a_graph_stores_is_stored_in_the_same_rows(
    scenario: Callable[[InMemorySaver], Any],
    stock: AsyncPostgresSaver,
    saver: DurableSaver,
    db: asyncpg.Connection,
    lease: Any,
) -> None:
    recorder = Recorder()
    await scenario(recorder)
    await lease("ours")

    await replay(recorder.calls, stock, "theirs")
    await replay(recorder.calls, saver, "ours")
    await replay(recorder.calls, saver, "unleased")

    theirs = await rows(db, "theirs", renamed="x")
    assert theirs["checkpoints"]
    assert theirs["checkpoint_writes"]
    assert await rows(db, "ours", renamed="x") == theirs
    assert await rows(db, "unleased", renamed="x") == theirs


async def committed(
    db: asyncpg.Connection, fence: Fence, company: Fence | None, *calls: Rows
) -> list[tuple[Any, ...]]:
    """Store the calls of `fence` one by one, in a batch of its own or with a step of another
    thread; what each answered for its thread.
    """
    answers: list[tuple[Any, ...]] = []
    for number, call in enumerate(calls):
        batch = [(fence, call)]
        if company is not None:
            other = (company.thread_id, "", f"{number}", None, "{}", "{}")
            batch.append((company, Rows(checkpoints=[other])))
        done = asyncio.get_running_loop().create_future()
        statement, parameters = as_texts(
            *commit(Write(WriteSession(of), rows, done, 0.0) for of, rows in batch)
        )
        answers += [
            (row[1], *(value is not None for value in tuple(row)[2:]))
            for row in await db.fetch(statement, *parameters)
            if row[0] == fence.thread_id
        ]
    return answers


@pytest.mark.parametrize("token", [1, 2], ids=["held", "stale"])
@pytest.mark.parametrize("locked", [False, True])
async def test_a_batch_of_one_thread_does_what_one_of_several_does(
    db: asyncpg.Connection, dsn: str, token: int, locked: bool
) -> None:
    def calls(thread: str) -> list[Rows]:
        def head(number: int, parent: str | None, namespace: str = "") -> Any:
            return thread, namespace, f"{number}", parent, "{}", '{"a": "b"}'

        def write(number: int, idx: int, channel: str, value: bytes) -> Any:
            kind = None if channel == "none" else "msgpack"
            return thread, "", f"{number}", "task", "~path", idx, channel, kind, value

        def blob(channel: str, value: bytes | None) -> Any:
            return thread, "", channel, "1", "empty" if value is None else "msgpack", value

        return [
            Rows(
                blobs=[blob("a", b"x"), blob("gone", None)],
                checkpoints=[head(1, None), head(2, "1")],
                writes=[write(1, 0, "a", b"x"), write(1, 1, "none", b""), write(1, 2, "b", b"")],
                consumes=f"run of {thread}",
            ),
            Rows(writes=[write(2, 0, "a", b"y" * 2000)], blobs=[blob("c", b"y" * 2000)]),
            Rows(checkpoints=[head(1, None, "inner")]),
            Rows(checkpoints=[head(3, "2")], ends=f"run of {thread}"),
        ]

    async def after(fence: Fence, company: Fence | None) -> Any:
        thread = fence.thread_id
        await db.execute(
            "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, fencing_token, seq, status)"
            " VALUES ('run of ' || $1::text, $1::text, 1, 1, 1, 'running')",
            thread,
        )
        if locked:
            await other.execute("BEGIN")
            await other.execute(
                "UPDATE aiodurable_runs SET lock_key = 2 WHERE thread_id = $1", thread
            )
        answers = await committed(db, fence, company, *calls(thread))
        if locked:
            await other.execute("ROLLBACK")
        run = await db.fetchrow(
            "SELECT status, consumed, checkpoint_id, finished_at IS NULL FROM aiodurable_runs"
            " WHERE thread_id = $1",
            thread,
        )
        return answers, run and tuple(run), await rows(db, thread, renamed="x")

    other = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    await db.execute(
        "INSERT INTO aiodurable_fences (thread_id, token) VALUES ('one', 1), ('two', 1), ('z', 1)"
    )
    alone = await after(Fence("one", token), None)
    together = await after(Fence("two", token), Fence("z", 1))
    await other.close()

    assert alone == together
    answers, run, stored = alone
    if token == 2:
        assert (answers, run) == ([], ("running", False, None, True))
        assert not any(stored.values())
    else:
        assert answers == [(True,), (True,), (True,), (True, not locked, False)]
        assert run == (("running", False, None, True) if locked else ("complete", True, "3", False))
        assert [len(stored[table]) for table in stored] == [4, 3, 4]


async def sent(*writes: tuple[str, bytes, bytes]) -> int:
    """The bytes of all values that are sent for batched steps: thread, its write, its channel's
    value.
    """
    batch: list[Write] = []
    for thread_id, write, blob in writes:
        stored = Rows(
            blobs=[(thread_id, "", "page", "1", "msgpack", blob)],
            checkpoints=[(thread_id, "", "1", None, "{}", "{}")],
            writes=[(thread_id, "", "0", "task", "", 0, "page", "msgpack", write)],
        )
        done = asyncio.get_running_loop().create_future()
        batch.append(Write(WriteSession(Fence(thread_id, 1)), stored, done, 0.0))
    _, parameters = commit(batch)
    return len(next(one for one in parameters if isinstance(one, bytes)))


async def test_a_large_value_that_a_step_wrote_and_a_channel_keeps_is_sent_once() -> None:
    page, other = b"p" * 10_000, b"p" * 9_999 + b"q"
    assert await sent(("t", page, bytes(bytearray(page)))) == 10_000
    assert await sent(("t", page, other)) == 20_000
    assert await sent(("t", page, page), ("u", page, page), ("v", page, b"")) == 30_000


async def test_large_values_of_one_batch_are_stored_alike_whether_equal_or_of_equal_length(
    stock: AsyncPostgresSaver, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    await lease("ours")
    page, picture, changed = ["p" * 5000], ["q" * 5000], ["r" * 5000]
    made, versions = checkpoint(page=page, picture=picture)
    writes = [("page", page), ("picture", changed), ("other", changed)]
    for thread_id, target in (("theirs", stock), ("ours", saver)):
        await asyncio.gather(
            target.aput(config(thread_id), copy.deepcopy(made), {}, versions),  # pyright: ignore[reportArgumentType]
            target.aput_writes(config(thread_id, made["id"]), writes, "task"),
        )

    assert await rows(db, "ours", renamed="x") == await rows(db, "theirs", renamed="x")


@dataclasses.dataclass
class Tide:
    height: float
    at: dt.datetime


class Moon(StrEnum):
    NEW = "new"


VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "small": 7,
    "large": 2**70,
    "float": 0.1,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "whole": 1.0,
    "text": 'naïve "tide" \\ \n \U0001f30a',
    "long": "x" * 100_000,
    "enum": Moon.NEW,
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"\x00\xfe"),
    "empty": [],
    "nested": {"a": [1, None, {"b": (1, 2)}], "set": {1}},
    "model": Tide(1.5, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
    "uuid": uuid.UUID(int=1),
    "snapshot": _DeltaSnapshot([1, 2]),
}


@pytest.mark.parametrize("name", VALUES)
async def test_every_kind_of_value_is_stored_alike(
    name: str, stock: AsyncPostgresSaver, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    await lease("ours")
    written = VALUES[name] if name != "large" else 0  # msgpack holds 64 bits, JSON any number
    made, versions = checkpoint(value=VALUES[name], other=[1])
    metadata: Any = {
        "source": "loop",
        "step": 1,
        "parents": {},
        "note": "a\0b",
        "writes": {"dropped": 1},
    }
    for thread_id, target in (("theirs", stock), ("ours", saver)):
        stamped: Any = {
            **config(thread_id),
            "metadata": {"user": "u\0", "n": 1.5, "skipped": [1], "__hidden": "x"},
        }
        await target.aput(stamped, copy.deepcopy(made), dict(metadata), versions)  # pyright: ignore[reportArgumentType]
        await target.aput_writes(
            config(thread_id, made["id"]), [("value", written), ("other", 1)], "task", "~path"
        )

    assert await rows(db, "ours", renamed="x") == await rows(db, "theirs", renamed="x")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "nul \0 in text"], ids=["nan", "infinity", "nul"]
)
async def test_what_postgres_refuses_from_the_stock_saver_is_refused_here_too(
    value: Any, stock: AsyncPostgresSaver, saver: DurableSaver, lease: Any
) -> None:
    await lease("ours")
    made, versions = checkpoint(value=value)
    for thread_id, target in (("theirs", stock), ("ours", saver)):
        with pytest.raises(Exception, match=r"json|Unicode|cannot store"):
            await target.aput(config(thread_id), copy.deepcopy(made), {}, versions)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("seed", range(8))
async def test_writes_that_travel_in_one_batch_end_as_if_sent_one_by_one(
    seed: int, stock: AsyncPostgresSaver, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    """INSERT-or-nothing and upsert calls on the same few keys, in random order; and the same
    checkpoint twice.
    """
    await lease("ours")
    chance = random.Random(seed)
    made, versions = checkpoint(value=[seed])
    calls: list[tuple[str, tuple[Any, ...]]] = []
    for number in range(40):
        if chance.random() < 0.2:
            parent = f"{chance.randrange(3):08}"
            calls.append(("aput", (config("t", parent), made, {"step": number}, versions)))
            continue
        channels = chance.choice(
            [["a", "b"], ["__interrupt__"], ["__interrupt__", "__resume__"], ["a", "__interrupt__"]]
        )
        writes = [(channel, f"{channel}{number}") for channel in channels]
        calls.append(
            (
                "aput_writes",
                (config("t", made["id"]), writes, f"task{chance.randrange(2)}", f"path{number}"),
            )
        )

    await replay(calls, stock, "theirs")
    await asyncio.gather(*(replay([call], saver, "ours") for call in calls))

    assert await rows(db, "ours", renamed="x") == await rows(db, "theirs", renamed="x")


def test_json_without_a_null_is_left_as_orjson_made_it() -> None:
    assert dump_json({"a": 1.0}) == '{"a":1.0}'
    assert dump_json({1: 2**70}) == f'{{"1": {2**70}}}'
    assert "NaN" in dump_json({"a": float("nan")})
