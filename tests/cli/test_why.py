"""`aiodurable why`: what it prints, and which exit code a script gets."""

from __future__ import annotations

import json

import psycopg
import pytest
from click.testing import CliRunner, Result

from aiodurable.cli.commands import cli

pytestmark = pytest.mark.usefixtures("no_database_by_accident")

HOSTILE = "t\x1b[2J'x"


def aiodurable(dsn: str, *args: str) -> Result:
    return CliRunner().invoke(cli, [*args, "--dsn", dsn])


def test_why_prints_a_page_and_json_and_ends_with_3_of_what_is_unknown(dsn: str) -> None:
    aiodurable(dsn, "runs", "create", "t", "order", "--input", '{"xs": ["4711"]}', "--run-id", "r")
    for command in (("why",), ("threads", "why")):
        page = aiodurable(dsn, *command, "t")
        assert page.exit_code == 0
        assert page.stdout.startswith("Thread t is queued.")
        assert "aiodurable runs cancel r" in page.stdout
    found = json.loads(aiodurable(dsn, "why", "t", "--json").stdout)
    assert (found["status"]["status"], found["rule"]["id"]) == ("queued", "run_queued")
    assert "error" not in found["status"]
    assert [step["by"] for step in found["next"]] == ["call", "call_with_input", "worker"]
    assert "4711" not in json.dumps(found)
    verbose = json.loads(aiodurable(dsn, "why", "t", "--json", "--verbose").stdout)
    assert verbose["status"]["error"] is None
    unknown = aiodurable(dsn, "why", "nobody")
    assert (unknown.exit_code, "is new" in unknown.stdout) == (3, True)


def test_why_says_how_to_see_an_error_that_it_does_not_show(dsn: str) -> None:
    aiodurable(dsn, "runs", "create", "t", "order", "--input", "{}", "--run-id", "r")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE aiodurable_runs SET claim_state = NULL, status = 'quarantined',"
            " status_reason = 'failed too often', error = 'ValueError(4711)'"
        )
    short = aiodurable(dsn, "why", "t")
    assert "4711" not in short.output
    assert short.stderr == "--verbose shows its error and its questions\n"
    verbose = aiodurable(dsn, "why", "t", "--verbose")
    assert ("4711" in verbose.stdout, verbose.stderr) == (True, "")


def test_a_hostile_name_reaches_no_terminal(dsn: str) -> None:
    aiodurable(dsn, "runs", "create", HOSTILE, "order", "--input", "{}", "--run-id", HOSTILE)
    page = aiodurable(dsn, "why", HOSTILE).stdout
    assert "\x1b" not in page
    assert r"aiodurable runs cancel $'t\x1b[2J\x27x'" in page
