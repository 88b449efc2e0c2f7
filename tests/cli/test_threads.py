"""The commands on threads: status, show, retry, fork, prune; what they print, and which exit code a
script gets.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from aiodurable.cli.commands import cli
from aiodurable.lock_keys import lock_key
from aiodurable.models import PRUNE_DUTY_CYCLE
from aiodurable.threads import prune
from aiodurable.threads.prune_pace import Pace

APP = """
import operator, os
from typing import Annotated, Any, TypedDict
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from aiodurable import Durable

class State(TypedDict, total=False):
    xs: Annotated[list[str], operator.add]
    secret: str

def node(name):
    async def run(state):
        if os.environ.get("BREAK") == name:
            raise ConnectionError(f"{name} has no route")
        return {"xs": [name]}
    return run

async def ask(state):
    return {"xs": [str(interrupt("sure?"))]}

def chain(**nodes):
    builder = StateGraph(State)
    for name, run in nodes.items():
        builder.add_node(name, run)
    for one, other in zip([START, *nodes], nodes):
        builder.add_edge(one, other)
    return builder

order = chain(check=node("check"), pay=chain(reserve=node("reserve"), charge=node("charge")).compile(), ship=node("ship"))
asking = chain(check=node("check"), ask=ask)
graphs = {"order": order, "asking": asking}
def made(): return graphs
async def made_slowly(): return graphs
def broken(): raise RuntimeError("no such region")
def own(): return Durable(os.environ["THE_APPS_OWN"], graphs=graphs)
number = 7
"""
FILL = """
import asyncio, os
from shop_for_tests import graphs, order
from aiodurable import Durable
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

async def run(durable, graph, thread_id, **options):
    try:
        async with durable.run(thread_id, graph) as run:
            await run.ainvoke({"xs": [], "secret": "hunter2"}, **options)
    except ConnectionError:
        pass

async def main(dsn):
    async with Durable(dsn, graphs=graphs) as durable:
        await run(durable, "order", "done")
        await run(durable, "asking", "asks")
        os.environ["BREAK"] = "charge"
        await run(durable, "order", "broken")
        os.environ["BREAK"] = ""
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await order.compile(checkpointer=saver).ainvoke(
            {"xs": []}, {"configurable": {"thread_id": "plain"}}, interrupt_before=["pay"])

