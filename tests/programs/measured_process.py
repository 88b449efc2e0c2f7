"""A process that runs a thread itself and serves its metrics, with fresh numbers of the database:
it gets a DSN, prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys

from aiodurable import Durable
from aiodurable.integrations.prometheus import PrometheusObserver, metrics_app
from aiodurable.integrations.small_server import serving
from tests.support.graphs import INPUT, four_nodes


async def main(dsn: str) -> None:
    observer = PrometheusObserver()
    async with Durable(dsn, graphs={"steps": four_nodes()}, observers=[observer]) as durable:
        async with durable.run("direct", "steps") as run:
            await run.ainvoke(INPUT)
        app = metrics_app(durable, observer=observer, every_s=0)
        async with serving({"/metrics": app}, port=0) as port:
            print(port, flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
