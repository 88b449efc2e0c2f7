"""`aiodurable runs` and `aiodurable queues`: what they print, and which exit code a script gets."""

from __future__ import annotations

import json
import re
import signal
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from click.testing import CliRunner, Result

from aiodurable import ThreadPausedError
from aiodurable.cli.commands import cli
from tests.support.forked import python
from tests.support.waiting import wait_until, within

pytestmark = pytest.mark.usefixtures("no_database_by_accident")


def aiodurable(dsn: str, *args: str) -> Result:
    return CliRunner().invoke(cli, [*args, "--dsn", dsn])


def test_a_run_is_accepted_listed_shown_cancelled_and_tried_again(dsn: str) -> None:
    created = aiodurable(
        dsn, "runs", "create", "t", "order", "--input", '{"xs": []}', "--run-id", "r"
    )
    assert (created.exit_code, created.stdout) == (0, "r\n")
    line = "r  queued (ready)  thread t  graph order  queue default\n"
    assert aiodurable(dsn, "runs", "list").stdout == line
    assert aiodurable(dsn, "runs", "list", "-s", "complete").stdout == "no runs found\n"
    assert aiodurable(dsn, "runs", "show", "r").stdout == line
    shown: dict[str, Any] = json.loads(aiodurable(dsn, "runs", "show", "r", "--json").stdout)
    assert (shown["status"], shown["claim_state"], shown["attempts"]) == ("queued", "ready", 0)
    cancelled = aiodurable(dsn, "runs", "cancel", "r")
    assert (cancelled.exit_code, "superseded" in cancelled.stdout) == (0, True)
    waited = aiodurable(dsn, "runs", "wait", "r", "--timeout", "5s")
    assert (waited.exit_code, "is superseded" in waited.output) == (1, True)
    assert aiodurable(dsn, "runs", "retry", "r").stdout == line
    late = aiodurable(dsn, "runs", "wait", "r", "--timeout", "0.1s")
    assert (late.exit_code, "not over within" in late.output) == (1, True)
    assert aiodurable(dsn, "runs", "show", "nothing").exit_code == 3
    assert aiodurable(dsn, "runs", "create", "t", "order", "--input", "{").exit_code == 2


@pytest.mark.parametrize("status", ["complete", "quarantined"])
def test_a_cancel_of_a_run_that_is_over_says_that_it_did_nothing(dsn: str, status: str) -> None:
    aiodurable(dsn, "runs", "create", "t", "order", "--input", "{}", "--run-id", "r")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE aiodurable_runs SET claim_state = NULL, status = %s::text", (status,)
        )
    cancelled = aiodurable(dsn, "runs", "cancel", "r")
    assert cancelled.exit_code == 0
    assert cancelled.stderr == f"nothing to cancel: run r is {status}\n"


@pytest.mark.parametrize(
    ("status", "reason", "words", "advice"),
    [
        ("queued", None, ("wait", "r", "--timeout", "0.1s"), "`aiodurable runs show RUN` says"),
        ("superseded", "cancelled", ("wait", "r"), "`aiodurable runs retry RUN` lets it go on"),
        ("quarantined", None, ("wait", "r"), "then `aiodurable runs retry RUN` lets it go on"),
        ("complete", None, ("wait", "r"), "give it this name in --app"),
        ("interrupted", None, ("retry", "r"), "`aiodurable threads answer THREAD ANSWER` gives it"),
        (
            "queued",
            None,
            ("create", "t", "order", "--input", "{}", "--on-busy", "reject"),
            "create with --on-busy enqueue",
        ),
    ],
)
def test_a_refusal_advises_a_command_and_no_call(
    dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    reason: str | None,
    words: tuple[str, ...],
    advice: str,
) -> None:
    (tmp_path / "no_graphs.py").write_text("graphs = {}")
    monkeypatch.syspath_prepend(tmp_path)
    aiodurable(dsn, "runs", "create", "t", "order", "--input", "{}", "--run-id", "r")
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute(
            "UPDATE aiodurable_runs SET status = %s, status_reason = %s, claim_state ="
            " CASE %s WHEN 'queued' THEN claim_state END",
            [status, reason, status],
        )
    app = ("--app", "no_graphs:graphs") if words[0] == "wait" else ()
    refused = aiodurable(dsn, "runs", *words, *app)
    assert refused.exit_code == 1, refused.output
    assert advice in refused.stderr
    assert re.search(r"\w\(|\w=", refused.stderr) is None


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            ThreadPausedError("cannot run thread 't': it is \"paused\"; run.ainvoke() goes on"),
            r"`aiodurable threads resume THREAD` goes on",
        ),
        (ValueError("run.ainvoke() is a node's own word"), "run.ainvoke() is a node's own word"),
    ],
    ids=["the library's", "a node's"],
)
def test_the_error_of_a_row_advises_a_command_where_it_is_the_librarys(
    dsn: str, error: Exception, shown: str
) -> None:
    aiodurable(dsn, "runs", "create", "t", "order", "--input", "{}", "--run-id", "r")
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute(
            "UPDATE aiodurable_runs SET status = 'failed', claim_state = NULL, error = %s",
            [repr(error)],
        )
    for words in (
        ("runs", "show", "r"),
        ("status", "t"),
        ("why", "t", "--verbose"),
        ("threads", "list", "--wide"),
    ):
        printed = " ".join(aiodurable(dsn, *words).stdout.split())
        assert shown in printed, words