asyncio.run(main(os.environ["FILL"]))
"""


@pytest.fixture(scope="session")
def filled(server: Any, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with a complete, a failed, an interrupted and a plain thread, to be
    cloned.
    """
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop_for_tests.py").write_text(APP)
    name = server.create(template)
    environment = {**os.environ, "FILL": server.database(name), "PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, "-c", FILL], env=environment, check=True)
    yield name
    server.drop(name)


@pytest.fixture
def shop(
    server: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """An application in the current folder, and a database of its threads."""
    (tmp_path / "shop_for_tests.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    name = server.create(filled)
    dsn = server.database(name)
    monkeypatch.setenv("AIODURABLE_DSN", dsn)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("BREAK", raising=False)
    path = list(sys.path)
    yield dsn
    sys.path[:] = path
    sys.modules.pop("shop_for_tests", None)
    server.drop(name)


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(cli, arguments, **options)


def printed(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


APP_OPTION = ("--app", "shop_for_tests:graphs")


def test_status_without_a_thread_counts_them(shop: str) -> None:
    result = run("status")
    assert result.exit_code == 0, result.output
    lines = dict(line.split() for line in result.stdout.splitlines())
    assert lines == {"crashed": "1", "failed": "1", "interrupted": "1", "complete": "1", "all": "4"}
    assert "counted exactly" in result.stderr
    counts = printed("status", "--exact")
    assert counts["by_status"] == {"complete": 1, "crashed": 1, "failed": 1, "interrupted": 1}
    assert (counts["total"], counts["exact"], counts["estimated"]) == (4, True, [])
    assert run("status", "done", "--exact").exit_code == 2


def test_status_follows_a_failure_into_its_subgraph_and_says_its_doubts(shop: str) -> None:
    assert "failed in  pay > charge" in run("status", "broken").stdout
    assert printed("status", "broken")["failed_path"] == ["pay", "charge"]
    assert "no lease" in printed("status", "plain")["doubt"]
    assert "in doubt   plain LangGraph" in run("status", "plain").stdout


def test_show_prints_the_steps_and_the_values_only_on_request(shop: str) -> None:
    result = run("threads", "show", "done")
    assert result.exit_code == 0, result.output
    assert [line.split()[:2] for line in result.stdout.splitlines()[-5:]] == [
        ["3", "ship"],
        ["2", "pay"],
        ["1", "check"],
        ["0", "__start__"],
        ["-1", "(input)"],
    ]
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "hunter2" not in result.output
    assert "hunter2" in run("threads", "show", "done", "--values").stdout
    assert run("threads", "show", "nobody").exit_code == 3
    shown = printed("threads", "show", "done", "--limit", "2")
    assert [step["nodes"] for step in shown["steps"]] == [["ship"], ["pay"]]
    assert shown["steps"][0]["duration_s"] > 0
    assert "values" not in shown
    assert printed("threads", "show", "done", "--values")["values"]["secret"] == "hunter2"


@pytest.mark.parametrize("app", ["graphs", "made", "made_slowly"])
def test_retry_runs_a_failed_thread_on(shop: str, app: str) -> None:
    thread = printed("threads", "retry", "broken", "--app", f"shop_for_tests:{app}")
    assert (thread["status"], thread["attempts"]) == ("complete", 2)


def test_retry_of_what_fails_again_says_so(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREAK", "charge")
    result = run("threads", "retry", "broken", *APP_OPTION)
    assert result.exit_code == 1
    assert "it failed: ConnectionError: charge has no route" in result.stderr
    assert "2 attempts" in result.stdout


def test_retry_takes_the_applications_own_durable(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_APPS_OWN", shop)
    monkeypatch.setenv("AIODURABLE_APP", "shop_for_tests:own")
    assert run("threads", "retry", "broken", "--dsn", shop).exit_code == 2
    assert printed("threads", "retry", "broken")["status"] == "complete"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nobody", *APP_OPTION), 3, "nobody"),
        (("done", *APP_OPTION), 1, "complete"),
        (("asks", *APP_OPTION), 1, "waits for 1 answer"),
        (("plain", *APP_OPTION), 2, "--graph (one of asking, order)"),
        (("broken",), 2, "--app"),
        (("broken", "--app", "shop_for_tests"), 2, "MODULE:ATTRIBUTE"),
        (("broken", "--app", "not_there_at_all:graphs"), 2, "not_there_at_all"),
        (("broken", "--app", "shop_for_tests:nothing"), 2, "has no attribute"),
        (("broken", "--app", "shop_for_tests:number"), 2, "is int"),
        (("broken", "--app", "shop_for_tests:broken"), 1, "no such region"),
    ],
)
def test_retry_refuses_with_the_right_code(
    shop: str, arguments: tuple[str, ...], code: int, says: str
) -> None:
    result = run("threads", "retry", *arguments)
    assert (result.exit_code, says in result.stderr) == (code, True), result.output


def test_retry_takes_a_graph_by_name_or_alone_where_the_ledger_knows_none(shop: str) -> None:
    assert printed("threads", "fork", "plain", "plain-2")["graph"] is None
    assert (
        printed("threads", "retry", "plain", *APP_OPTION, "--graph", "order")["status"]
        == "complete"
    )
    assert (
        printed("threads", "retry", "plain-2", "--app", "shop_for_tests:order")["status"]
        == "complete"
    )


def test_a_thread_that_is_held_is_already_running(shop: str) -> None:
    with psycopg.connect(shop, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [lock_key("broken", "aiodurable")])
        held = run("threads", "retry", "broken", *APP_OPTION)
        assert held.exit_code == 4
        assert "come back later, or end it with `aiodurable threads cancel THREAD`" in held.stderr


def test_fork_makes_a_paused_thread_that_retry_runs(shop: str) -> None:
    thread = printed("threads", "fork", "done", "copy", "--before", "ship")
    assert (thread["thread_id"], thread["status"], thread["pending"]) == (
        "copy",
        "paused",
        ["ship"],
    )
    assert "forked from thread 'done'" in thread["reason"]
    assert printed("threads", "retry", "copy", *APP_OPTION)["status"] == "complete"
    changed = printed(
        "threads",
        "fork",
        "done",
        "--before",
        "ship",
        "--values",
        '{"secret": "swordfish"}',
        *APP_OPTION,
    )
    assert (
        printed("threads", "show", changed["thread_id"], "--values")["values"]["secret"]
        == "swordfish"
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nobody",), 3),
        (("done", "x", "--before", "nowhere"), 3),
        (("done", "x", "--step", "99"), 3),
        (("done", "x", "--checkpoint", "1ef"), 3),
        (("done", "asks"), 1),
        (("done", "x", "--step", "1", "--before", "pay"), 2),
        (("done", "x", "--values", "{}"), 2),
        (("done", "x", "--values", "{", *APP_OPTION), 2),
        (("done", "x", "--as-node", "nowhere", *APP_OPTION), 1),
    ],
)
def test_fork_refuses_with_the_right_code(shop: str, arguments: tuple[str, ...], code: int) -> None:
    result = run("threads", "fork", *arguments)
    assert result.exit_code == code, result.output
    assert run("status", "x").exit_code == 3, "nothing was made"


def test_prune_wants_an_age_and_a_yes(shop: str) -> None:
    assert run("threads", "prune", "--yes").exit_code == 2
    refused = run("threads", "prune", "--older-than", "0s")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert len(printed("threads", "show", "done")["steps"]) == 5


def test_prune_tells_what_it_removed(shop: str) -> None:
    would = printed("threads", "prune", "--older-than", "0s", "--dry-run")
    assert (would["threads"], would["dry_run"]) == (1, True)
    assert printed("threads", "prune", "--older-than", "0s", "--yes") == {**would, "dry_run": False}
    assert len(printed("threads", "show", "done")["steps"]) == 1
    assert (
        run("threads", "prune", "--older-than", "30d", "-y").stdout
        == "pruned 0 threads, 0 rows, 0 B\n"
    )
    gone = printed(
        "threads",
        "prune",
        "--older-than",
        "0s",
        "-y",
        "--strategy",
        "delete",
        "-s",
        "failed",
        "-s",
        "complete",
    )
    assert gone["threads"] == 2
    assert run("status", "broken").exit_code == 3


@pytest.mark.parametrize(("given", "used"), [((), PRUNE_DUTY_CYCLE), (("--duty-cycle", "1"), 1.0)])
def test_prune_works_for_the_part_of_the_time_that_it_is_given(
    shop: str, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], used: float
) -> None:
    parts: list[float] = []

    class Noting(Pace):
        def __init__(self, batch_size: int, duty_cycle: float) -> None:
            parts.append(duty_cycle)
            super().__init__(batch_size, duty_cycle)

    monkeypatch.setattr(prune, "Pace", Noting)
    assert printed("threads", "prune", "--older-than", "0s", "-y", *given)["threads"] == 1
    assert set(parts) == {used}


def test_prune_refuses_a_part_of_the_time_that_is_none(shop: str) -> None:
    for part in ("0", "1.1", "nan"):
        refused = run("threads", "prune", "--older-than", "0s", "-y", "--duty-cycle", part)
        assert refused.exit_code == 2, part


def test_resume_goes_on_and_leaves_alone_what_asks_or_stopped_on_purpose(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BREAK", "charge")
    failed = run("threads", "resume", "broken", *APP_OPTION)
    assert (failed.exit_code, "it failed: ConnectionError" in failed.stderr) == (1, True)
    monkeypatch.delenv("BREAK")
    thread = printed("threads", "resume", "broken", *APP_OPTION)
    assert (thread["status"], thread["attempts"]) == ("complete", 3)
    assert printed("threads", "resume", "broken", *APP_OPTION)["attempts"] == 3
    assert run("threads", "resume", "asks", *APP_OPTION).exit_code == 1
    assert run("threads", "resume", "nobody", *APP_OPTION).exit_code == 3
    gate = ("threads", "resume", "plain", *APP_OPTION, "--graph", "order")
    assert run(*gate).exit_code == 1
    assert printed(*gate, "--past-gate")["status"] == "complete"


def test_answer_goes_on_with_the_answer_and_a_second_one_is_refused(shop: str) -> None:
    [question] = printed("status", "asks")["interrupts"]
    to = ("threads", "answer", "asks")
    assert run(*to, "yes", *APP_OPTION).exit_code == 2, "not JSON"
    assert run(*to, '"yes"', "--question", "another", *APP_OPTION).exit_code == 2
    assert run(*to, '"yes"', "--question", "0" * 32, *APP_OPTION).exit_code == 1
    thread = printed(*to, "yes", "--text", "--question", question["id"], *APP_OPTION)
    assert thread["status"] == "complete"
    assert printed("threads", "show", "asks", "--values")["values"]["xs"] == ["check", "yes"]
    again = printed(*to, '"yes"', "--question", question["id"], *APP_OPTION)
    assert again["checkpoint_id"] == thread["checkpoint_id"]
    other = run(*to, '"no"', "--question", question["id"], *APP_OPTION)
    assert (other.exit_code, "it has another answer" in other.stderr) == (1, True)
    assert run("threads", "answer", "nobody", "1", *APP_OPTION).exit_code == 3
    assert run("threads", "answer", "broken", "1", *APP_OPTION).exit_code == 1


PYTHON = re.compile(r"\w\(|\w=|\.interrupts")
"""Calls and arguments, which nobody can type at a command line."""


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("retry", "done", *APP_OPTION), "`aiodurable threads fork THREAD --before NODE` runs"),
        (("retry", "asks", *APP_OPTION), "`aiodurable threads answer THREAD ANSWER` answers one"),
        (("resume", "asks", *APP_OPTION), "`aiodurable threads status THREAD --json` has the"),
        (
            ("resume", "plain", *APP_OPTION, "--graph", "order"),
            "`aiodurable threads resume THREAD --past-gate` goes on",
        ),
        (
            ("answer", "done", "1", *APP_OPTION),
            "`aiodurable threads status THREAD --json` lists its questions",
        ),
        (
            ("fork", "done", "--checkpoint", "1ef0"),
            "`aiodurable threads show THREAD --json` lists the checkpoints",
        ),
        (("resume", "set-aside", *APP_OPTION), "then `aiodurable threads retry THREAD` tries it"),
        (
            ("resume", "broken", *APP_OPTION, "--graph", "ordr"),
            "registered are asking, order; give it this name in --app",
        ),
    ],
)
def test_a_refusal_advises_a_command_and_no_call(
    shop: str, arguments: tuple[str, ...], advice: str
) -> None:
    assert run("threads", "fork", "broken", "set-aside").exit_code == 0
    with psycopg.connect(shop, autocommit=True) as database:
        database.execute(
            "UPDATE aiodurable_runs SET status = 'quarantined' WHERE thread_id = 'set-aside'"
        )
    refused = run("threads", *arguments)
    assert (refused.exit_code, advice in refused.stderr) in {(1, True), (3, True)}, refused.output
    assert PYTHON.search(refused.stderr) is None, refused.stderr


