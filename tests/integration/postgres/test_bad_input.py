"""Bad input is a clear error before anything runs, without a secret, and nothing is lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from langgraph.graph import StateGraph
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from aiodurable import (
    Durable,
    find_failed_workflows,
    get_checkpoint_status,
    needs_resume,
    resume_workflow,
)
from aiodurable.checkpoints import fenced_writer
from aiodurable.errors import (
    ClosedError,
    ConfigurationError,
    GraphNotRegisteredError,
    InvalidArgumentError,
    PostgresUnavailableError,
    ThreadNotFoundError,
)
from aiodurable.models import ThreadStatus
from aiodurable.runs import stored_value
from aiodurable.settings import Settings
from tests.support.graphs import INPUT, STEPS, Story, four_nodes
from tests.support.waiting import wait_until

SECRET = "hunter2-very-secret"


async def test_a_name_that_was_not_registered_says_which_are(dsn: str) -> None:
    async with Durable(dsn, graphs={"report": four_nodes()}) as durable:
        with pytest.raises(GraphNotRegisteredError, match="'rapport'.*report"):
            async with durable.run("t", "rapport"):
                pytest.fail("entered")


@pytest.mark.parametrize(
    "graph", [StateGraph(Story), 42, None, four_nodes], ids=["no nodes", "int", "None", "function"]
)
async def test_what_is_no_graph_is_refused(dsn: str, graph: Any) -> None:
    async with Durable(dsn) as durable:
        with pytest.raises(ConfigurationError):
            async with durable.run("t", graph):
                pytest.fail("entered")


async def test_a_graph_that_must_not_be_saved_is_refused(dsn: str) -> None:
    async with Durable(dsn) as durable:
        with pytest.raises(ConfigurationError, match="checkpointer=False"):
            async with durable.run("t", four_nodes().compile(checkpointer=False)):
                pytest.fail("entered")


async def test_a_bad_graph_is_refused_when_it_is_registered_and_nothing_stays_open(
    dsn: str,
) -> None:
    with pytest.raises(ConfigurationError):
        async with Durable(dsn, graphs={"empty": StateGraph(Story)}):
            pytest.fail("opened")
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND"
        " application_name LIKE 'aiodurable:%'"
    )
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

        async def nothing_open() -> bool:
            return await (await connection.execute(query)).fetchone() == (0,)

        await wait_until(nothing_open)


async def test_a_state_that_cannot_be_stored_fails_clearly_and_the_thread_goes_on_from_before(
    dsn: str,
) -> None:
    bad = True

    builder = StateGraph(Story)

    async def fine(state: Story) -> dict[str, Any]:
        return {"words": ["fine"]}

    async def broken(state: Story) -> dict[str, Any]:
        return {"words": [(lambda: None) if bad else "mended"]}

    builder.add_node("fine", fine)
    builder.add_node("broken", broken)
    builder.set_entry_point("fine")
    builder.add_edge("fine", "broken")
    async with Durable(dsn) as durable:
        async with durable.run("t", builder) as run:
            with pytest.raises(ConfigurationError, match="cannot store the state of thread 't'"):
                await run.ainvoke(INPUT)
        assert (await durable.threads.status("t")).status.unfinished
        bad = False
        async with durable.run("t", builder) as run:
            assert (await run.ainvoke())["words"] == ["fine", "mended"]


@pytest.fixture
def small_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Postgres took no more than 100 kB, for a real gigabyte takes minutes."""
    for module in (fenced_writer, stored_value):
        monkeypatch.setattr(module, "MOST_BYTES", 100_000)


@pytest.mark.usefixtures("small_statements")
async def test_a_step_too_large_for_a_statement_is_refused_before_it_is_sent_and_costs_no_lease(
    dsn: str,
) -> None:
    builder = StateGraph(Story)
    large = True

    async def fine(state: Story) -> dict[str, Any]:
        return {"words": ["x" * 90_000]}

    async def large_step(state: Story) -> dict[str, Any]:
        return {"words": ["x" * 110_000 if large else "small"]}

    builder.add_node("fine", fine)
    builder.add_node("large", large_step)
    builder.set_entry_point("fine")
    builder.add_edge("fine", "large")
    async with Durable(dsn) as durable:
        async with durable.run("t", builder) as run:
            with pytest.raises(
                ConfigurationError,
                match=r"0\.00 GB, and Postgres takes no statement of more than 0\.00",
            ):
                await run.ainvoke(INPUT)
            assert not run.lease.lost
        assert (await durable.threads.status("t")).pending == ("large",)
        large = False
        async with durable.run("t", builder) as run:
            assert (await run.ainvoke())["words"][1:] == ["small"]


@pytest.mark.usefixtures("small_statements")
async def test_an_input_too_large_for_a_statement_is_refused_and_nothing_is_accepted(
    dsn: str,
) -> None:
    async with Durable(dsn) as durable:
        async with durable.run("t", four_nodes()) as run:
            with pytest.raises(InvalidArgumentError, match="cannot store the input"):
                await run.ainvoke({"words": [], "told": "x" * 110_000})
        assert (await durable.threads.status("t")).status is ThreadStatus.NEW


async def test_a_context_that_cannot_be_stored_is_refused(dsn: str) -> None:
    async with Durable(dsn) as durable:
        async with durable.run("t", four_nodes(), context={"client": lambda: None}) as run:
            with pytest.raises(InvalidArgumentError, match="cannot store the context"):
                await run.ainvoke(INPUT)


