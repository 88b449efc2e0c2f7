"""If disk, locks, connections or descriptors run out, an error of ours says so, never a driver's."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict

import asyncpg
import psycopg
import pytest
from langgraph.graph import START, StateGraph

import aiodurable
from aiodurable.durable import Durable
from aiodurable.embedded import start_server, stop_server
from aiodurable.errors import AiodurableError, LockCapacityError
from aiodurable.settings import Settings
from tests.support.internals import committer_of, services_of
from tests.support.postgres import left_alone, small_server


class State(TypedDict, total=False):
    text: str


async def node(state: State) -> State:
    return {"text": os.urandom(150_000).hex()}


GRAPH = StateGraph(State).add_node("node", node).add_edge(START, "node")
UNCLEANED = {"autovacuum": "off"}
"""Of the servers: it would free space, or locks, where they are to stay used up."""
FEW = Settings(pool_max_size=2, checkpoint_connections=1, lock_connections=1)


def resource_of(error: BaseException) -> str | None:
    """Which resource an error of ours names; it fails for any other error."""
    assert isinstance(error, AiodurableError), repr(error)
    assert type(error).__name__ == "OutOfResourcesError", repr(error)
    return error.resource  # type: ignore[attr-defined]


async def raised(call: Awaitable[Any]) -> BaseException:
    try:
        await call
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


async def run(durable: Durable, thread_id: str) -> Any:
    async with durable.run(thread_id, "graph") as opened:
        return await opened.ainvoke({})


@pytest.fixture
def full_disk() -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """A server with its data on a disk of its own: its DSN, a function that fills the disk, and one
    that frees it.
    """
    folder = Path(tempfile.mkdtemp(prefix="aiodurable-disk-"))
    folder.chmod(0o755)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300m,mode=755", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    ).returncode:
        folder.rmdir()
        pytest.skip("only root may mount a disk of 300 MB")
    filler = folder / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue

    try:
        yield start_server(folder / "data", settings=UNCLEANED), fill, filler.unlink
    finally:
        stop_server(folder / "data")
        subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


async def test_a_full_disk_is_an_error_that_says_so_and_all_goes_on_when_there_is_space(
    full_disk: Any,
) -> None:
    dsn, fill, make_room = full_disk
    async with Durable(dsn, graphs={"graph": GRAPH}, settings=FEW) as durable:
        await run(durable, "before")
        committer_of(services_of(durable).checkpoints.get_checkpointer()).retry_for_s = 1.0
        fill()
        for number in range(3):
            assert resource_of(await raised(run(durable, f"full {number}"))) == "disk"
        make_room()
        assert (await run(durable, "after"))["text"]
        assert (await durable.threads.status("after")).status == "complete"


@pytest.fixture(scope="module")
def small_of_all() -> Iterator[str]:
    """A server with few connections and a small lock table."""
    with small_server(superuser_reserved_connections="0", **UNCLEANED) as url:
        yield url


@pytest.fixture
def small(small_of_all: str) -> str:
    """The same, without what the test before had open."""
    return left_alone(small_of_all)


@pytest.fixture
async def lock_table(small: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Fills the server's lock table."""
    connection = await asyncpg.connect(small)

    async def fill() -> None:
        with pytest.raises(asyncpg.OutOfMemoryError):
            for number in range(100_000):
                await connection.execute(f"SELECT pg_advisory_lock(77, {number})")

    yield fill
    await connection.close()


async def test_a_full_lock_table_is_an_error_of_reads_too(
    small: str, lock_table: Callable[[], Awaitable[None]]
) -> None:
    async with Durable(small, graphs={"graph": GRAPH}, settings=FEW) as durable:
        await run(durable, "before")
        await lock_table()
        errors = [
            await raised(durable.threads.count()),
            await raised(durable.threads.prune(older_than=timedelta(0))),
        ]
        assert {resource_of(error) for error in errors} == {"locks"}
        assert all(isinstance(error.__cause__, psycopg.Error) for error in errors)
        assert isinstance(await raised(run(durable, "full")), LockCapacityError)


async def test_without_a_connection_left_opening_says_so(small: str) -> None:
    connections: list[asyncpg.Connection] = []
    try:
        with pytest.raises(asyncpg.TooManyConnectionsError):
            while True:
                connections.append(await asyncpg.connect(small))
        error = await raised(Durable(small, settings=FEW).__aenter__())
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))
    assert resource_of(error) == "connections"
    assert "max_connections" in str(error)


WITHOUT_DESCRIPTORS = """
import asyncio, resource, sys
from aiodurable import Durable
kept = []
async def main():
    durable = Durable(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            kept.append(open("/dev/null"))
    except OSError:
        pass
    try:
        async with durable:
            pass
    except Exception as error:
        print(type(error).__name__, getattr(error, "resource", None), error)
asyncio.run(main())
"""


def test_without_a_descriptor_left_opening_says_so(dsn: str) -> None:
    command = [sys.executable, "-c", WITHOUT_DESCRIPTORS, dsn]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert found.stdout.startswith("OutOfResourcesError descriptors "), found.stdout + found.stderr
    assert "ulimit -n" in found.stdout


def test_the_error_is_exported() -> None:
    assert issubclass(aiodurable.OutOfResourcesError, aiodurable.PostgresUnavailableError)
