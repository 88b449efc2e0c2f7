"""`aiodurable verify`: what it prints, and which exit code a script gets."""

from __future__ import annotations

import json

import psycopg
import pytest
from click.testing import CliRunner, Result

from aiodurable.cli.commands import cli

pytestmark = pytest.mark.usefixtures("no_database_by_accident")

HOSTILE = "t\x1b[2J"


def aiodurable(dsn: str, *args: str) -> Result:
    return CliRunner().invoke(cli, [*args, "--dsn", dsn])


def test_verify_ends_with_0_where_all_is_well_and_1_with_findings(dsn: str) -> None:
    aiodurable(dsn, "runs", "create", "a", "order", "--input", "{}")
    aiodurable(dsn, "runs", "create", HOSTILE, "order", "--input", "{}", "--run-id", "r")
    clean = aiodurable(dsn, "verify", "--threads-per-second", "1000", "--batch", "1")
    assert (clean.exit_code, "2 threads" in clean.stdout) == (0, True)
    assert "--from-thread" not in clean.output  # it is through: there is nothing to go on with
    part = aiodurable(dsn, "verify", "--limit", "1")
    assert (part.exit_code, "--from-thread a" in part.stderr) == (0, True)
    assert "nothing found" in clean.stdout
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE aiodurable_runs SET status = 'running', claim_state = NULL")
    found = aiodurable(dsn, "verify")
    assert found.exit_code == 1
    assert "running_without_token" in found.stdout
    assert "\x1b" not in found.output
    rest = aiodurable(dsn, "verify", "--from-thread", "a", "--json")
    assert rest.exit_code == 1
    finding, totals = map(json.loads, rest.stdout.splitlines())
    assert (finding["thread_id"], finding["kind"]) == (HOSTILE, "running_without_token")
    assert (totals["threads"], totals["findings"], totals["last_thread_id"]) == (1, 1, HOSTILE)
