"""The holder stops before the server lets go, in every trial: whatever the network does, and in whichever direction."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from lock_holder import SHORT, holder, said
from own_server import OwnServer
from partition import Partition, partitioned
from proxy import Direction
from server_locks import ServerLocks
from timetable import Timetable
from waiting import wait_until

TRUSTED_S = SHORT.lease_ttl_s - SHORT.lease_margin_s


@pytest.fixture
async def partition(own: OwnServer) -> AsyncIterator[Partition]:
    async with partitioned(own) as opened:
        yield opened


@pytest.mark.parametrize(
    "directions", [(), ("to_server",), ("to_client",)], ids=["both ways", "to server", "to client"]
)
async def test_in_a_partition_the_holder_stops_before_the_server_lets_go(
    partition: Partition, directions: tuple[Direction, ...], timetable: Timetable, long: bool
) -> None:
    timetable.title += f" ({partition.how})"
    with psycopg.connect(partition.near, autocommit=True) as admin:
        server_locks = ServerLocks(partition.near, admin)
        for _ in range(20 if long else 1):
            async with holder(partition.far, "scope", command=partition.command) as process:
                assert server_locks.leases() == 1
                partition.network.cut(*directions)
                cut = time.monotonic()
                await wait_until(lambda: server_locks.leases() == 0, 20)
                freed = time.monotonic() - cut
                stopped = float(await said(process)) - cut
            timetable.trial(holder_stopped=stopped, server_let_go=freed)
            assert stopped < freed
            assert stopped < TRUSTED_S + 0.5
            partition.network.mend()
            await wait_until(lambda: server_locks.sessions() == 0, 20)
