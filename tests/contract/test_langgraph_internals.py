"""What the saver relies on that LangGraph does not promise. When one of these moves, its message
says what to look at.
"""

import copy
import cProfile
import inspect
import re
from importlib import import_module
from typing import Any

import asyncpg
import pytest
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import base
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel

from aiodurable.checkpoints import saver
from aiodurable.checkpoints.encoding import COMMIT_REPLACING
from aiodurable.checkpoints.write_session import SESSION_KEY
from aiodurable.dsn import parse_dsn
from aiodurable.runs.current_run import RUN_KEY
from aiodurable.threads import task_path

PARAMETERS = {
    "_cursor": ["self", "pipeline"],
    "_dump_blobs": ["self", "thread_id", "checkpoint_ns", "values", "versions"],
    "_dump_writes": [
        "self",
        "thread_id",
        "checkpoint_ns",
        "checkpoint_id",
        "task_id",
        "task_path",
        "writes",
    ],
    "_load_blobs": ["self", "blob_values"],
    "_load_checkpoint_tuple": ["self", "value"],
    "_load_writes": ["self", "writes"],
    "aput": ["self", "config", "checkpoint", "metadata", "new_versions"],
    "aput_writes": ["self", "config", "writes", "task_id", "task_path"],
    "aget_tuple": ["self", "config"],
    "adelete_thread": ["self", "thread_id"],
    "aprune": ["self", "thread_ids", "strategy"],
}

COLUMNS = {
    "checkpoints": (
        "thread_id checkpoint_ns checkpoint_id parent_checkpoint_id type checkpoint metadata"
    ),
    "checkpoint_blobs": "thread_id checkpoint_ns channel version type blob",
    "checkpoint_writes": (
        "thread_id checkpoint_ns checkpoint_id task_id idx channel type blob task_path"
    ),
}


@pytest.mark.parametrize("method", PARAMETERS)
def test_a_method_that_is_overridden_or_called_has_the_parameters_it_had(method: str) -> None:
    found = getattr(AsyncPostgresSaver, method, None)
    assert found is not None, (
        f"AsyncPostgresSaver.{method} is gone: checkpoints/saver.py builds on it"
    )
    assert list(inspect.signature(found).parameters) == PARAMETERS[method], (
        f"AsyncPostgresSaver.{method} takes other parameters: see whether DurableSaver still stands"
        " in for it"
    )


def test_the_signature_that_langgraph_asks_for_at_each_run_is_kept() -> None:
    def calls(cls: type[AsyncPostgresSaver]) -> int:
        bound = cls.aput_writes.__get__(object.__new__(cls))
        with cProfile.Profile(builtins=False) as profile:
            found = inspect.signature(bound)
        assert list(found.parameters) == PARAMETERS["aput_writes"][1:]
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(saver.DurableSaver) < 0.6 * calls(AsyncPostgresSaver)


@pytest.mark.parametrize("attribute", ["loop", "supports_pipeline"])
def test_the_stock_saver_sets_what_ours_reads(attribute: str) -> None:
    assert f"self.{attribute} = " in inspect.getsource(AsyncPostgresSaver.__init__), (
        f"AsyncPostgresSaver sets no {attribute} any more: see checkpoints/saver.py"
    )


def test_the_tables_versions_are_counted_by_the_stock_savers_migrations() -> None:
    assert isinstance(AsyncPostgresSaver.MIGRATIONS, list), (
        "MIGRATIONS is no list any more: see postgres/schema.py"
    )
    assert "v" in AsyncPostgresSaver.MIGRATIONS[0], (
        "the versions lie elsewhere: see `langgraph_version` in sql/schema.sql"
    )


@pytest.mark.parametrize("table", COLUMNS)
async def test_langgraphs_tables_have_the_columns_the_commit_fills(table: str, dsn: str) -> None:
    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    found = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = $1 ORDER BY"
        " ordinal_position",
        table,
    )
    await connection.close()
    assert [row[0] for row in found] == COLUMNS[table].split(), (
        f"{table} has changed: see `commit` in sql/checkpoints.sql"
    )


def words(statement: str) -> str:
    """A statement without what a rewording may change: case, spaces, placeholders, the alias of the
    source.
    """
    statement = re.sub(r"\bVALUES \([%s, ]+\)", "", statement)
    return re.sub(r"\s+", " ", statement).strip(" ;").replace("EXCLUDED", "excluded").upper()


@pytest.mark.parametrize(
    "name",
    [
        "UPSERT_CHECKPOINT_BLOBS_SQL",
        "UPSERT_CHECKPOINTS_SQL",
        "UPSERT_CHECKPOINT_WRITES_SQL",
        "INSERT_CHECKPOINT_WRITES_SQL",
    ],
)
def test_the_commit_resolves_conflicts_as_the_stock_statements_do(name: str) -> None:
    stock = words(getattr(AsyncPostgresSaver, name))
    insert, _, conflict = stock.partition("ON CONFLICT ")
    ours = words(COMMIT_REPLACING)
    assert insert.strip() in ours, (
        f"{name} fills other columns: see `commit` in sql/checkpoints.sql"
    )
    assert f"ON CONFLICT {conflict}" in ours, (
        f"{name} resolves conflicts differently: see `commit` in sql/checkpoints.sql"
    )


