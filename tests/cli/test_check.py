"""`aiodurable check` and `threads.check`: which unfinished threads new code cannot resume."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from aiodurable import Durable, PostgresUnavailableError, ProblemKind
from aiodurable.checkpoints.row_reader import RowReader
from aiodurable.cli.commands import cli
from aiodurable.models import ThreadStatus
from aiodurable.runs import check
from aiodurable.settings import Settings
from aiodurable.threads import search
from tests.support.internals import forget_classes
from tests.support.waiting import wait_until

UNFINISHED = [
    status for status in ThreadStatus if status not in (ThreadStatus.NEW, ThreadStatus.COMPLETE)
]

APP = """
import operator
from typing import Annotated, Any, TypedDict
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

class State(TypedDict, total=False):
    xs: Annotated[list[Any], operator.add]

def chain(**nodes):
    builder = StateGraph(State)
    for name, run in nodes.items():
        builder.add_node(name, run)
    for one, other in zip([START, *nodes], nodes):
        builder.add_edge(one, other)
    return builder

async def runs(state): return {"xs": ["ran"]}
async def raises(state): raise ConnectionError("no route")
async def asks(state): return {"xs": [interrupt("sure?")]}
"""
OLD = (
    APP
    + """
graphs = {
    "done": chain(order=runs),
    "order": chain(order=runs, pay=raises, ship=runs),
    "ask": chain(order=runs, approve=asks),
    "value": chain(take=runs, fail=raises),
    "gone": chain(fail=raises),
    "kept": chain(fail=raises),
}
"""
)
NEW = (
    APP
    + """
graphs = {
    "done": chain(other=runs),
    "order": chain(order=runs, charge=runs, ship=runs),
    "ask": chain(order=runs, beside=runs, approve=asks).add_edge(["order", "beside"], "approve"),
    "value": chain(take=runs, fail=runs),
    "kept": chain(fail=runs, more=runs),
}
def mended():
    return {**graphs, "ask": chain(order=runs, approve=asks), "gone": chain(fail=runs)}
