"""`aiodurable stats` and `aiodurable top`: the numbers, once, as JSON, and live."""

from __future__ import annotations

import json
import os
import pty
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from aiodurable.cli.commands import cli
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.usefixtures("no_database_by_accident")


def aiodurable(dsn: str, *args: str) -> Result:
    return CliRunner().invoke(cli, [*args, "--dsn", dsn], env={"COLUMNS": "200"})


@pytest.fixture
def filled(dsn: str) -> str:
    """A database with a run that waits, one that failed, and the row of a worker that died. Their
    names try to write to the terminal.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, claim_state,"
            " position, queue, priority, fairness_key) VALUES ('q', 'q', 1, 'g', 'queued', 'ready',"
            " 1, E'mail\\x1b[2J', 0, E'big\\x07')"
        )
        connection.execute(
            "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, attempts,"
            " fencing_token, started_at, finished_at) VALUES ('f', 'f', 2, E'g\\x1b]0;x', 'failed',"
            " 1, 1, now() - interval '3 s', now())"
        )
        connection.execute(
            "INSERT INTO aiodurable_workers VALUES (E'host\\x1b:7#1', 'host', 7, '1', '{mail}',"
            " '{g}', 5, 0, 0, 0, false, now(), now() - interval '1 minute')"
        )
    return dsn


def test_stats_shows_threads_queues_workers_and_times(filled: str) -> None:
    shown = aiodurable(filled, "stats")

    assert shown.exit_code == 0, shown.output
    assert "1 failed" in shown.stdout
    assert "1 ready" in shown.stdout
    assert "dead" in shown.stdout
    assert "0.0/min failed" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "\x07" not in shown.stdout


def test_stats_breaks_no_word_and_no_number_in_a_terminal_of_80_columns(filled: str) -> None:
    shown = CliRunner().invoke(cli, ["stats", "--dsn", filled], env={"COLUMNS": "80"})

    for heading in ("running", "claimed", "scheduled", "blocked", "limited"):
        assert heading in shown.stdout


def test_stats_breaks_no_limit_of_a_queue_without_keys(dsn: str) -> None:
    aiodurable(dsn, "queues", "scale", "nightly", "--max-running", "15")
    shown = CliRunner().invoke(cli, ["stats", "--dsn", dsn], env={"COLUMNS": "80"})

    heading, row = shown.stdout.partition("queues\n")[2].splitlines()[:2]
    assert "limits" in heading
    assert "keys" not in heading
    assert (row.split()[0], row.split()[-1]) == ("nightly", "max=15")


def test_stats_is_one_json_object(filled: str) -> None:
    shown = aiodurable(filled, "stats", "--json")

    found: dict[str, Any] = json.loads(shown.stdout)
    assert found["overview"]["runs"] == {"ready": 1}
    assert found["throughput"]["ended"] == {"failed": 1}
    assert found["queues"][0]["keys"] == [
        {"kind": "fairness", "key": "big\x07", "waiting": 1, "running": 0}
    ]
    assert found["workers"][0]["alive"] is False
    assert found["latencies"][0]["run"]["p50_s"] == pytest.approx(3, abs=0.1)


def test_an_empty_database_has_empty_numbers(dsn: str) -> None:
    shown = aiodurable(dsn, "stats")

    assert shown.exit_code == 0, shown.output
    assert "none" in shown.stdout


def test_top_prints_once_where_it_is_no_terminal(filled: str) -> None:
    for arguments in (("top",), ("top", "--once")):
        shown = aiodurable(filled, *arguments)
        assert (shown.exit_code, "1 ready" in shown.stdout) == (0, True), shown.output


@contextmanager
def top_in_a_terminal(dsn: str, errors: int | None = None) -> Iterator[tuple[Popen[bytes], int]]:
    """`aiodurable top`, and the other end of its terminal, to which it also writes its errors
    unless they go elsewhere.
    """
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "aiodurable", "top", "--every", "0.5", "--dsn", dsn]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
    stderr = theirs if errors is None else errors
    with Popen(command, stdin=theirs, stdout=theirs, stderr=stderr, env=environment) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()  # one that has ended already is left alone


def test_top_is_live_in_a_terminal_until_q(filled: str) -> None:
    written = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 65536):
                written.extend(chunk)
        except OSError:
            pass  # the other end is closed

    with top_in_a_terminal(filled) as (process, ours):
        reader = threading.Thread(target=read)
        reader.start()
        # It imports LangGraph first: seconds on a quiet machine.
        wait_until_sync(lambda: b"1 ready" in written, 60, what="the numbers")
        with psycopg.connect(filled, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, status, claim_state,"
                " position, queue, priority, fairness_key)"
                " VALUES ('p', 'p', 3, 'queued', 'ready', 2, 'mail', 0, '')"
            )
        wait_until_sync(lambda: b"2 ready" in written, what="the new numbers")
        os.write(ours, b"q")
        code = process.wait(timeout=30)
        reader.join()
    os.close(ours)

    assert code == 0
    assert b"\x1b[?1049l" in written  # the terminal shows again what it did before


def test_top_ends_where_its_terminal_is_gone(filled: str) -> None:
    with top_in_a_terminal(filled, errors=PIPE) as (process, ours):
        written = b""
        while b"1 ready" not in written:
            written += os.read(ours, 65536)
        os.close(ours)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, b"")