def test_resume_many_goes_on_with_what_needs_no_person_and_says_what_failed(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = ("threads", "resume-many", *APP_OPTION)
    refused = run(*many)
    assert (refused.exit_code, "--yes" in refused.stderr) == (2, True)
    would = run(*many, "--dry-run")
    assert would.stdout == "would resume broken\n1 would be resumed, 0 failed\n"
    monkeypatch.setenv("BREAK", "charge")
    failed = run(*many, "--yes")
    assert (failed.exit_code, failed.stdout) == (1, "0 resumed, 1 failed\n")
    assert "broken: ConnectionError: charge has no route\n" in failed.stderr
    monkeypatch.delenv("BREAK")
    assert run(*many, "--yes", "--prefix", "x").stdout == "0 resumed, 0 failed\n"
    assert printed(*many, "--yes") == {"dry_run": False, "resumed": ["broken"], "failed": {}}
    assert printed("status", "asks")["status"] == "interrupted"


def audited(dsn: str) -> list[tuple[str, str | None]]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT action, thread_id, actor FROM aiodurable_audit ORDER BY id"
        ).fetchall()
    assert all(actor.startswith("cli:") for *_, actor in rows)
    return [(action, thread_id) for action, thread_id, _ in rows]


def test_what_a_person_changes_is_audited_and_what_they_read_is_not(shop: str) -> None:
    for command in (
        ("threads", "list"),
        ("threads", "show", "done"),
        ("threads", "prune", "--older-than", "0s", "--dry-run"),
        ("threads", "resume-many", *APP_OPTION, "--dry-run"),
        ("threads", "delete", "-y", "nobody"),
    ):
        run(*command)
    assert audited(shop) == []
    for command in (
        ("threads", "retry", "broken", *APP_OPTION),
        ("threads", "answer", "asks", "yes", "--text", *APP_OPTION),
        ("threads", "fork", "done", "copy", "--before", "ship"),
        ("threads", "resume-many", *APP_OPTION, "--yes"),
        ("threads", "delete", "-y", "done"),
        ("threads", "prune", "--older-than", "0s", "-y"),
        ("threads", "signal", "asks", "paid", "1"),
        ("queues", "pause", "mail"),
    ):
        assert run(*command).exit_code == 0, command
    assert audited(shop) == [
        ("threads.retry", "broken"),
        ("threads.answer", "asks"),
        ("threads.fork", "done"),
        ("threads.resume_many", None),
        ("threads.delete", "done"),
        ("threads.prune", None),
        ("threads.signal", "asks"),
        ("queues.pause", None),
    ]


