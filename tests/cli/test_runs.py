"""`aiodurable runs` and `aiodurable queues`: what they print, and which exit code a script gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aiodurable.cli.commands import cli

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
