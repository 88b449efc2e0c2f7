"""What the dashboard costs beside a million threads and 100,000 queued runs: the time of each page
on the server, and what an open page costs Postgres.

    python -m benchmarks dashboard --threads 1000000 --keep

Each page is requested through ASGI, one request after the other, each time about another thread
where it is about one. An open page is followed as a browser follows it, at rest and beside durable
runs at a steady pace; the latter in turns with the runs alone. The database is that of
`python -m benchmarks status`, which `--keep` leaves on the server of AIODURABLE_DSN, and the queued
runs are inserted by SQL and removed again. Server CPU is that of Postgres and all its processes.
A million threads take up to half an hour to make, and a quarter of one to measure.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import httpx

from aiodurable import Durable
from aiodurable.dashboard import dashboard
from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres
from aiodurable.integrations.prometheus import metrics_app

from .backlog import fill
from .crowd import ends, graph, template, thread_name
from .machine import describe
from .meter import Meter, ServerCpu
from .report import parser, save, table
from .rounds import in_turns
from .status import LIVE_PER_S, crowd, forget_live, live, settings

PAGE_P95_MS = 200.0
OPEN_PERCENT = 2.0
_REMOVE_QUEUED = "DELETE FROM aiodurable_runs WHERE thread_id LIKE 'waiting-%'"
_RETRY = re.compile(r"^retry: (\d+)$", re.MULTILINE)
_OPEN = ("/", "/threads", "/runs", "/queues", "/database")
HEADS = {
    "page": "page",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "max_ms": "max ms",
    "server_cpu_ms": "server CPU ms",
    "client_cpu_ms": "client CPU ms",
    "kb": "kB",
    "met": f"p95 < {PAGE_P95_MS:g} ms",
}
OPEN_HEADS = {
    "page": "open page",
    "beside": "beside",
    "server_percent": "server, % of a core",
    "renderings": "renderings a minute",
    "met": f"< {OPEN_PERCENT:g} %",
}


class Pages:
    """The addresses to request.

    Args:
        count: threads of the crowd.
        run_ids: some runs in the ledger.
        checkpoints: the newest checkpoints of some threads that are complete.
    """

    def __init__(
        self, count: int, run_ids: Sequence[str], checkpoints: Sequence[tuple[str, str, str]]
    ) -> None:
        self._dice = random.Random(7)
        self._run_ids = run_ids
        self._checkpoints = checkpoints
        self._by_status = {
            wanted: [
                thread_name(number)
                for number in self._dice.sample(range(count), min(count, 20_000))
                if template(number) == wanted
            ]
            for wanted in ("complete", "failed", "interrupted", "crashed")
        }

    def named(self) -> dict[str, Callable[[], str]]:
        """What to request for each page, by the page's name."""
        pages = (
            "/",
            "/threads",
            "/threads?q=status:failed",
            "/threads?q=status:failed,crashed",
            "/threads?q=status:complete",
            "/threads?q=graph:crowd",
            "/threads?q=error:broken",
            "/threads?q=error:nowhere",
            "/threads?q=older:20d",
            "/threads?q=newer:1d",
            "/threads?q=status:failed older:20d",
            "/runs",
            "/runs?status=queued",
            "/runs?state=ready&queue=default",
            "/runs?status=failed",
            "/runs?fairness_key=tenant 7",
            "/runs?graph=crowd&older=20d",
            "/questions",
            "/quarantine",
            "/queues",
            "/schedules",
            "/workers",
            "/database",
            "/audit",
            "/act/retry_many?q=status:failed&cap=100",
            "/metrics",
        )
        made: dict[str, Callable[[], str]] = {page: lambda page=page: page for page in pages}
        made["/threads?after=…"] = lambda: f"/threads?after={self._dice.randrange(240):02x}"
        for status, names in self._by_status.items():
            made[f"/thread, {status}"] = lambda names=names: f"/thread?id={self._one(names)}"
        made["/run"] = lambda: f"/run?id={self._one(self._run_ids)}"
        for page, query in (("state", "checkpoint={1}"), ("diff", "from={2}&to={1}")):
            made[f"/thread/{page}"] = lambda page=page, query=query: (
                f"/thread/{page}?id={{0}}&{query}".format(*self._one(self._checkpoints))
            )
        return made

    def _one(self, of: Sequence[Any]) -> Any:
        return of[self._dice.randrange(len(of))]


