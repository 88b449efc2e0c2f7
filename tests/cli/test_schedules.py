"""`aiodurable schedules`: what it prints, and which exit code a script gets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aiodurable.cli.commands import cli

pytestmark = pytest.mark.usefixtures("no_database_by_accident")


def schedules(dsn: str, *args: str) -> Result:
    return CliRunner().invoke(cli, ["schedules", *args, "--dsn", dsn])


def test_a_schedule_is_created_listed_shown_paused_and_deleted(dsn: str) -> None:
    assert schedules(dsn, "list").stdout == "no schedules found\n"
    nightly = ("nightly", "report", "--input", "{}", "--cron", "30 2 * * *")
    created = schedules(dsn, "create", *nightly, "--time-zone", "Europe/Berlin")
    assert created.exit_code == 0, created.output
    assert "cron '30 2 * * *' (At 02:30 every day, Europe/Berlin)" in created.stdout
    assert created.stdout.endswith("graph report  0 fired, 0 skipped\n")
    again = schedules(dsn, "create", *nightly)
    assert (again.exit_code, "another time_zone" in again.output) == (2, True)
    assert "pass --replace to change it" in again.output
    assert schedules(dsn, "create", *nightly, "--replace").exit_code == 0
    shown = schedules(dsn, "show", "nightly", "--next", "3").stdout.splitlines()
    assert [line.endswith("T02:30:00+00:00") for line in shown[1:]] == [True] * 3
    paused = schedules(dsn, "pause", "nightly", "--note", "an incident")
    assert paused.stdout.startswith("nightly  paused (an incident)  cron")
    found: dict[str, Any] = json.loads(schedules(dsn, "list", "--paused", "--json").stdout)
    assert (found["schedule_id"], found["note"], found["catch_up"]) == (
        "nightly",
        "an incident",
        86400.0,
    )
    assert schedules(dsn, "list", "--not-paused").stdout == "no schedules found\n"
    assert schedules(dsn, "resume", "nightly").stdout.startswith("nightly  next 2")
    assert schedules(dsn, "delete", "nightly").stdout == "deleted: nightly\n"
    assert schedules(dsn, "show", "nightly").exit_code == 3


def test_a_schedule_is_triggered_and_backfilled(dsn: str) -> None:
    schedules(dsn, "create", "s", "report", "--input", "{}", "--every", "1h")
    assert schedules(dsn, "trigger", "s", "--run-id", "now").stdout == "now\n"
    range_ = ("s", "2026-01-01", "2026-01-01T02:30")
    planned = schedules(dsn, "backfill", *range_, "--dry-run").stdout.splitlines()
    assert [line.split("  ")[1] for line in planned].count("would be") == len(planned) >= 2
    written = schedules(dsn, "backfill", *range_).stdout.splitlines()
    assert [line.replace("accepted", "would be") for line in written] == planned
    again = schedules(dsn, "backfill", *range_).stdout.splitlines()
    assert [line.replace("left alone", "would be") for line in again] == planned
    assert schedules(dsn, "backfill", "s", "2026-01-01", "2026-06-01").exit_code == 2


@pytest.mark.parametrize(
    "wrong",
    [
        ("--input", "{"),
        ("--input", "{}"),
        ("--input", "{}", "--cron", "0 0 30 2 *"),
        ("--input", "{}", "--every", "1h", "--on-busy", "nothing"),
        ("--input", "{}", "--at", "tomorrow"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(dsn: str, wrong: tuple[str, ...]) -> None:
    refused = schedules(dsn, "create", "s", "report", *wrong)
    assert refused.exit_code == 2
    assert "Traceback" not in refused.output
