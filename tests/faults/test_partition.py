"""The holder stops before the server frees its lock, in every trial: whatever the network does, and in
whichever direction.
"""

from __future__ import annotations

import time

import psycopg
import pytest

from tests.support.fault_times import Timetable
from tests.support.lock_holder import SHORT, holder, said
from tests.support.lock_view import ServerLocks
from tests.support.netsplit import Partition, partitioned
from tests.support.proxy import Direction
from tests.support.restartable import OwnServer
from tests.support.waiting import wait_until

WAYS: dict[str, tuple[Direction, ...]] = {
    "both ways": (),
    "to server": ("to_server",),
    "to client": ("to_client",),
}


@pytest.mark.timeout(600)
async def test_in_a_partition_the_holder_stops_before_the_server_lets_go(
    own: OwnServer, timetable: Timetable, long: bool
) -> None:
    async with partitioned(own) as partition:
        timetable.title += f" ({partition.how})"
        with psycopg.connect(partition.near, autocommit=True) as admin:
            server_locks = ServerLocks(partition.near, admin)
            for cut, directions in WAYS.items():
                for _ in range(20 if long else 1):
                    times = await one_trial(partition, server_locks, directions)
                    timetable.trial(**{f"{cut}: {what}": time_s for what, time_s in times.items()})
                    stopped, freed = times.values()
                    assert stopped < min(freed, SHORT.lease_ttl_s)


async def one_trial(
    partition: Partition, server_locks: ServerLocks, directions: tuple[Direction, ...]
) -> dict[str, float]:
    async with holder(partition.far, "scope", command=partition.command) as process:
        assert server_locks.leases() == 1
        partition.network.cut(*directions)
        cut = time.monotonic()
        await wait_until(lambda: server_locks.leases() == 0, 20)
        freed = time.monotonic() - cut
        stopped = float(await said(process)) - cut
    partition.network.mend()
    await wait_until(lambda: server_locks.sessions() == 0, 20)
    return {"holder stopped": stopped, "server let go": freed}