async def pages_of(admin: asyncpg.Connection, count: int) -> Pages:
    """The pages, with runs and checkpoints that are there."""
    runs = await admin.fetch(
        "SELECT run_id FROM aiodurable_runs WHERE graph = 'crowd' ORDER BY run_id LIMIT 200"
    )
    found: list[tuple[str, str, str]] = []
    for number in random.Random(3).sample(range(count), min(count, 200)):
        rows = await admin.fetch(
            "SELECT checkpoint_id FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = ''"
            " ORDER BY checkpoint_id DESC LIMIT 2",
            thread_name(number),
        )
        if len(rows) == 2:
            found.append((thread_name(number), rows[0][0], rows[1][0]))
    return Pages(count, [row["run_id"] for row in runs], found)


async def measured(
    client: httpx.AsyncClient, name: str, address: Callable[[], str], server: ServerCpu, times: int
) -> dict[str, Any]:
    """One page, requested so often."""
    took: list[float] = []
    size = 0
    for _ in range(3):
        await client.get(address())
    with Meter(server) as meter:
        for _ in range(times):
            began = time.perf_counter()
            answer = await client.get(address())
            took.append((time.perf_counter() - began) * 1000)
            assert answer.status_code == 200, (name, answer.status_code, answer.text[-500:])
            size = max(size, len(answer.content))
    took.sort()
    p95 = took[min(len(took) - 1, int(len(took) * 0.95))]
    return {
        "page": name,
        "p50_ms": statistics.median(took),
        "p95_ms": p95,
        "max_ms": took[-1],
        "server_cpu_ms": meter.server_s * 1000 / times,
        "client_cpu_ms": meter.client_s * 1000 / times,
        "kb": size / 1000,
        "met": p95 < PAGE_P95_MS,
    }


async def followed(client: httpx.AsyncClient, page: str, seconds: float) -> int:
    """Follow a page as a browser does, for so long. Returns how often it was rendered."""
    rendered, ends_at = 0, time.monotonic() + seconds
    query = "&" if "?" in page else "?"
    while (left := ends_at - time.monotonic()) > 0:
        # The stream ends by itself; a browser waits as long as it says, and opens the next one.
        answer = await client.get(f"{page}{query}live=1")
        rendered += answer.text.count("\n\n") - len(_RETRY.findall(answer.text))
        rest_s = int((_RETRY.findall(answer.text) or ["3000"])[-1]) / 1000
        await asyncio.sleep(max(0.0, min(rest_s, left)))
    return rendered


async def at_rest(
    client: httpx.AsyncClient, page: str, server: ServerCpu, seconds: float
) -> dict[str, Any]:
    """What an open page costs where nothing else is at work."""
    with Meter(server) as meter:
        rendered = await followed(client, page, seconds)
    percent = 100 * meter.server_s / meter.seconds
    return {
        "page": page,
        "beside": "nothing",
        "server_percent": percent,
        "renderings": rendered * 60 / meter.seconds,
        "met": percent < OPEN_PERCENT,
    }


async def beside_runs(
    durable: Durable, client: httpx.AsyncClient, server: ServerCpu, seconds: float, rounds: int
) -> dict[str, Any]:
    """What the open overview costs beside live runs: with it, without it, in turns."""

    async def turn(work: Awaitable[int]) -> dict[str, float]:
        task = asyncio.ensure_future(work)
        with Meter(server) as meter:
            await live(durable, task)
            rendered = await task
        return {
            "server_percent": 100 * meter.server_s / meter.seconds,
            "renderings": rendered * 60 / meter.seconds,
        }

    found = await in_turns(
        {
            "alone": lambda: turn(asyncio.sleep(seconds, 0)),
            "open": lambda: turn(followed(client, "/", seconds)),
        },
        rounds,
        warm_up=1,
    )
    percent = statistics.median(
        opened["server_percent"] - alone["server_percent"]
        for opened, alone in zip(found["open"], found["alone"], strict=True)
    )
    alone = statistics.median(row["server_percent"] for row in found["alone"])
    return {
        "page": "/",
        "beside": f"{LIVE_PER_S} runs/s ({alone:.0f} % alone)",
        "server_percent": percent,
        "renderings": statistics.median(row["renderings"] for row in found["open"]),
        "met": percent < OPEN_PERCENT,
    }


