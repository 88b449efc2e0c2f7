"""Completion in a shell: commands, options, and the thread ids of the database."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from aiodurable.cli.status import status
from aiodurable.cli.thread_argument import ThreadId
from aiodurable.durable import Durable
from tests.support.graphs import four_nodes

PATIENT = """
from aiodurable.cli import main, thread_argument
thread_argument._LIMIT_S = 30.0
main()
"""
"""The command, which waits for the database of a busy machine as well."""
IDS = ("order-1", "order-12", "order-2", "other", "order-$(touch x)", "order-\x1b[2J", "-order")


def completed(*words: str, dsn: str | None = None, **more: str) -> list[str]:
    """What bash is offered after these words, of which the last is incomplete.

    Args:
        dsn: a database that answers, at some time.
        more: of the environment.
    """
    line = " ".join(("aiodurable", *words))
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "AIODURABLE_")) and name != "DATABASE_URL"
    }
    environment |= {"_AIODURABLE_COMPLETE": "bash_complete", "COMP_WORDS": line, **more}
    environment |= {"COMP_CWORD": str(len(words))} | ({"AIODURABLE_DSN": dsn} if dsn else {})
    done = subprocess.run(
        [sys.executable, *(("-c", PATIENT) if dsn else ("-m", "aiodurable"))],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [item.partition(",")[2] for item in done.stdout.split()]


@pytest.fixture
def orders(dsn: str) -> str:
    async def fill() -> None:
        async with Durable(dsn, graphs={"words": four_nodes()}) as durable:
            for thread_id in IDS:
                await durable.runs.create(thread_id, "words", {"words": [], "told": ""})

    asyncio.run(fill())
    return dsn


def test_commands_and_options_are_completed_by_group() -> None:
    assert completed("thr") == ["threads"]
    assert completed("threads", "re") == ["resume", "resume-many", "retry"]
    assert completed("threads", "list", "--old") == ["--older-than"]
    assert completed("db", "migrate", "--pri") == ["--print"]


def test_a_thread_id_is_completed_unless_a_shell_would_obey_it(orders: str) -> None:
    assert completed("threads", "show", "ord", dsn=orders) == ["order-1", "order-12", "order-2"]
    assert completed("status", "order-1", dsn=orders) == ["order-12"]
    assert completed("threads", "delete", "order-2", "ot", dsn=orders) == ["other"]
    assert completed("status", "nobody", dsn=orders) == []


def test_without_a_database_no_id_is_completed_and_nothing_is_said(tmp_path: Path) -> None:
    assert completed("status", "ord", HOME=str(tmp_path)) == []
    for dsn in ("postgresql://127.0.0.1:1/nowhere", "not a dsn"):
        assert completed("status", "ord", AIODURABLE_DSN=dsn) == []


def test_a_database_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # An address of documentation (RFC 5737): nothing answers there.
    monkeypatch.setenv("AIODURABLE_DSN", "postgresql://192.0.2.1/nowhere")
    began = time.monotonic()
    thread = click.Argument(["thread_id"])
    assert ThreadId().shell_complete(click.Context(status), thread, "ord") == []
    assert time.monotonic() - began < 10, "the limits of the driver and of the settings are longer"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_this_command(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aiodurable", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"_AIODURABLE_COMPLETE={shell}_complete" in done.stdout


def test_bash_takes_the_script_and_completes(tmp_path: Path) -> None:
    program = tmp_path / "aiodurable"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m aiodurable "$@"\n')
    program.chmod(0o755)
    script = """
eval "$(aiodurable completion bash)"
COMP_WORDS=(aiodurable threads resu) COMP_CWORD=2
_aiodurable_completion aiodurable
echo "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "resume resume-many\n"
