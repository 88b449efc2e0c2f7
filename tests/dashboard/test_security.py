"""Access, requests from other pages, and the headers that restrict the browser."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from aiodurable.dashboard import dashboard
from aiodurable.dashboard.authorization import ACTIONS, READS, refusal
from aiodurable.durable import Durable
from tests.dashboard.conftest import Opened, everything, nothing_of_states
from tests.support.graphs import INPUT, four_nodes

PAGES = ("/", "/threads", "/thread?id=one", "/threads?q=status:failed", "/nothing-here")


async def test_without_authorize_every_page_is_refused_and_says_how_to_allow(
    opened: Opened,
) -> None:
    client = opened(authorize=None)
    for page in PAGES:
        answer = await client.get(page)
        assert answer.status_code == 403
        assert "authorize" in answer.text


@pytest.mark.parametrize("read_only", [True, False])
async def test_a_read_only_dashboard_refuses_each_action_that_changes_something(
    read_only: bool,
) -> None:
    for action in ACTIONS:
        found = await refusal(everything, Any, action, None, read_only=read_only)  # type: ignore[arg-type]
        assert found == ("read-only" if read_only and action not in READS else None), action


@pytest.mark.parametrize("answer", [False, None, 1, "yes", object()])
async def test_only_true_allows(answer: Any) -> None:
    found = await refusal(lambda *_: answer, Any, "view", None, read_only=True)  # type: ignore[arg-type]
    assert found == "denied"


async def test_each_request_is_decided_for_its_action_and_its_thread(
    opened: Opened, durable: Durable
) -> None:
    asked: list[tuple[str, str | None]] = []

    async def authorize(request: Any, action: str, thread: str | None) -> bool:
        asked.append((action, thread))
        return thread != "secret"

    await run(durable, "one")
    client = opened(authorize=authorize)
    assert (await client.get("/threads")).status_code == 200
    assert (await client.get("/thread", params={"id": "one"})).status_code == 200
    assert (await client.get("/thread", params={"id": "secret"})).status_code == 403
    assert asked[0] == ("view", None)
    assert asked[1] == ("view", "one")
    assert asked[-1] == ("view", "secret")


@pytest.mark.parametrize("page", ["state", "diff", "value"])
async def test_a_state_needs_the_right_to_see_it(
    opened: Opened, durable: Durable, page: str
) -> None:
    checkpoint_id = await run(durable, "one")
    query = {"id": "one", "checkpoint": checkpoint_id, "to": checkpoint_id}
    assert (await opened().get(f"/thread/{page}", params=query)).status_code == 200
    refused = await opened(authorize=nothing_of_states).get(f"/thread/{page}", params=query)
    assert refused.status_code == 403
    assert "weigh" not in refused.text


async def test_a_stream_is_refused_as_its_page_is(opened: Opened) -> None:
    answer = await opened(authorize=lambda *_: False).get("/threads?live=1")
    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil"])
async def test_a_request_for_another_host_gets_nothing(opened: Opened, host: str) -> None:
    answer = await opened().get("/threads", headers={"host": host})
    assert answer.status_code == 400
    assert "allowed_hosts" in answer.text


@pytest.mark.parametrize(
    "host",
    [
        "[",
        "[::1",
        "[::1]x",
        "[:::]",
        "a]b",
        "localhost:x",
        "localhost:99999",
        "a b",
        "a/b",
        "a@b",
        "",
    ],
)
@pytest.mark.parametrize("hosts", [["*"], None], ids=["any host", "this machine"])
async def test_what_is_no_name_of_a_host_is_refused_and_is_no_failure(
    opened: Opened, host: str, hosts: list[str] | None
) -> None:
    client = opened(allowed_hosts=hosts, read_only=False)
    for path in ("/threads", "/threads/", "/act/delete?id=t"):
        answer = await client.get(path, headers={"host": host})
        assert answer.status_code == 400, (path, answer.text)
        origin = {"host": host, "origin": f"http://{host}"}
        assert (await client.post(path, headers=origin)).status_code == 400


async def test_named_hosts_are_served_with_any_port(opened: Opened) -> None:
    client = opened(allowed_hosts=["ops.example.com", "*.inside.example"])
    for host in ("ops.example.com", "OPS.example.com:8443", "a.inside.example"):
        assert (await client.get("/threads", headers={"host": host})).status_code == 200
    for host in ("localhost", "example.com", "inside.example"):
        assert (await client.get("/threads", headers={"host": host})).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://localhost]"},
        {"origin": "http://[::1"},
        {"origin": "http://localhost:port"},
        {"origin": "//localhost"},
        {"origin": "http://\u2100localhost".encode("utf-8")},
        {"origin": ""},
        {"origin": "http://localhost:9"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_change_from_another_page_is_refused(
    opened: Opened, method: str, headers: dict[str, str | bytes]
) -> None:
    answer = await opened(read_only=False).request(method, "/threads", headers=headers)
    assert answer.status_code == 403


async def test_a_change_from_its_own_page_gets_to_the_page(opened: Opened) -> None:
    client = opened(read_only=False)
    for headers in ({"origin": "http://localhost"}, {"sec-fetch-site": "same-origin"}):
        answer = await client.post("/threads", headers=headers)
        assert answer.status_code == 404  # the list of threads changes nothing


async def test_every_answer_has_the_headers(opened: Opened, durable: Durable) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("a secret of the state")

    await run(durable, "one")
    answers = [await opened().get(page) for page in (*PAGES, "/static/app.css")]
    answers.append(await opened().get("/", headers={"host": "evil.example"}))
    answers.append(await opened().post("/"))
    answers.append(await opened(of=Broken()).get("/threads"))
    assert answers[-1].status_code == 500
    assert "secret" not in answers[-1].text
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"


async def test_no_page_has_a_script_or_a_style_of_its_own(opened: Opened, durable: Durable) -> None:
    await run(durable, "one")
    for page in PAGES:
        answer = await opened().get(page)
        assert answer.status_code == (404 if page == "/nothing-here" else 200)
        html = answer.text
        assert re.findall(r"<script(?![^>]*\bsrc=)", html) == []
        assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", html) == []


@pytest.mark.parametrize("text", ["%00", "a%00b", "%ED%A0%80", "%FF", "9" * 5_000])
@pytest.mark.parametrize("page", ["threads", "runs", "questions", "quarantine", "schedules"])
async def test_a_page_after_what_no_id_is_can_be_shown(
    opened: Opened, page: str, text: str
) -> None:
    assert (await opened().get(f"/{page}?after={text}")).status_code == 200


@pytest.mark.parametrize(
    ("mounted", "forwarded", "prefix"),
    [
        ("", "", ""),
        ("/ops", "", "/ops"),
        ("", "/behind", "/behind"),
        ("/ops", "/behind", "/behind/ops"),
        ("/ops", "/ops", "/ops"),
        ("", "//evil.example", ""),
        ("", '/x" onload="alert(1)', ""),
        ("", "javascript:alert(1)", ""),
    ],
)
async def test_links_lead_below_the_path_where_a_browser_finds_it(
    durable: Durable, mounted: str, forwarded: str, prefix: str
) -> None:
    app = Starlette(routes=[Mount(mounted or "/", dashboard(durable, authorize=everything))])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get(f"{mounted}/threads", headers={"x-forwarded-prefix": forwarded})
        links = re.findall(r'(?:href|src|action)="(/[^"]*)"', answer.text)
        assert links
        assert all(link.startswith(f"{prefix}/") for link in links), links
        assert "evil" not in answer.text
        script = next(link for link in links if "app.js" in link)
        served = await client.get(script.removeprefix(forwarded if prefix else ""))
        assert served.status_code == 200 or mounted == forwarded


async def run(durable: Durable, thread_id: str) -> str:
    """A complete thread; its newest checkpoint."""
    async with durable.run(thread_id, four_nodes()) as running:
        await running.ainvoke(INPUT)
    found = (await durable.threads.get(thread_id)).checkpoint_id
    assert found is not None
    return found