def test_wide_prints_a_row_in_a_line_with_more_columns(shop: str) -> None:
    listed = run("threads", "list", "--wide").stdout.splitlines()
    assert listed[0].split() == [
        *("thread", "status", "graph", "age", "step", "attempts", "run", "what"),
    ]
    assert [line.split()[0] for line in listed[1:]] == ["asks", "broken", "plain"]
    assert "charge has no route" in listed[2]
    shown = run("threads", "show", "done", "--wide").stdout.splitlines()
    assert sum(printed("status", "done")["run_id"] in line for line in shown) == 6
    assert run("locks", "list", "--wide").stdout == "nobody holds a lock\n"


def test_delete_wants_a_yes_and_a_thread_that_can_be(shop: str) -> None:
    assert run("threads", "delete").exit_code == 2
    assert run("threads", "delete", "--yes", "done", "").exit_code == 2
    refused = run("threads", "delete", "done")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert run("status", "done").exit_code == 0


def test_delete_asks_at_a_terminal(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    kept = run("threads", "delete", "done", input="n\n")
    assert "Delete thread done for good?" in kept.stderr
    assert (kept.exit_code, run("status", "done").exit_code) == (1, 0)
    assert run("threads", "delete", "done", input="y\n").exit_code == 0
    assert run("status", "done").exit_code == 3


def test_delete_removes_all_of_each_thread_and_says_what_it_left(shop: str) -> None:
    assert run("threads", "delete", "-y", "broken").stdout == "deleted broken\n"
    assert run("threads", "retry", "broken", *APP_OPTION).exit_code == 3
    with psycopg.connect(shop, autocommit=True) as connection:
        runs = "SELECT count(*) FROM aiodurable_runs WHERE thread_id = 'broken'"
        assert connection.execute(runs).fetchone() == (0,)
        unknown = run("threads", "delete", "-y", "broken", "plain", "plain")
        assert (unknown.exit_code, unknown.stdout) == (3, "deleted plain\n")
        assert "not found: broken" in unknown.stderr
        connection.execute("SELECT pg_advisory_lock(%s)", (lock_key("done", "aiodurable"),))
        result = run("threads", "delete", "-y", "--json", "done", "asks", "broken")
        assert result.exit_code == 4
        done = {"deleted": ["asks"], "unknown": ["broken"], "running": ["done"]}
        assert json.loads(result.stdout) == done
    assert run("status", "done").exit_code == 0


def test_list_goes_on_after_a_page(shop: str) -> None:
    first = run("threads", "list", "--all", "--limit", "2")
    assert "--after broken" in first.stderr
    second = run("threads", "list", "--all", "--after", "broken", "--json")
    assert [json.loads(line)["thread_id"] for line in second.stdout.splitlines()] == [
        "done",
        "plain",
    ]
    assert (
        run("threads", "list", "--all", "--prefix", "pl").stdout.splitlines()[1].startswith("plain")
    )
    assert run("threads", "list", "--holder", "nobody").stdout == "no threads found\n"


def test_signal_sends_json_once_and_refuses_what_is_none(shop: str) -> None:
    for says in ("sent", "was sent before"):
        result = run("threads", "signal", "new", "approval", '{"ok": true}', "--id", "form-1")
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{says}: approval to new\n"
    assert run("threads", "signal", "new", "approval").exit_code == 0
    refused = run("threads", "signal", "new", "approval", "yes")
    assert refused.exit_code == 2
    assert "VALUE must be JSON" in refused.stderr
    with psycopg.connect(shop) as connection:
        sent = connection.execute("SELECT name, value FROM aiodurable_signals ORDER BY position")
        values = [(name, value is None) for name, value in sent]
    assert values == [("approval", False), ("approval", True)]


def test_show_lists_the_side_effects_and_not_their_results(shop: str) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute(
            """
            INSERT INTO aiodurable_effects (thread_id, task, name, state, begin_id, run_id,
                                            begun_by, checkpoint_id, result_type, result, ended_at)
            VALUES ('done', 'pay:1', 'charge', 'done', 1, 'r', 'host:1', '1', 'msgpack',
                    decode('a161', 'hex'), now()),
                   ('done', 'pay:1', 'mail', 'begun', 2, 'r', 'host:1', '1', NULL, NULL, NULL)
            """
        )
    shown = run("threads", "show", "done")
    assert shown.exit_code == 0, shown.output
    words = [line.split()[:2] for line in shown.stdout.splitlines()]
    assert ["charge", "done"] in words
    assert ["mail", "begun"] in words
    effects = printed("threads", "show", "done")["effects"]
    assert {effect["name"]: effect["state"] for effect in effects} == {
        "charge": "done",
        "mail": "begun",
    }
    assert all("result" not in effect for effect in effects)
