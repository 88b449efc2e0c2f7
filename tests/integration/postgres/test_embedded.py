"""Embedded Postgres: real processes, real kills."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import psycopg
import pytest

from aiodurable.embedded import (
    EmbeddedPostgres,
    embedded_postgres,
    find_bindir,
    server_url,
    start_server,
    stop_server,
)
from aiodurable.embedded.server import STOPPING_S
from aiodurable.errors import ConfigurationError, PostgresUnavailableError
from tests.support.waiting import wait_until, wait_until_sync

OWNER = """
import sys
from aiodurable.embedded import EmbeddedPostgres
data = sys.argv[2] if len(sys.argv) > 2 else None
print(EmbeddedPostgres(data, folder=sys.argv[1], durable=False).start(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A short folder that Postgres's user may enter."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ad-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def owner(folder: Path, *data: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), *map(str, data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, process.stdout.readline().strip()


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def postmaster(folder: Path, data: str = "*/data") -> int:
    (pid_file,) = folder.glob(f"{data}/postmaster.pid")
    return int(pid_file.read_text().splitlines()[0])


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # dead; in a container without an init nobody may ever collect it


async def test_a_server_lives_inside_its_block_and_leaves_no_folder_behind(folder: Path) -> None:
    async with embedded_postgres(folder=folder) as dsn:
        assert await asyncio.to_thread(answers, dsn)
        assert len(list(folder.iterdir())) == 1
    assert not answers(dsn)
    assert list(folder.iterdir()) == []


async def test_a_start_that_is_cancelled_leaves_no_server_and_no_folder(folder: Path) -> None:
    async def enter() -> None:
        async with embedded_postgres(folder=folder):
            pytest.fail("the start was cancelled")

    task = asyncio.create_task(enter())
    await wait_until(lambda: list(folder.iterdir()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_stops_when_its_owner_is_killed(folder: Path, how: signal.Signals) -> None:
    process, url = owner(folder)
    server = postmaster(folder)
    with psycopg.connect(url):  # a client that stays does not keep the server
        process.send_signal(how)
        process.wait(30)
        wait_until_sync(lambda: is_gone(server), what="Postgres to stop after its owner")


def test_the_next_start_sweeps_what_a_killed_owner_left(folder: Path) -> None:
    process, _ = owner(folder)
    (left,) = folder.iterdir()
    server = postmaster(folder)
    process.kill()
    process.wait(30)
    wait_until_sync(lambda: is_gone(server))
    assert left.exists()
    with EmbeddedPostgres(folder=folder, durable=False):
        assert not left.exists()


def test_a_sweep_stops_a_server_whose_watchdog_was_killed_with_its_owner(folder: Path) -> None:
    process, url = owner(folder)
    server = postmaster(folder)
    watchdog = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    for shell in [watchdog, *children(watchdog)]:
        if shell != server:
            os.kill(shell, signal.SIGKILL)
    process.kill()
    process.wait(30)
    assert answers(url), "nobody is left who could have stopped it"
    with EmbeddedPostgres(folder=folder, durable=False):
        assert is_gone(server)
        assert len(list(folder.iterdir())) == 1


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_sweep_leaves_live_owners_alone(folder: Path) -> None:
    process, url = owner(folder)
    with EmbeddedPostgres(folder=folder, durable=False) as other:
        assert answers(url)
        assert answers(other)
        assert len(list(folder.iterdir())) == 2
    assert process.stdin
    process.stdin.close()
    process.wait(30)


def test_another_process_shares_a_server_by_its_dsn(folder: Path) -> None:
    with EmbeddedPostgres(folder=folder, durable=False) as url:
        command = (
            "import psycopg, sys; print(psycopg.connect(sys.argv[1]).execute('SELECT 6 *"
            " 7').fetchone()[0])"
        )
        done = subprocess.run(
            [sys.executable, "-c", command, url], capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == "42"


def test_kept_data_is_there_at_the_next_start_also_after_kill_9(folder: Path) -> None:
    with EmbeddedPostgres(folder / "kept") as url, psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    with EmbeddedPostgres(folder / "kept") as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_a_start_waits_for_the_server_of_a_killed_owner_that_is_still_stopping(
    folder: Path,
) -> None:
    process, _ = owner(folder, folder / "kept")
    former = postmaster(folder, "kept")
    os.kill(former, signal.SIGSTOP)  # a loaded machine: it stops later than the next one starts
    process.kill()
    process.wait(30)
    second = EmbeddedPostgres(folder / "kept", folder=folder)
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(second.start)
        wait({starting}, timeout=1)  # that nothing happens can only be waited for
        os.kill(former, signal.SIGCONT)
        url = starting.result()
    try:
        assert answers(url)
        assert is_gone(former)
    finally:
        second.stop()


def test_a_start_does_not_wait_for_the_server_of_an_owner_that_lives(folder: Path) -> None:
    with EmbeddedPostgres(folder / "kept", folder=folder) as url:
        began = time.monotonic()
        with pytest.raises(PostgresUnavailableError, match="share that one's URL"):
            EmbeddedPostgres(folder / "kept", folder=folder).start()
        assert time.monotonic() - began < STOPPING_S
        assert answers(url)


def test_a_detached_server_is_started_once_found_and_stopped(folder: Path) -> None:
    data = folder / "data"
    assert server_url(data) is None
    assert stop_server(data) is False
    # Started by a process that is gone afterwards.
    start = (
        "import sys; from aiodurable.embedded import start_server; print(start_server(sys.argv[1]))"
    )
    command = [sys.executable, "-c", start, str(data)]
    url = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    try:
        assert server_url(data) == url == start_server(data)
        assert answers(url)
    finally:
        assert stop_server(data) is True
    assert server_url(data) is None


def test_a_detached_server_runs_from_a_folder_whose_path_is_too_long_for_a_socket(
    folder: Path,
) -> None:
    data = folder / ("long" * 25) / "data with space"
    url = start_server(data)
    try:
        assert answers(url)
    finally:
        stop_server(data)


def test_a_folder_with_other_files_is_refused_and_left_as_it_was(folder: Path) -> None:
    (folder / "thesis.txt").write_text("mine")
    for start in (EmbeddedPostgres(folder).start, lambda: start_server(folder)):
        with pytest.raises(ConfigurationError, match="other files are in it"):
            start()
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_server_that_cannot_start_says_why_in_its_own_words(folder: Path) -> None:
    server = EmbeddedPostgres(folder=folder, durable=False, settings={"max_connections": "many"})
    with pytest.raises(PostgresUnavailableError, match="invalid value for parameter"):
        server.start()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must become somebody else")
def test_data_where_the_service_user_cannot_go_is_refused_by_name(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match=f"cannot enter {closed}"):
        EmbeddedPostgres(closed / "data").start()


def test_programs_named_by_the_environment_are_taken_or_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen = find_bindir()
    monkeypatch.setenv("AIODURABLE_PG_BINDIR", str(chosen))
    assert find_bindir() == chosen
    monkeypatch.setenv("AIODURABLE_PG_BINDIR", str(tmp_path))
    with pytest.raises(ConfigurationError, match="must hold initdb and postgres"):
        find_bindir()


def test_a_version_that_is_not_there_is_an_error_that_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AIODURABLE_PG_BINDIR", raising=False)
    with pytest.raises(ConfigurationError, match=r"aiodurable\[embedded\]"):
        find_bindir(7)
