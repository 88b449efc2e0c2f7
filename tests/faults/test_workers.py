"""Workers are killed, frozen and cut off: what was accepted is finished, once, and soon."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiodurable.durable import Durable
from aiodurable.models import RunStatus
from tests.programs.worker_campaign import campaign
from tests.programs.worker_cancels import measure as measure_cancels
from tests.programs.worker_kills import How, measure
from tests.programs.worker_process import SHORT, graphs
from tests.support.fault_times import Timetable
from tests.support.restartable import OwnServer
from tests.support.workers import workers

SLOW_MACHINE_S = 10.0
"""Far beyond what is promised: times are for readers, and measured by the programs."""


@pytest.mark.timeout(900)
async def test_the_run_of_a_killed_worker_goes_on_elsewhere_from_its_last_checkpoint(
    own: OwnServer, log: Path, timetable: Timetable, long: bool
) -> None:
    trials, crowd = (100, 1000) if long else (3, 20)
    times = await measure(own, log, trials=trials, crowd=crowd)
    for seconds in times.seconds:
        timetable.trial(kill_to_next_step=seconds)
    assert times.wrong == []
    assert max(times.seconds) < SLOW_MACHINE_S


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["stop", "partition"])
async def test_a_worker_that_freezes_or_is_cut_off_loses_its_run_and_changes_nothing_later(
    own: OwnServer, log: Path, timetable: Timetable, how: How, long: bool
) -> None:
    settings = {**SHORT, "recovery_grace_s": 2.0}
    times = await measure(own, log, trials=5 if long else 1, crowd=0, how=how, settings=settings)
    for seconds in times.seconds:
        timetable.trial(**{f"{how}_to_next_step": seconds})
    assert times.wrong == []
    assert max(times.seconds) < times.bound_s + SLOW_MACHINE_S


@pytest.mark.timeout(300)
@pytest.mark.parametrize("graph", ["one", "stubborn"])
async def test_a_cancelled_run_is_over_at_once_also_where_its_node_swallows_that(
    dsn: str, log: Path, timetable: Timetable, graph: str
) -> None:
    async with Durable(dsn, graphs=graphs(str(log))) as durable, workers(dsn, log) as started:
        await started.start()
        times, wrong = await measure_cancels(durable, started, graph, runs=5)
        for seconds in times:
            timetable.trial(cancelled=seconds)
    assert wrong == []
    assert max(times) < SLOW_MACHINE_S


@pytest.mark.timeout(1200)
async def test_under_faults_of_all_kinds_every_run_is_settled_none_lost_or_doubled(
    own: OwnServer, log: Path, long: bool
) -> None:
    own.settings["max_connections"] = "200"
    dsn = await own.start()
    runs, pace = (10_000, 1) if long else (200, 2)
    report = await campaign(dsn, log, seed=1, runs=runs, pace=pace, server=own)
    print(report)
    assert report.wrong == []
    assert report.statuses[RunStatus.COMPLETE] > 0
    assert report.faults["restarts"] == 2
