"""Writes pictures of the dashboard: python3 dev.py screenshots [FOLDER [PAGE…]]

Light, dark and narrow ones of each page, from a database of its own that is filled first.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from aiodurable.durable import Durable
from aiodurable.embedded import EmbeddedPostgres
from tests.browser.shown import GRAPHS, fill
from tests.browser.site import looked_at, served

FOLDER = Path(__file__).parents[2] / "docs" / "images"
PAGES = {
    "overview": "/",
    "threads": "/threads",
    "thread": "/thread?id=2026-12/tides&open=research",
    "state": "/thread?id=2026-11/reefs",
    "runs": "/runs",
    "inbox": "/questions",
    "queues": "/queues",
    "schedules": "/schedules",
    "workers": "/workers",
    "quarantine": "/quarantine",
    "database": "/database",
    "audit": "/audit",
}
LOOKS = {"light": ("light", 1280), "dark": ("dark", 1280), "narrow": ("light", 380)}


async def main(folder: Path, names: Sequence[str]) -> None:
    """Write the pictures of these pages, or of all, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with EmbeddedPostgres() as url:
        async with Durable(url, graphs=GRAPHS) as durable:
            await fill(durable, url)
            async with (
                served(durable, read_only=False) as address,
                looked_at(address) as site,
                durable.work(("reports",)),
            ):
                for look, (scheme, width) in LOOKS.items():
                    for name, path in PAGES.items():
                        if names and name not in names:
                            continue
                        tab = await site.tab(path, scheme=scheme, width=width)  # type: ignore[arg-type]
                        await tab.wait_for_load_state("load")
                        if name == "state":
                            await tab.get_by_role("link", name="changes").first.click()
                            await tab.locator("#state .changes").wait_for()
                            await tab.evaluate("scrollTo(0, 0)")
                        await tab.locator("#live-state:text('live'), main").first.wait_for()
                        await tab.screenshot(path=folder / f"{name}-{look}.png", full_page=True)
                        await tab.context.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, sys.argv[2:]))
