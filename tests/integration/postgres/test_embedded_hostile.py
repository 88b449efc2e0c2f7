"""Embedded Postgres beside somebody else: links, pipes and folders that another user planted."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from aiodurable.embedded import EmbeddedPostgres, find_bindir, server_url, start_server, stop_server
from aiodurable.embedded.binaries import Programs, copy_for_all
from aiodurable.embedded.pidfile import log_tail, read_pid_file
from aiodurable.embedded.private import give
from aiodurable.errors import AiodurableError, ConfigurationError
from tests.support.ports import free_port

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")

PLANT = """
import os, sys
from pathlib import Path
folder, victim = map(Path, sys.argv[1:])
print("watching", flush=True)
planted = set()
while True:
    for root in folder.glob("aiodurable-pg-*"):
        try:
            log = root / "log"
            if not log.is_symlink():
                log.unlink(missing_ok=True)
                log.symlink_to(victim)
                print(root, flush=True)
        except OSError:
            pass
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder that Postgres's user may enter."""
    with tempfile.TemporaryDirectory(prefix="ad-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def secret(folder: Path) -> Path:
    """A file that only we can read."""
    path = folder / "secret"
    path.write_text("the one secret")
    path.chmod(0o600)
    return path


@as_root
def test_a_log_that_the_service_user_replaces_by_a_link_is_not_written_through(
    folder: Path, secret: Path
) -> None:
    user = Programs(None).user
    assert user
    watcher = subprocess.Popen(
        [
            shutil.which("python3", path="/usr/bin:/bin") or sys.executable,
            "-c",
            PLANT,
            str(folder),
            str(secret),
        ],
        user=user.pw_uid,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watcher.stdout
        assert watcher.stdout.readline() == "watching\n"
        with EmbeddedPostgres(folder=folder, durable=False) as url:
            assert watcher.stdout.readline().startswith(str(folder)), "the link was planted"
            with psycopg.connect(url) as connection:
                connection.execute("DO $$ BEGIN RAISE WARNING 'said in the log'; END $$")
        assert secret.read_text() == "the one secret"
    finally:
        watcher.kill()
        watcher.wait()


@as_root
def test_a_log_that_leads_elsewhere_is_in_no_error(folder: Path, secret: Path) -> None:
    data = folder / "data"
    start_server(data)
    stop_server(data)
    (data / "server.log").unlink()
    (data / "server.log").symlink_to(secret)
    with pytest.raises(AiodurableError) as raised:
        start_server(data, settings={"max_connections": "many"})
    assert "cannot start" in str(raised.value)
    assert "the one secret" not in str(raised.value)


def test_a_folder_is_given_away_only_itself(folder: Path) -> None:
    victim = folder / "victim"
    victim.mkdir()
    link = folder / "link"
    link.symlink_to(victim)
    with pytest.raises(ConfigurationError, match="cannot give"):
        give(link, 65534, 65534)
    assert victim.stat().st_uid == os.geteuid()


def test_what_only_looks_like_the_servers_files_is_not_read(folder: Path, secret: Path) -> None:
    uid = os.geteuid()
    for kind in ("link", "hard link", "pipe", "folder"):
        data = folder / kind
        data.mkdir()
        for name in ("postmaster.pid", "server.log"):
            match kind:
                case "link":
                    (data / name).symlink_to(secret)
                case "hard link":
                    (data / name).hardlink_to(secret)
                case "pipe":
                    os.mkfifo(data / name)
                case _:
                    (data / name).mkdir()
        assert read_pid_file(data, uid) is None
        assert "the one secret" not in log_tail(data / "server.log", uid)


@pytest.mark.parametrize("contents", ["thesis.txt", "data/PG_VERSION", "owner.lock.draft"])
def test_a_sweep_leaves_a_folder_that_does_not_bear_our_mark(folder: Path, contents: str) -> None:
    somebodys = folder / "aiodurable-pg-mydata"
    file = somebodys / contents
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    os.utime(somebodys, (0, 0))
    with EmbeddedPostgres(folder=folder, durable=False):
        assert file.read_text() == "mine"


def test_data_is_not_kept_where_a_sweep_goes(folder: Path) -> None:
    data = folder / "aiodurable-pg-mydata" / "data"
    for start in (lambda: start_server(data), EmbeddedPostgres(data).start):
        with pytest.raises(ConfigurationError, match="belong to temporary servers"):
            start()
    assert not data.parent.exists()


def test_the_server_has_nothing_of_our_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("AIODURABLE_DSN", "postgresql://u:secret@h/d")
    with EmbeddedPostgres(folder=folder, durable=False) as url, psycopg.connect(url) as connection:
        connection.execute("CREATE TEMP TABLE seen (line text)")
        connection.execute("COPY seen FROM PROGRAM 'env'")
        lines = connection.execute("SELECT line FROM seen").fetchall()
    names = {line.partition("=")[0] for (line,) in lines}
    own = {"PWD", "OLDPWD", "SHLVL", "_"}  # of the shells between
    postgres = {name for name in names if name.startswith(("PG", "LC_"))}
    assert names - own - postgres <= {"PATH", "HOME", "TZ"}


def test_over_tcp_the_server_wants_a_password(folder: Path) -> None:
    port = free_port()
    settings = {"listen_addresses": "127.0.0.1", "port": str(port)}
    tcp = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    with EmbeddedPostgres(folder=folder, durable=False, settings=settings) as url:
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(tcp)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER ROLE postgres PASSWORD 'chosen'")
        with psycopg.connect(tcp, password="chosen") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_socket_folder_that_others_can_enter_is_refused(folder: Path) -> None:
    data = folder / ("long" * 25)
    start_server(data)
    sockets = Path(conninfo_to_dict(server_url(data) or "")["host"])
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    stop_server(data)
    sockets.mkdir()
    try:
        shutil.chown(sockets, data.stat().st_uid, data.stat().st_gid)
        sockets.chmod(0o777)
        with pytest.raises(ConfigurationError, match="mode 0700"):
            start_server(data)
    finally:
        sockets.rmdir()


START = (
    "import sys; from aiodurable.embedded import start_server; print(flush=True);"
    " start_server(sys.argv[1])"
)


@pytest.mark.parametrize("with_children", [False, True])
@pytest.mark.parametrize("moment", ["initdb", "PG_VERSION", "pg_control", "postmaster.pid"])
def test_a_start_that_was_killed_is_followed_by_one_that_works(
    folder: Path, moment: str, with_children: bool
) -> None:
    data = folder / "data"
    process = subprocess.Popen([sys.executable, "-c", START, str(data)], start_new_session=True)
    made = folder / ".data.new"
    wanted = {
        "initdb": (made, data / "PG_VERSION"),
        "PG_VERSION": (made / "PG_VERSION", data / "PG_VERSION"),
        "pg_control": (made / "global" / "pg_control", data / "PG_VERSION"),
        "postmaster.pid": (data / "postmaster.pid",),
    }[moment]
    while not any(path.exists() for path in wanted):
        assert process.poll() is None, "it is at work"
    if with_children:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    url = start_server(data)
    try:
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        stop_server(data)
    assert not made.exists()


def test_a_server_that_is_not_to_be_seen_yet_keeps_no_start_from_returning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pid file of a server that a killed start left is written in parts."""
    url = start_server(folder / "data")
    try:
        unseen = iter([None])
        monkeypatch.setattr(
            "aiodurable.embedded.daemon.read_pid_file",
            lambda *given: next(unseen, read_pid_file(*given)),
        )
        assert start_server(folder / "data") == url
    finally:
        stop_server(folder / "data")


@pytest.fixture
def programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that are to be copied, and a temporary folder of the test's to which they are."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    bindir = folder / "package" / "pginstall" / "bin"
    for path in (
        "bin/postgres",
        "bin/initdb",
        "lib/deep/plpgsql.so",
        "lib/libpq.so.5",
        "include/left-out.h",
    ):
        file = bindir.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path * 100)
    (bindir.parent / "lib" / "libpq.so").symlink_to("libpq.so.5")
    return bindir


@as_root
@pytest.mark.parametrize("lost", ["bin/initdb", "lib/deep", "lib/libpq.so", "lib/deep/plpgsql.so"])
def test_a_copy_of_the_programs_that_lost_a_file_is_completed(programs: Path, lost: str) -> None:
    copy = copy_for_all(programs).parent
    if (copy / lost).is_dir():
        shutil.rmtree(copy / lost)
    else:
        (copy / lost).unlink()
    (copy / "bin" / "postgres").write_text("cut off")
    assert copy_for_all(programs).parent == copy
    names = {str(path.relative_to(copy)) for path in copy.rglob("*") if not path.is_dir()}
    assert names == {
        "bin/postgres",
        "bin/initdb",
        "lib/deep/plpgsql.so",
        "lib/libpq.so.5",
        "lib/libpq.so",
    }
    assert (copy / "lib" / "libpq.so").read_text() == (copy / "lib" / "libpq.so.5").read_text()
    assert (copy / "bin" / "postgres").read_text() == programs.joinpath("postgres").read_text()
    assert os.access(copy / "bin" / "postgres", os.X_OK)


@as_root
def test_a_copy_in_which_others_can_write_is_refused(programs: Path) -> None:
    copy = copy_for_all(programs).parents[2]
    copy.chmod(0o777)
    with pytest.raises(ConfigurationError, match="remove it"):
        copy_for_all(programs)


@pytest.fixture
def mounted(folder: Path) -> Iterator[Path]:
    """A small file system on which nothing can be executed."""
    place = folder / "mounted"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "noexec,size=1m,mode=1777", "tmpfs", place], check=False
    ).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@as_root
def test_a_full_temporary_folder_is_a_clear_error(
    programs: Path, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.joinpath("postgres").write_bytes(bytes(2 << 20))
    monkeypatch.setattr(tempfile, "tempdir", str(mounted))
    with pytest.raises(ConfigurationError, match="free some space"):
        copy_for_all(programs)


@as_root
def test_programs_that_may_not_be_executed_are_a_clear_error(mounted: Path) -> None:
    bindir = mounted / "bin"
    bindir.mkdir()
    for name in ("postgres", "initdb"):
        (bindir / name).write_text("#!/bin/sh\n")
        (bindir / name).chmod(0o755)
    assert find_bindir() != bindir
    with pytest.raises(ConfigurationError, match="noexec"):
        Programs(bindir).run("initdb")
