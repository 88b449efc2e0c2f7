"""One run that is not over for each dedup_key, whatever process accepts it."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.queue import NewRun
from aiodurable.queue.acceptance import Acceptance
from aiodurable.settings import Settings
from tests.support.scenario_graphs import chain, ok

INPUT: dict[str, Any] = {"xs": ["in"]}
GRAPHS = {"chain": chain(a=ok("a"))}


async def test_creates_with_one_dedup_key_at_the_same_moment_accept_one_run(dsn: str) -> None:
    async with (
        Durable(dsn, graphs=GRAPHS, settings=Settings()) as one,
        Durable(dsn, graphs=GRAPHS, settings=Settings()) as other,
    ):
        for attempt in range(5):
            runs = await asyncio.gather(
                *(
                    durable.runs.create(
                        f"t{attempt}-{n}", "chain", INPUT, dedup_key=f"k{attempt}", **options
                    )
                    for n, durable in enumerate((one, other) * 4)
                    for options in ({}, {"on_busy": "reject"})
                )
            )
            assert len({run.run_id for run in runs}) == 1


@pytest.mark.parametrize("many", [False, True])
async def test_a_run_that_ends_while_another_with_its_dedup_key_is_accepted_does_not_refuse_it(
    dsn: str, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    existing = Acceptance._existing  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    async def ends_first(self: Acceptance, *arguments: Any) -> Any:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                b"UPDATE aiodurable_runs SET status = 'complete', claim_state = NULL"
                b" WHERE run_id = 'old'"
            )
        return await existing(self, *arguments)

    async with Durable(dsn, graphs=GRAPHS, settings=Settings()) as durable:
        await durable.runs.create("t", "chain", INPUT, run_id="old", dedup_key="k")
        monkeypatch.setattr(Acceptance, "_existing", ends_first)
        if many:
            new = NewRun(thread_id="t", graph="chain", input=INPUT, run_id="new", dedup_key="k")
            (accepted,) = await durable.runs.create_many([new])
        else:
            accepted = await durable.runs.create("t", "chain", INPUT, run_id="new", dedup_key="k")
    assert accepted.run_id == "new"
