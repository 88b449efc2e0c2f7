"""A dashboard on the test's database, and a browser's requests without a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from aiodurable.dashboard import background, dashboard
from aiodurable.durable import Durable
from tests.support.waiting import LIMIT_S

Opened = Callable[..., httpx.AsyncClient]


def everything(request: Any, action: str, thread: str | None) -> bool:
    return True


def nothing_of_states(request: Any, action: str, thread: str | None) -> bool:
    return action != "view_state"


@pytest.fixture
async def opened(durable: Durable) -> AsyncIterator[Opened]:
    """Open the dashboard with options: a client that asks it as a browser on this machine does."""
    async with AsyncExitStack() as stack:

        def opened(*, of: Any = durable, **options: Any) -> httpx.AsyncClient:
            app = dashboard(of, **{"authorize": everything, **options})
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app, raise_app_exceptions=False),
                base_url="http://localhost",
            )
            stack.push_async_callback(client.aclose)
            return client

        yield opened


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is answered when what was begun has ended, on a slow machine, too."""
    monkeypatch.setattr(background, "_LOOKED_AT_S", LIMIT_S)
