"""`aiodurable locks list` tells who holds what, and who waits, from outside their processes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aiodurable import Durable, PostgresLockManager
from aiodurable.cli.commands import cli
from aiodurable.lock_keys import lock_key, own_lock_key
from aiodurable.settings import Settings
from tests.support.graphs import Gate, four_nodes
from tests.support.waiting import wait_until

HERE = f"{socket.gethostname()}:{os.getpid()}"
START: dict[str, Any] = {"words": [], "told": ""}


async def locks(dsn: str, *arguments: str) -> Result:
    """The command in an OS thread of its own, beside the processes that it reports."""
    return await asyncio.to_thread(
        CliRunner().invoke, cli, ["locks", "list", "--dsn", dsn, *arguments]
    )


async def held(dsn: str, *arguments: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (await locks(dsn, "--json", *arguments)).output.splitlines()
    ]


async def test_the_lock_of_a_run_is_shown_by_its_thread_with_its_waiters(dsn: str) -> None:
    gate, settings = Gate("weigh"), Settings()
    async with (
        Durable(dsn, graphs={"words": four_nodes(gate)}, settings=settings) as durable,
        PostgresLockManager(dsn) as other,
    ):

        async def one() -> None:
            async with durable.run("t\x1b[31m", "words") as run:
                await run.ainvoke(START)

        running = asyncio.create_task(one())
        await gate.reached.wait()
        waiting = asyncio.create_task(other.acquire_thread("t\x1b[31m", timeout=None))

        async def waits() -> list[Any]:
            return [lock for lock in await held(dsn) if lock["waiting"]]

        [lock] = await wait_until(waits)
        assert (lock["thread_id"], lock["graph"], lock["key"]) == (
            "t\x1b[31m",
            "words",
            str(lock_key("t\x1b[31m", "aiodurable")),
        )
        assert lock["run_since"] is not None
        assert lock["holder"]["process"] == HERE
        assert [waiter["process"] for waiter in lock["waiting"]] == [HERE]
        shown = (await locks(dsn)).output
        assert HERE[:8] in shown
        assert "\x1b" not in shown
        assert max(map(len, shown.splitlines())) <= 80
        gate.open.set()
        await running
        await (await waiting).release()


async def test_an_apps_own_lock_is_shown_by_its_key_or_by_the_given_name(dsn: str) -> None:
    async with PostgresLockManager(dsn, namespace="mine") as manager, manager.hold("nightly"):
        [lock] = await held(dsn)
        assert (lock["thread_id"], lock["key"]) == (None, str(own_lock_key("nightly", "mine")))
        [lock] = await held(dsn, "nightly", "--namespace", "mine")
        assert lock["name"] == "nightly"
        assert "≤" in (await locks(dsn)).output


async def test_the_exit_code_says_whether_a_named_lock_is_held(dsn: str) -> None:
    async with PostgresLockManager(dsn) as manager:
        async with manager.hold("a"):
            assert (await locks(dsn, "a", "b")).exit_code == 0
            assert (await locks(dsn, "b")).exit_code == 1
        assert (await locks(dsn, "a")).exit_code == 1
    nobody = await locks(dsn)
    assert (nobody.exit_code, nobody.output) == (0, "nobody holds a lock\n")


async def test_no_tables_are_needed(empty_dsn: str) -> None:
    async with PostgresLockManager(empty_dsn) as manager, manager.hold("a"):
        assert [lock["name"] for lock in await held(empty_dsn, "a")] == ["a"]


async def test_a_name_that_cannot_be_one_is_refused(dsn: str) -> None:
    assert (await locks(dsn, "")).exit_code == 2


@pytest.mark.parametrize("arguments", [(), ("--json",)])
async def test_a_server_that_is_away_is_exit_code_5(arguments: tuple[str, ...]) -> None:
    assert (await locks("postgresql://app@127.0.0.1:1/app", *arguments)).exit_code == 5