def test_the_stock_query_of_a_checkpoint_can_be_given_a_where_clause() -> None:
    text = words(AsyncPostgresSaver.SELECT_SQL)
    assert text.startswith("SELECT"), (
        "SELECT_SQL is no plain query any more: see `latest` in sql/checkpoints.sql"
    )
    assert text.endswith("FROM CHECKPOINTS"), (
        "SELECT_SQL does not end in its table: see `latest` in sql/checkpoints.sql"
    )


def test_the_control_channels_are_those_that_a_failed_task_keeps() -> None:
    constants = import_module("langgraph._internal._constants")
    expected = {
        getattr(constants, name) for name in ("ERROR", "ERROR_SOURCE_NODE", "INTERRUPT", "RESUME")
    }
    assert expected == saver._ABOUT_THE_TASK, (
        "LangGraph names its control channels differently: see checkpoints/saver.py"
    )
    try:
        control = import_module("langgraph.pregel._task_status").CONTROL_WRITES
    except ModuleNotFoundError:  # older versions keep the same rule elsewhere
        return
    assert control == saver._ABOUT_THE_TASK, (
        "LangGraph counts other channels as control writes: see checkpoints/saver.py"
    )


def test_control_writes_have_slots_of_their_own() -> None:
    assert WRITES_IDX_MAP == {
        "__error__": -1,
        "__scheduled__": -2,
        "__interrupt__": -3,
        "__resume__": -4,
    }


def test_the_fence_in_the_config_stays_out_of_the_metadata_and_the_stamps_get_in() -> None:
    own: Any = {SESSION_KEY: object(), RUN_KEY: object(), "aiodurable_run_id": "r"}
    configurable: Any = {"thread_id": "t", **own}
    assert get_serializable_checkpoint_metadata({"configurable": configurable}, {}) == {
        "aiodurable_run_id": "r"
    }


def test_the_fence_in_the_config_stays_out_of_the_configs_of_streams() -> None:
    stripped = import_module("langgraph.pregel.debug").rm_pregel_keys
    configurable: Any = {"thread_id": "t", SESSION_KEY: object(), RUN_KEY: object()}
    assert stripped({"configurable": configurable}) == {"configurable": {"thread_id": "t"}}, (
        "LangGraph strips other keys from what it streams: see SESSION_KEY in"
        " checkpoints/write_session.py"
    )


def test_a_delta_snapshot_is_a_value_of_its_own_kind() -> None:
    assert _DeltaSnapshot([1]).value == [1]


def test_clones_are_made_with_a_shallow_copy() -> None:
    source = inspect.getsource(BaseCheckpointSaver.with_allowlist)
    assert "copy.copy(self)" in source, (
        "with_allowlist clones differently: do clones still share fences and writer?"
    )


def test_a_tasks_path_is_written_as_the_status_reads_it() -> None:
    written = import_module("langgraph.pregel._algo").task_path_str
    advice = "task paths are written differently: see threads/task_path.py"
    assert written(("__pregel_pull", "node")) == task_path.pull_path("node"), advice
    assert task_path.node_of(written(("__pregel_pull", "node")), []) == "node", advice
    assert task_path.node_of(written(("__pregel_push", 1, 0)), ["first", "second"]) == "second", (
        advice
    )
    call = written(("__pregel_push", ("__pregel_pull", "node"), 0, 1))
    assert (task_path.node_of(call, []), task_path.caller_of(call)) == (None, "node"), advice


def test_a_graph_takes_its_saver_from_an_attribute_when_it_runs() -> None:
    saver_, other = InMemorySaver(), InMemorySaver()
    graph = (
        StateGraph(dict)
        .add_node("n", lambda state: state)
        .add_edge(START, "n")
        .compile(checkpointer=other)
    )
    bound = copy.copy(graph)
    bound.checkpointer = saver_
    bound.invoke({"x": 1}, {"configurable": {"thread_id": "t"}})
    assert saver_.storage, (
        "a copied graph writes to another saver than its attribute names: see runs/graphs.py"
    )
    assert not other.storage


@pytest.mark.parametrize("stream", [Pregel.astream, Pregel.stream])
def test_a_step_waits_for_its_save_by_the_name_that_graphs_without_one_are_given(
    stream: Any,
) -> None:
    assert "loop._put_checkpoint_fut" in inspect.getsource(stream), (
        "LangGraph waits for a step's save differently: see whether runs/unsaved_subgraphs.py is"
        " still needed"
    )


def test_pruning_yields_its_statements_the_isolation_level_first() -> None:
    statement, parameters, fetch = next(base._keep_latest("t"))
    assert statement.startswith("SET TRANSACTION ISOLATION LEVEL"), (
        "see ThreadMaintenance._keep_latest: it fences after that statement"
    )
    assert (tuple(parameters), fetch) == ((), False)
    assert inspect.iscoroutinefunction(base._aexecute)
    assert inspect.isgeneratorfunction(base._refuse_delta_threads)