"""
)


@dataclasses.dataclass
class Basket:
    """Of a module that the new code does not have."""

    name: str


ALLOWED = Settings(allowed_msgpack_modules=(("models_that_move", "Basket"),))


@pytest.fixture
async def shop(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Threads that the old code left, and the new code as a module."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AIODURABLE_DSN", dsn)
    (tmp_path / "shop_old.py").write_text(OLD)
    (tmp_path / "shop_new.py").write_text(NEW)
    from shop_old import graphs  # pyright: ignore[reportMissingImports]

    models = types.ModuleType("models_that_move")
    monkeypatch.setitem(sys.modules, "models_that_move", models)
    monkeypatch.setattr(Basket, "__module__", "models_that_move")
    models.Basket = Basket  # pyright: ignore[reportAttributeAccessIssue]
    async with Durable(dsn, graphs=graphs, settings=ALLOWED) as durable:
        for name in graphs:
            async with durable.run(f"t-{name}", name) as run:
                with contextlib.suppress(ConnectionError):
                    await run.ainvoke({"xs": [Basket("tea")] if name == "value" else []})
    monkeypatch.delitem(sys.modules, "models_that_move")
    forget_classes()
    yield
    for name in ("shop_old", "shop_new"):
        sys.modules.pop(name, None)
    forget_classes()


@pytest.fixture
def unchanged(dsn: str) -> Iterator[None]:
    """A check changes nothing."""

    def rows() -> list[Any]:
        with psycopg.connect(dsn) as connection:
            tables = (
                "aiodurable_runs",
                "aiodurable_fences",
                "checkpoints",
                "checkpoint_writes",
                "checkpoint_blobs",
            )
            return [
                connection.execute(f"SELECT t::text FROM {t} t ORDER BY 1".encode()).fetchall()
                for t in tables
            ]

    before = rows()
    yield
    assert rows() == before


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["check", *args])


PROBLEMS = {
    "t-ask": ("interrupted", "ask", [("lost question", "approve")]),
    "t-gone": ("failed", "gone", [("unregistered graph", "gone")]),
    "t-order": ("failed", "order", [("missing node", "pay")]),
    "t-value": ("failed", "value", [("undecodable value", "models_that_move.Basket")]),
}


@pytest.mark.usefixtures("shop", "unchanged")
async def test_a_pipeline_gets_each_thread_that_cannot_be_resumed() -> None:
    found = await asyncio.to_thread(run, "--app", "shop_new:graphs", "--json")
    *lines, sums = [json.loads(line) for line in found.stdout.splitlines()]
    told = {
        line["thread_id"]: (
            line["status"],
            line["graph"],
            [(p["kind"], p["name"]) for p in line["problems"]],
        )
        for line in lines
    }
    assert told == PROBLEMS
    kinds = {"lost question": 1, "missing node": 1, "undecodable value": 1, "unregistered graph": 1}
    assert sums == {"checked": 5, "with_problems": 4, "problems": kinds}
    assert found.exit_code == 1

    again = await asyncio.to_thread(run, "--app", "shop_new:graphs")
    assert again.stdout.splitlines() == [
        (
            "t-ask  interrupted  ask  lost question approve: other channels trigger this node now,"
            " so that an answer would not reach what it asked"
        ),
        "t-gone  failed  gone  unregistered graph gone: no graph of this name was given",
        "t-order  failed  order  missing node pay",
        (
            "t-value  failed  value  undecodable value models_that_move.Basket: there is no module"
            " 'models_that_move' here"
        ),
        (
            "5 unfinished threads: 4 cannot be resumed (1 lost question, 1 missing node, 1"
            " undecodable value, 1 unregistered graph)"
        ),
    ]

    mended = await asyncio.to_thread(
        run, "--app", "shop_new:mended", "--rename", "order:pay=charge", "--prefix", "t-o"
    )
    assert (mended.exit_code, mended.stdout) == (0, "1 unfinished thread: all can be resumed\n")
    of_one = await asyncio.to_thread(
        run, "--app", "shop_new:mended", "--rename", "pay=charge", "--status", "interrupted"
    )
    assert (of_one.exit_code, of_one.stdout) == (0, "1 unfinished thread: all can be resumed\n")
    wrong = await asyncio.to_thread(run, "--app", "shop_new:graphs", "--rename", "pay")
    assert (wrong.exit_code, "--rename must be" in wrong.stderr) == (2, True)


@pytest.mark.usefixtures("shop", "unchanged")
async def test_the_verb_gives_every_unfinished_thread_and_imports_nothing_for_them(
    dsn: str,
) -> None:
    import shop_new  # pyright: ignore[reportMissingImports]

    async with Durable(
        dsn, graphs=shop_new.graphs, renamed={"pay": "charge"}, settings=Settings()
    ) as durable:
        found = {thread.thread_id: thread.problems async for thread in durable.threads.check()}
        assert [thread.thread_id async for thread in durable.threads.check(limit=2)] == [
            "t-ask",
            "t-gone",
        ]
    assert {thread_id: [p.kind for p in problems] for thread_id, problems in found.items()} == {
        "t-ask": [ProblemKind.LOST_QUESTION],
        "t-gone": [ProblemKind.UNREGISTERED_GRAPH],
        "t-kept": [],
        "t-order": [],
        "t-value": [ProblemKind.UNDECODABLE],
    }
    assert "models_that_move" not in sys.modules


@pytest.mark.usefixtures("shop")
async def test_no_more_values_are_read_at_once_than_memory_is_given_for(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shop_new  # pyright: ignore[reportMissingImports]

    read: list[list[str]] = []
    steps_of = RowReader.steps_of

    async def noting(reader: RowReader, thread_ids: Sequence[str], **options: Any) -> Any:
        read.append(list(thread_ids))
        return await steps_of(reader, thread_ids, **options)

    monkeypatch.setattr(RowReader, "steps_of", noting)
    async with Durable(dsn, graphs=shop_new.graphs) as durable:
        checkpointer = durable.checkpointer
        threads = [thread.thread_id async for thread in durable.threads.check()]
        assert read == [threads]
        largest, *_ = sorted((await checkpointer.rows.sizes(threads)).values(), reverse=True)
        for most, together in ((largest, 1), (2 * largest, 2), (1, 1)):
            read.clear()
            monkeypatch.setattr(check, "_BYTES_AT_ONCE", most)
            assert [thread.thread_id async for thread in durable.threads.check()] == threads
            assert [thread for some in read for thread in some] == threads
            assert max(map(len, read)) >= together
            sizes = await checkpointer.rows.sizes(threads)
            assert all(len(some) == 1 or sum(sizes[one] for one in some) <= most for some in read)


@pytest.mark.usefixtures("shop")
async def test_a_check_finds_the_threads_that_a_search_finds(dsn: str) -> None:
    import shop_new  # pyright: ignore[reportMissingImports]

    async with Durable(dsn, graphs=shop_new.graphs) as durable:
        for filters in (
            {"status": "failed"},
            {"status": "failed", "error": "no route"},
            {"resumable": True},
            {"graph": "ask"},
            {"prefix": "t-k"},
            {"status": "failed", "doubtful": True},
        ):
            searched = [
                (t.thread_id, t.status, t.graph)
                async for t in durable.threads.search(**{"status": UNFINISHED, **filters})
            ]
            checked = [
                (t.thread_id, t.status, t.graph) async for t in durable.threads.check(**filters)
            ]
            assert checked == searched, filters
            if searched:
                assert [t.thread_id async for t in durable.threads.check(limit=1, **filters)] == [
                    searched[0][0]
                ]


@pytest.mark.usefixtures("shop")
async def test_a_check_that_fails_leaves_nothing_at_work(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shop_new  # pyright: ignore[reportMissingImports]

    at_work = asyncio.Event()

    async def fails(reader: RowReader, *_: Any, **options: Any) -> Any:
        await at_work.wait()
        raise PostgresUnavailableError("no route")

    async def goes_on(reader: RowReader, thread_ids: Sequence[str]) -> dict[str, int]:
        if "t-kept" in thread_ids:
            at_work.set()
            await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(RowReader, "steps_of", fails)
    monkeypatch.setattr(RowReader, "sizes", goes_on)
    monkeypatch.setattr(search, "_STEPS", (1, 1))
    monkeypatch.setattr(check, "_AT_ONCE", 1)
    async with Durable(dsn, graphs=shop_new.graphs) as durable:
        before = asyncio.all_tasks()
        with pytest.raises(PostgresUnavailableError, match="no route"):
            _ = [thread async for thread in durable.threads.check()]
        # the Durable's own, such as a heartbeat, come and go
        await wait_until(lambda: asyncio.all_tasks() <= before, what="no task to be left")
