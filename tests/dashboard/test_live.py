"""A stream sends what changed, rests in proportion to what a page costs, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from aiodurable.dashboard import live
from aiodurable.errors import PostgresUnavailableError
from tests.dashboard.conftest import Opened
from tests.support.waiting import LIMIT_S


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "rest_after", lambda _: 0.0)


async def test_a_stream_sends_what_differs_and_ends_with_its_page(no_rest: None) -> None:
    pages: Iterator[str | None] = iter(["<p>one\n</p>", "<p>one\n</p>", "<p>two</p>", None])

    async def render() -> str | None:
        return next(pages)

    assert [line async for line in live.events(render, asyncio.Future())] == [
        "event: page\ndata: <p>one\ndata: </p>\n\n",
        ": same\n\n",
        "event: page\ndata: <p>two</p>\n\n",
        "event: end\ndata:\n\n",
    ]


async def test_a_stream_goes_on_after_the_database_was_away(opened: Opened) -> None:
    class Unreachable:
        def __getattr__(self, name: str) -> Any:
            raise PostgresUnavailableError("cannot reach Postgres")

    answer = await opened(of=Unreachable()).get("/threads?live=1")
    assert answer.status_code == 200
    assert answer.text == "event: away\ndata:\nretry: 5000\n\n"


@pytest.mark.parametrize(
    ("rendering_s", "rest_s"), [(0.0, 1.0), (0.01, 1.0), (0.1, 5.0), (0.5, 25.0), (9.0, 60.0)]
)
def test_an_open_page_costs_two_percent_at_most(rendering_s: float, rest_s: float) -> None:
    assert live.rest_after(rendering_s) == pytest.approx(rest_s)


async def test_a_costly_page_ends_its_stream_and_lets_the_browser_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "rest_after", lambda _: 45.0)

    async def render() -> str:
        return "<p></p>"

    assert [line async for line in live.events(render, asyncio.Future())][-1] == "retry: 45000\n\n"


async def test_a_stream_ends_when_the_browser_is_gone(no_rest: None) -> None:
    gone = asyncio.Future[None]()

    async def render() -> str:
        gone.set_result(None)
        return "<p></p>"

    assert len([line async for line in live.events(render, gone)]) == 1


async def test_a_stream_ends_when_the_right_was_taken_away(
    opened: Opened, no_rest: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_LONGEST_S", LIMIT_S)
    asked: list[str] = []

    def authorize(request: Any, action: str, thread: str | None) -> bool:
        asked.append(action)
        return asked.count("view") < 4

    answer = await opened(authorize=authorize).get("/threads?live=1")
    assert answer.text.endswith("event: end\ndata:\n\n")
    assert asked.count("view") == 4