def test_without_a_database_and_without_tables_the_options_are_advised(empty_dsn: str) -> None:
    nowhere = CliRunner().invoke(cli, ["runs", "list"])
    assert "pass --dsn postgresql://user@host/database, or set" in nowhere.stderr
    without = aiodurable(empty_dsn, "runs", "list")
    assert without.stderr.endswith("run `aiodurable db migrate`\n")


def test_a_queue_is_listed_paused_resumed_and_limited(dsn: str) -> None:
    assert aiodurable(dsn, "queues", "list").stdout == "no queues found\n"
    aiodurable(dsn, "runs", "create", "t", "order", "--input", "{}", "--queue", "slow")
    assert aiodurable(dsn, "queues", "pause", "slow").stdout == "paused: slow\n"
    limited = aiodurable(dsn, "queues", "scale", "slow", "--max-running", "2", "--rate", "0.5")
    assert limited.exit_code == 0
    assert aiodurable(dsn, "queues", "list").stdout == (
        "slow  paused  1 ready  max_running 2, rate 0.5\n"
    )
    assert aiodurable(dsn, "queues", "resume", "slow").exit_code == 0
    found = json.loads(aiodurable(dsn, "queues", "list", "--json").stdout)
    assert (found["paused"], found["ready"], found["max_running"]) == (False, 1, 2)
    assert aiodurable(dsn, "queues", "scale", "slow", "--rate", "0").exit_code == 2


def test_create_many_accepts_a_file_once_and_says_which_line_is_wrong(
    dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "runs.jsonl"
    runs = [{"thread_id": f"t{n}", "graph": "g", "input": n, "run_id": f"r{n}"} for n in range(501)]
    file.write_text("\n\n".join(map(json.dumps, runs)) + "\n")
    assert aiodurable(dsn, "runs", "create-many", str(file)).stdout == "501 runs accepted\n"
    assert aiodurable(dsn, "runs", "create-many", str(file)).stdout == "501 runs accepted\n"
    found = aiodurable(dsn, "runs", "list", "--limit", "1000").stdout.splitlines()
    assert len(found) == 501
    for wrong, says in (
        ("{", "line 2: it is no JSON"),
        ('{"thread_id": "new", "graph": "g"}', "it must be an object with graph, input, thread_id"),
        ('{"thread_id": "new", "graph": "g", "input": 1, "quue": "x"}', "unknown 'quue'"),
        (
            '{"thread_id": "new", "graph": "g", "input": 1, "priority": "x"}',
            "priority cannot be str",
        ),
        ('{"thread_id": "new", "graph": "g", "input": null}', "it has no input"),
    ):
        file.write_text(json.dumps({**runs[0], "run_id": "late"}) + f"\n{wrong}\n")
        refused = aiodurable(dsn, "runs", "create-many", str(file))
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert says in refused.stderr
        assert "no run of the lines 1 to 2 was accepted" in refused.stderr
    assert aiodurable(dsn, "runs", "show", "late").exit_code == 3


async def test_ctrl_c_ends_create_many_although_stdin_goes_on(
    dsn: str, db: asyncpg.Connection
) -> None:
    command = ("-m", "aiodurable", "runs", "create-many", "-", "--dsn", dsn)
    process = await python(*command, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    try:
        assert process.stdin is not None
        for n in range(500):  # a batch: then it waits for the next line
            line = json.dumps({"thread_id": f"t{n}", "graph": "g", "input": n})
            process.stdin.write(line.encode() + b"\n")
        await wait_until(lambda: db.fetchval("SELECT count(*) = 500 FROM aiodurable_runs"), 60)
        process.send_signal(signal.SIGINT)
        printed, _ = await within(30, process.communicate(), what="the command to end")
        assert (process.returncode, b"Aborted!" in printed) == (1, True)
    finally:
        await process.end()
