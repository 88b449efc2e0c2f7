"""Losing a lease cancels the body and surfaces as LeaseLostError: in every company a cancellation
can be in.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest

from aiodurable.errors import LeaseLostError
from aiodurable.locks import Lease, cancel_on_lost
from aiodurable.locks.lease import SessionLease, Trust


def nothing_to_release(_: Lease) -> None:
    return None


@pytest.fixture
def trust() -> Trust:
    return Trust(float("inf"))


@pytest.fixture
def lease(trust: Trust) -> SessionLease:
    return SessionLease("a", 1, 7, nothing_to_release, trust, 0.0)


async def for_ever() -> None:
    await asyncio.Event().wait()


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_the_body_is_cancelled_and_the_loss_surfaces(lease: SessionLease) -> None:
    asyncio.get_running_loop().call_soon(lease.lose)
    with pytest.raises(LeaseLostError, match="cannot keep the lease") as lost:
        async with cancel_on_lost(lease):
            await for_ever()
    assert lost.value.thread_id == "a"
    assert isinstance(lost.value.__cause__, asyncio.CancelledError)
    assert cancelling() == 0
    await asyncio.sleep(0)


async def test_a_body_that_swallows_its_cancellation_hears_of_the_loss(lease: SessionLease) -> None:
    asyncio.get_running_loop().call_soon(lease.lose)
    with pytest.raises(LeaseLostError):
        async with cancel_on_lost(lease):
            with contextlib.suppress(asyncio.CancelledError):
                await for_ever()
            await asyncio.sleep(0)
    assert cancelling() == 0
    await asyncio.sleep(0)


async def test_a_body_that_ended_under_a_lost_lease_hears_of_it(lease: SessionLease) -> None:
    with pytest.raises(LeaseLostError):
        async with cancel_on_lost(lease):
            lease.lose()
    assert cancelling() == 0
    await asyncio.sleep(0)


async def test_a_body_under_a_passed_deadline_hears_of_it(
    lease: SessionLease, trust: Trust
) -> None:
    with pytest.raises(LeaseLostError):
        async with cancel_on_lost(lease):
            trust.until = time.monotonic() - 1
    assert lease.lost


async def test_the_bodys_own_error_stays_itself(lease: SessionLease) -> None:
    asyncio.get_running_loop().call_soon(lease.lose)
    with pytest.raises(ZeroDivisionError):
        async with cancel_on_lost(lease):
            try:
                await for_ever()
            except asyncio.CancelledError:
                raise ZeroDivisionError from None
    assert cancelling() == 0
    with pytest.raises(ZeroDivisionError):
        async with cancel_on_lost(
            SessionLease("b", 2, 1, nothing_to_release, Trust(float("inf")), 0.0)
        ) as _:
            raise ZeroDivisionError


async def test_an_outer_timeout_stays_a_timeout(lease: SessionLease) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            async with cancel_on_lost(lease):
                await for_ever()
    assert cancelling() == 0


async def test_an_outer_timeout_and_a_loss_at_the_same_moment_are_a_timeout(
    lease: SessionLease,
) -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as outer:
            async with cancel_on_lost(lease):
                outer.reschedule(loop.time())
                loop.call_at(loop.time(), lease.lose)
                await for_ever()
    assert cancelling() == 0


async def test_an_inner_timeout_is_the_bodys_own(lease: SessionLease) -> None:
    async with cancel_on_lost(lease):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await for_ever()


@pytest.mark.parametrize("first", ["user", "loss"])
async def test_a_users_cancellation_at_the_same_moment_wins(
    lease: SessionLease, first: str
) -> None:
    entered = asyncio.Event()

    async def body() -> None:
        async with cancel_on_lost(lease):
            entered.set()
            await for_ever()

    task = asyncio.create_task(body())
    await entered.wait()
    if first == "user":
        task.cancel()
        lease.lose()
    else:
        lease.lose()
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_inside_a_task_group_its_siblings_end_and_the_loss_surfaces(
    lease: SessionLease,
) -> None:
    sibling: asyncio.Task[None] | None = None

    left: list[int] = []

    async def holder() -> None:
        try:
            async with cancel_on_lost(lease):
                await for_ever()
        finally:
            left.append(cancelling())

    asyncio.get_running_loop().call_later(0.01, lease.lose)
    with pytest.raises(BaseExceptionGroup) as group:
        async with asyncio.TaskGroup() as tasks:
            sibling = tasks.create_task(for_ever())
            tasks.create_task(holder())
    assert [type(error) for error in group.value.exceptions] == [LeaseLostError]
    assert sibling is not None
    assert sibling.cancelled()
    assert left == [0]


async def test_around_a_task_group_its_tasks_end_and_the_loss_surfaces_bare(
    lease: SessionLease,
) -> None:
    task: asyncio.Task[None] | None = None
    asyncio.get_running_loop().call_later(0.01, lease.lose)
    with pytest.raises(LeaseLostError):
        async with cancel_on_lost(lease):
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(for_ever())
    assert task is not None
    assert task.cancelled()
    assert cancelling() == 0


async def test_two_leases_lost_at_once_surface_once(lease: SessionLease, trust: Trust) -> None:
    outer = SessionLease("outer", 2, 1, nothing_to_release, trust, 0.0)
    loop = asyncio.get_running_loop()
    loop.call_soon(outer.lose)
    loop.call_soon(lease.lose)
    with pytest.raises(LeaseLostError):
        async with cancel_on_lost(outer):
            async with cancel_on_lost(lease):
                await for_ever()
    assert cancelling() == 0
    await asyncio.sleep(0)


async def test_a_lost_lease_is_not_entered(lease: SessionLease) -> None:
    lease.lose()
    with pytest.raises(LeaseLostError):
        async with cancel_on_lost(lease):
            pytest.fail("entered")
    assert cancelling() == 0


async def test_a_scope_that_was_left_cancels_nobody(lease: SessionLease) -> None:
    async with cancel_on_lost(lease):
        pass
    lease.lose()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert cancelling() == 0


async def test_a_loss_called_from_the_body_itself_does_not_reach_behind_the_boundary(
    lease: SessionLease,
) -> None:
    class Eager(SessionLease):
        """Calls back at once, as a thread's lease does."""

        __slots__ = ("callbacks",)

        def on_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
            self.callbacks = [callback]
            return self.callbacks.clear

        def lose(self) -> None:
            super().lose()
            for callback in self.callbacks:
                callback()

    eager = Eager("a", 1, 1, nothing_to_release, Trust(float("inf")), 0.0)
    with pytest.raises(LeaseLostError):
        async with cancel_on_lost(eager):
            eager.lose()
    await asyncio.sleep(0)
    assert cancelling() == 0


async def test_callbacks_are_called_once_later_and_only_if_still_wanted(
    lease: SessionLease,
) -> None:
    called: list[str] = []
    lease.on_lost(lambda: called.append("wanted"))
    lease.on_lost(lambda: called.append("unwanted"))()
    lease.lose()
    lease.lose()
    assert called == []
    await asyncio.sleep(0)
    assert called == ["wanted"]
    lease.on_lost(lambda: called.append("late"))
    await asyncio.sleep(0)
    assert called == ["wanted", "late"]
    await lease.wait_lost()
