"""`aiodurable dashboard`: for the person who has the address that it printed, on this machine."""

from __future__ import annotations

import getpass
import socket
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from aiodurable.cli.commands import cli
from aiodurable.cli.dashboard import served_app
from aiodurable.dashboard.local import LocalDashboard
from aiodurable.durable import Durable
from tests.dashboard.acting import fail, failing, form_of


def local(durable: Durable, host: str = "127.0.0.1", **options: bool) -> LocalDashboard:
    given: Any = {"writable": False, "states": False, **options}
    return LocalDashboard(durable, host=host, port=8321, actor="somebody", **given)


def browser(app: Any, host: str = "127.0.0.1") -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url=f"http://{host}:8321", timeout=30
    )


async def test_a_browser_without_the_address_gets_nothing(durable: Durable) -> None:
    served = local(durable)
    async with browser(served.app) as client:
        for path in ("/", "/threads", "/static/app.css", "/login", "/login?token=x"):
            answer = await client.get(path)
            assert answer.status_code == 401, path
            assert "set-cookie" not in answer.headers
        answer = await client.get(local(durable).login)  # of another start
        assert answer.status_code == 401
        answer = await client.get("/threads", headers={"cookie": "aiodurable_8321=x"})
        assert answer.status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.0.0.2"])
async def test_the_address_signs_in_under_the_host_that_it_names(
    durable: Durable, host: str
) -> None:
    served = local(durable, host)
    async with browser(served.app, host) as client:
        answer = await client.get(served.login)
        assert answer.status_code == 200
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert served.login.partition("=")[2].lower() not in cookie
        sent = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
        assert (await client.get("/threads", headers=sent)).status_code == 200
        rebound = await client.get("/threads", headers={**sent, "host": "evil.example:8321"})
        assert rebound.status_code == 400


@pytest.mark.parametrize("allowed", [True, False])
async def test_states_and_actions_are_there_when_they_are_asked_for(
    durable: Durable, allowed: bool
) -> None:
    await fail(durable, "t", failing())
    checkpoint = (await durable.threads.get("t")).checkpoint_id or ""
    served = local(durable, writable=allowed, states=allowed)
    async with browser(served.app) as client:
        answer = await client.get(served.login)
        sent = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
        for path, query in (
            ("/thread/state", {"id": "t", "checkpoint": checkpoint}),
            ("/act/delete", {"id": "t"}),
        ):
            answer = await client.get(path, params=query, headers=sent)
            assert answer.status_code == (200 if allowed else 403)


async def test_the_audit_names_the_user_of_this_machine(durable: Durable) -> None:
    await fail(durable, "t", failing())
    app, login = served_app(durable, True, False, None, (), "127.0.0.1", 8321)
    async with browser(app) as client:
        await client.get(login)
        query = {"id": "t"}
        form = form_of((await client.get("/act/delete", params=query)).text)
        origin = {"origin": "http://127.0.0.1:8321"}
        done = await client.post("/act/delete", params=query, data=form, headers=origin)
        assert done.status_code == 303, done.text
    (record,) = (await durable.insights.audit()).records
    assert record.actor == f"dashboard:{getpass.getuser()}@{socket.gethostname()}"


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.2", "127.0.0.2"),
        ("::1", "[::1]"),
        ("fd00::7", "[fd00::7]"),
        ("10.0.0.7", "10.0.0.7"),
        ("ops.example.com", "ops.example.com"),
    ],
)
async def test_an_authorized_dashboard_answers_under_the_host_it_listens_at(
    durable: Durable, host: str, own: str
) -> None:
    app, path = served_app(durable, False, False, lambda *_: True, (), host, 8321)
    async with browser(app, own) as client:
        assert (await client.get(path)).status_code == 200
        assert (await client.get(path, headers={"host": "evil.example"})).status_code == 400


@pytest.mark.parametrize(
    "options",
    [
        ["--host", "0.0.0.0"],
        ["--host", "::"],
        ["--host", "10.0.0.7"],
        ["--host", "ops.example.com"],
        ["--host", ""],
        ["--allowed-host", "ops.example.com"],
        ["--authorize", "some.module:may", "--states"],
    ],
    ids=" ".join,
)
def test_what_would_open_it_to_others_is_refused(options: list[str]) -> None:
    done = CliRunner().invoke(cli, ["dashboard", *options])
    assert done.exit_code == 2
    assert "authorize" in done.output