@asynccontextmanager
async def queued(admin: asyncpg.Connection, runs: int) -> AsyncIterator[None]:
    """So many queued runs of a thousand fairness keys, for the body."""
    await admin.execute(_REMOVE_QUEUED, timeout=1800)  # what an interrupted call left
    await fill(admin, settled=False, rows=runs, keys=1000)
    await admin.execute("VACUUM ANALYZE aiodurable_runs", timeout=1800)
    try:
        yield
    finally:
        await admin.execute(_REMOVE_QUEUED, timeout=1800)


def everybody(request: Any, action: str, thread: str | None) -> bool:  # noqa: ARG001
    """Allow everything."""
    return True


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=120
    )


async def run(given: argparse.Namespace) -> None:
    load, began = os.getloadavg()[0], time.monotonic()
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN")
        if dsn is None:
            dsn = await stack.enter_async_context(
                embedded_postgres(durable=True, settings=settings())
            )
        own = await stack.enter_async_context(
            crowd(parse_dsn(dsn).conninfo, given.threads, keep=given.keep)
        )
        admin = await asyncpg.connect(**parse_dsn(own).asyncpg)
        stack.push_async_callback(admin.close)
        server = await ServerCpu.of(admin)
        machine = describe(await admin.fetchval("SHOW server_version"))
        await stack.enter_async_context(queued(admin, given.queued))
        durable = await stack.enter_async_context(Durable(own, graphs={"crowd": graph(ends)}))
        app = dashboard(durable, authorize=everybody, read_only=False)
        client = await stack.enter_async_context(client_of(app))
        scraper = await stack.enter_async_context(client_of(metrics_app(durable, every_s=0)))
        pages = (await pages_of(admin, given.threads)).named()
        rows: list[dict[str, Any]] = []
        for name, address in pages.items():
            if given.only and given.only not in name:
                continue
            asked = scraper if name == "/metrics" else client
            rows.append(await measured(asked, name, address, server, given.requests))
            print(f"{name}: {rows[-1]['p95_ms']:.0f} ms", flush=True)
        print(f"pages: {time.monotonic() - began:.0f} s with what was made", flush=True)
        print(table(rows, HEADS), end="\n\n", flush=True)
        opened: list[dict[str, Any]] = []

        def kept() -> None:
            if given.json:
                save(
                    given.json,
                    machine,
                    rows,
                    load_before=load,
                    opened=opened,
                    targets=targets(rows, opened),
                    threads=given.threads,
                    queued=given.queued,
                    requests=given.requests,
                )

        kept()
        if not given.only:
            opened += [await at_rest(client, page, server, given.open_s) for page in _OPEN]
            opened.append(await beside_runs(durable, client, server, given.open_s, given.rounds))
            await forget_live(own)
            print(table(opened, OPEN_HEADS))
            kept()


def targets(
    rows: Sequence[dict[str, Any]], opened: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What was aimed at, and the page that is furthest from it."""
    slowest = max(rows, key=lambda row: row["p95_ms"])
    found = [
        {
            "target": f"every page, p95; the slowest is {slowest['page']}",
            "wanted": f"< {PAGE_P95_MS:g} ms",
            "measured": f"{slowest['p95_ms']:.0f} ms",
            "met": slowest["met"],
        }
    ]
    if opened:
        dearest = max(opened, key=lambda row: row["server_percent"])
        found.append(
            {
                "target": f"an open page, CPU of Postgres; the dearest is {dearest['page']}",
                "wanted": f"< {OPEN_PERCENT:g} % of a core",
                "measured": f"{dearest['server_percent']:.2f} %",
                "met": dearest["met"],
            }
        )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print tables."""
    options = parser(__doc__, "dashboard")
    options.add_argument("--threads", type=int, default=100_000)
    options.add_argument("--queued", type=int, default=100_000)
    options.add_argument("--requests", type=int, default=50, help="of each page")
    options.add_argument("--open-s", type=float, default=45.0, help="seconds that a page is open")
    options.add_argument("--rounds", type=int, default=3, help="of an open page beside live runs")
    options.add_argument("--only", help="pages whose names have this in them")
    options.add_argument("--keep", action="store_true", help="leave the crowd on the server")
    given = options.parse_args(argv)
    if given.quick:
        given.threads, given.queued, given.requests = 1000, 1000, 10
        given.open_s, given.rounds = 5.0, 1
    asyncio.run(run(given))


if __name__ == "__main__":
    main()
