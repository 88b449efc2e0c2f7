"""A server that asks for a password (SCRAM, over TCP): everything works, and nothing that is said
or logged repeats it.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from urllib.parse import quote

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.conninfo import conninfo_to_dict

from aiodurable import Durable, PostgresLockManager, Settings, ThreadStatus
from aiodurable.cli.commands import cli
from aiodurable.errors import AiodurableError, PostgresUnavailableError
from tests.support.graphs import STEPS, four_nodes
from tests.support.restartable import OwnServer
from tests.support.waiting import wait_until

PASSWORD = "Zwiebel:kuchen/42@x"
WRONG = "Apfel:kuchen/43@x"
START = {"words": [], "told": ""}


def hidden(*told: str) -> bool:
    """Whether none of it shows either password, as it is or as it stands in a URI."""
    secrets = [
        form
        for word in (PASSWORD, WRONG)
        for form in (word, quote(word, safe=""), word.partition(":")[0])
    ]
    return not [secret for secret in secrets for text in told if secret in text]


def everything_of(error: BaseException) -> list[str]:
    """What it says, what it carries, and the errors behind it. Frames show source lines, not
    values.
    """
    return [*traceback.format_exception(error), repr(error), repr(vars(error))]


@pytest.fixture
async def asking(own: OwnServer) -> str:
    """The DSN without its password's place: `{}` is to be filled."""
    own.listen("scram-sha-256")
    socket = await own.start()
    parts = conninfo_to_dict(socket)
    with psycopg.connect(socket, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE keeper LOGIN SUPERUSER PASSWORD '{PASSWORD}'".encode())
    return f"postgresql://keeper:{{}}@127.0.0.1:{parts['port']}/postgres"


async def test_no_password_is_said_or_logged_while_runs_fail_and_recover(
    asking: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = asking.format(quote(PASSWORD, safe=""))
    told: list[str] = []
    with caplog.at_level(logging.DEBUG):
        async with Durable(dsn, settings=Settings(close_timeout_s=2)) as durable:
            told += [
                repr(durable),
                repr(durable.dsn),
                str(durable.health()),
                repr(durable.settings),
            ]
            async with durable.run("t", four_nodes()) as run:
                assert (await run.ainvoke(START))["words"] == list(STEPS)
            assert (await durable.threads.status("t")).status is ThreadStatus.COMPLETE
            with psycopg.connect(
                dsn, autocommit=True
            ) as admin:  # its sessions are lost, and opened again with the password
                admin.execute(
                    "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE application_name"
                    " LIKE 'aio%'"
                )
            await wait_until(
                lambda: all(each.up and each.reconnects for each in durable.locks.health().sessions)
            )
            async with durable.run("u", four_nodes()) as run:
                assert (await run.ainvoke(START))["words"] == list(STEPS)
        for opening in (
            Durable(
                asking.format(quote(WRONG, safe="")), settings=Settings(connect_timeout_s=3)
            ).open(),
            PostgresLockManager(asking.format(quote(WRONG, safe=""))).open(),
            Durable(
                dsn.replace("/postgres", "/nowhere"), settings=Settings(connect_timeout_s=3)
            ).open(),
        ):
            with pytest.raises(PostgresUnavailableError) as refused:
                await opening
            told += everything_of(refused.value)
            copied = pickle.loads(pickle.dumps(refused.value))
            assert isinstance(copied, AiodurableError)
            told += everything_of(copied)
    told += [record.getMessage() + (record.exc_text or "") for record in caplog.records]
    told += capsys.readouterr()
    assert caplog.records
    assert hidden(*told)


@pytest.mark.parametrize("password", [PASSWORD, WRONG])
async def test_the_commands_show_no_password(asking: str, password: str) -> None:
    dsn = asking.format(quote(password, safe=""))
    told: list[str] = []
    for command in (
        ["db", "migrate"],
        ["doctor"],
        ["doctor", "--json"],
        ["status"],
        ["threads", "list"],
        ["locks", "list"],
        ["threads", "show", "t"],
    ):
        result = await asyncio.to_thread(CliRunner().invoke, cli, [*command, "--dsn", dsn])
        told.append(result.output)
        if password == PASSWORD and command != ["threads", "show", "t"]:
            assert result.exit_code == 0, (command, result.output)
    assert all(told)
    assert hidden(*told)
