"""The dashboard as people meet it: a real server, a real browser, and what that browser complains
about.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import uvicorn
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from aiodurable.dashboard import dashboard
from aiodurable.durable import Durable
from tests.support.waiting import wait_until

CHROMIUM = os.environ.get("AIODURABLE_CHROMIUM") or shutil.which("chromium")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Site:
    """A dashboard and the browser that looks at it.

    Attributes:
        address: where it is served.
        browser: Chromium.
        complaints: errors of scripts, and what the console said as an error or a warning: a
            refused script or style is one.
        contexts: those that were opened.
    """

    address: str
    browser: Browser
    complaints: list[str] = field(default_factory=list[str])
    contexts: list[BrowserContext] = field(default_factory=list[BrowserContext])

    async def tab(
        self,
        path: str = "/",
        *,
        scheme: Literal["light", "dark"] = "light",
        width: int = 1280,
        **options: Any,
    ) -> Page:
        """Open a page in a browser without cookies."""
        context: BrowserContext = await self.browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, locale="en-GB", **options
        )
        self.contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on(
            "console",
            lambda message: (
                self.complaints.append(f"{page.url}: {message.text}")
                if message.type in ("error", "warning")
                else None
            ),
        )
        await page.goto(f"{self.address}{path}")
        return page


async def serious(tab: Page) -> list[tuple[str, str]]:
    """What axe finds that keeps people from using the page: the rule, and the first element.

    The tab was opened with `bypass_csp`: axe comes from a test, past the policy of the page.
    """
    await tab.add_script_tag(path=AXE)
    # Of what is good, nothing is asked: to describe it takes longer than to find it.
    found: Any = await tab.evaluate(
        "axe.run({resultTypes: ['violations']}).then(found => found.violations.filter("
        "one => ['serious', 'critical'].includes(one.impact)))"
    )
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found]


@asynccontextmanager
async def served(durable: Durable, **options: Any) -> AsyncIterator[str]:
    """The address of a dashboard, for the body."""
    async with listening(
        dashboard(durable, **{"authorize": lambda *_: True, **options})
    ) as address:
        yield address


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """The address of an app, for the body."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=2)
    )
    serving = asyncio.create_task(server.serve())
    try:
        await wait_until(lambda: server.started or serving.done(), what="the server to start")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser, for the body."""
    assert CHROMIUM is not None
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*_ARGUMENTS])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def looked_at(address: str, browser: Browser | None = None) -> AsyncIterator[Site]:
    """A browser on that address, for the body; without `browser`, one of its own."""
    async with AsyncExitStack() as stack:
        site = Site(address, browser or await stack.enter_async_context(chromium()))
        try:
            yield site
        finally:
            for context in site.contexts:
                await context.close()