@pytest.mark.parametrize("run_id", ["", "a\0b", "x" * 513, "\ud800", 7, ["a"]])
async def test_a_run_id_that_cannot_be_stored_is_refused_before_a_lease_is_taken(
    dsn: str, run_id: Any
) -> None:
    async with Durable(dsn) as durable:
        with pytest.raises(InvalidArgumentError, match="run_id") as refused:
            async with durable.run("t", four_nodes(), run_id=run_id):
                pytest.fail("entered")
        assert refused.value.argument == "run_id"
        assert (await durable.threads.status("t")).status is ThreadStatus.NEW


@pytest.mark.parametrize(
    "configurable",
    [{"thread_id": "other"}, {"checkpoint_id": "1ef"}, {"checkpoint_ns": "inner:1"}],
    ids=lambda c: next(iter(c)),
)
async def test_a_config_that_addresses_something_else_is_refused(
    dsn: str, configurable: dict[str, str]
) -> None:
    async with Durable(dsn) as durable:
        with pytest.raises(InvalidArgumentError):
            async with durable.run("t", four_nodes(), config={"configurable": configurable}):
                pytest.fail("entered")


async def test_a_closed_durable_says_so(dsn: str) -> None:
    durable = Durable(dsn, graphs={"report": four_nodes()})
    calls = [
        lambda: durable.run("t", "report"),
        lambda: durable.hold("t"),
        lambda: durable.checkpointer,
        lambda: durable.locks,
    ]
    for _ in range(2):
        for call in calls:
            with pytest.raises(ClosedError, match="async with Durable"):
                call()
        with pytest.raises(ClosedError):
            await durable.threads.status("t")
        async with durable:
            pass
        await durable.aclose()


def changed(dsn: str, **options: str) -> str:
    return make_conninfo(
        "", **{**{k: str(v) for k, v in conninfo_to_dict(dsn).items() if v is not None}, **options}
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dbname": "no_such_database"}, "no such database"),
        ({"host": "no-such-host.invalid", "port": "5432"}, "host"),
        ({"host": "127.0.0.1", "port": "1"}, "running"),
        ({"user": "no_such_role"}, "user"),
    ],
    ids=["database", "host name", "port", "user"],
)
async def test_a_wrong_address_says_what_is_wrong_and_never_the_password(
    dsn: str, admin: psycopg.Connection[Any], options: dict[str, str], said: str
) -> None:
    admin.execute(
        "DO $$ BEGIN CREATE ROLE knower LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    admin.execute(
        sql.SQL("ALTER ROLE knower PASSWORD {}").format(SECRET)
    )  # a server may check passwords first
    wrong = changed(dsn, **{"user": "knower", "password": SECRET, **options})
    with pytest.raises(PostgresUnavailableError, match=said) as refused:
        async with Durable(wrong, settings=Settings(connect_timeout_s=5)):
            pytest.fail("opened")
    seen: BaseException | None = refused.value
    while seen is not None:
        assert SECRET not in str(seen)
        seen = seen.__cause__


@pytest.mark.parametrize(
    "dsn_text", ["", "postgresql://[::1", "mysql://u:hunter2-very-secret@h/d", "nonsense"]
)
async def test_a_dsn_that_cannot_be_read_is_refused_without_its_password(
    dsn_text: str, monkeypatch: Any
) -> None:
    for name in ("AIODURABLE_DSN", "DATABASE_URL", "PGHOST", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError) as refused:
        Durable(dsn_text)
    assert SECRET not in str(refused.value)


async def test_unknown_threads_are_new_and_cannot_be_resumed(dsn: str) -> None:
    assert (await get_checkpoint_status("t", dsn=dsn)).status is ThreadStatus.NEW
    assert not await needs_resume("t", dsn=dsn)
    with pytest.raises(ThreadNotFoundError):
        await resume_workflow("t", dsn=dsn)


async def test_a_thread_of_plain_langgraph_wants_its_graph(dsn: str) -> None:
    async with Durable(dsn) as durable:
        graph = four_nodes().compile(checkpointer=durable.checkpointer)
        await graph.ainvoke(INPUT, {"configurable": {"thread_id": "t"}}, interrupt_before=["tell"])
        assert not await needs_resume(
            "t", durable=durable
        )  # a person has to say so: it may have stopped on purpose
        with pytest.raises(
            GraphNotRegisteredError, match=r"cannot resume.*resume\(thread_id, graph=…\)"
        ):
            await durable.threads.resume("t")
        assert (await durable.threads.resume("t", four_nodes(), past_gate=True))["words"] == list(
            STEPS
        )
        assert (
            await durable.threads.resume("t", four_nodes())
            == (await graph.aget_state({"configurable": {"thread_id": "t"}})).values
        )


@pytest.mark.parametrize(
    "filters",
    [
        {"limit": 0},
        {"older_than": timedelta(-1)},
        {"newer_than": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"status": "lost"},
    ],
    ids=lambda filters: next(iter(filters)),
)
async def test_a_filter_that_makes_no_sense_is_refused(dsn: str, filters: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        async for _ in find_failed_workflows(dsn=dsn, **filters):
            pytest.fail("found something")
