#!/usr/bin/env python3
"""Install into `.venv` what is needed, then do it. Needs Python 3.11 and uv, venv or pip: Debian's
python3-pip is enough.

    python3 dev.py demo [FILE_OR_FOLDER]   the demo
    python3 dev.py bench NAME [ARGS]       a benchmark: compare, checkpoints, locks, worker, all …
    python3 dev.py test [PYTEST_ARGS]      the tests, on two or more processes unless -n says
                                           otherwise
    python3 dev.py test --postgres BINDIR [PYTEST_ARGS]
                                           the same on the Postgres whose programs are there
    python3 dev.py langgraph-suite [PYTEST_ARGS]
                                           LangGraph's own async tests through our saver
    python3 dev.py lint                    lint, format, types, import contracts and prose: all,
                                           then the verdict
    python3 dev.py package                 build the wheel and import it in an environment of its
                                           own
    python3 dev.py screenshots [FOLDER]    pictures of the dashboard (needs chromium)
    python3 dev.py run COMMAND…            anything else with everything installed, such as
                                           `run aiodurable --help`
    python3 dev.py lowest [PYTEST_ARGS]    the tests with the oldest versions that the bounds admit
                                           (needs uv)
    python3 dev.py lock                    write constraints.txt with today's versions (needs uv)

constraints.txt has the versions that were tested; without hashes, for pip refuses those beside an
editable install.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - who runs this has read no metadata yet
    sys.exit(f"dev.py needs Python 3.11 or newer, found {sys.version.split()[0]}")

HERE = Path(__file__).resolve().parent
CONSTRAINTS = HERE / "constraints.txt"
PYPROJECT = HERE / "pyproject.toml"


def main(command: str = "", *arguments: str) -> int:
    """Do `command`; the exit code is that of what it ran."""
    commands = {
        "demo": lambda: call(
            environment("cli", "embedded"), "-m", "examples.demo", *arguments, cwd=Path.cwd()
        ),
        "bench": lambda: call(environment("bench"), "-m", "benchmarks", *arguments, cwd=Path.cwd()),
        "test": lambda: test(*arguments),
        "langgraph-suite": lambda: langgraph_suite(*arguments),
        "lint": lint,
        "package": package,
        "screenshots": lambda: call(
            environment("test", "lint"), "-m", "tests.browser.screenshots", *arguments
        ),
        "run": lambda: run(*arguments),
        "lowest": lambda: lowest(*arguments),
        "lock": lock,
    }
    if command not in commands:
        print(__doc__)
        return 0 if command in ("", "-h", "--help") else 2
    keep_bytecode()
    try:
        return commands[command]()
    except subprocess.CalledProcessError as error:
        print(f"dev.py: this failed: {' '.join(map(str, error.cmd))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def keep_bytecode() -> None:
    """The tests start hundreds of processes, and one that compiles LangGraph first takes twice as
    long; uv installs no bytecode. It is kept beside what is installed, out of the checkout.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(HERE / ".venv" / "bytecode"))


def test(*arguments: str) -> int:
    """The tests, those of `pytest.ini_options`; `--postgres` is ours, and comes first."""
    if arguments[:1] == ("--postgres",):
        if (
            len(arguments) < 2
            or not (bindir := Path(arguments[1]).resolve()).joinpath("initdb").exists()
        ):
            sys.exit("dev.py: --postgres wants the folder that has initdb and postgres")
        os.environ |= {
            "AIODURABLE_TEST_DB": "embedded",
            "AIODURABLE_TEST_PG": str(bindir),
            "AIODURABLE_PG_BINDIR": str(bindir),
        }
        arguments = arguments[2:]
    return call(environment("test"), "-m", "pytest", *in_parallel(arguments), *arguments)


def in_parallel(arguments: Iterable[str]) -> list[str]:
    """Processes for pytest: two a core, for half of a test's time is waiting; at most eight, for each
    has a Postgres of its own.
    """
    if any(re.match(r"-n|--numprocesses|--pdb|-s$", argument) for argument in arguments):
        return []
    return ["-n", str(min(8, 2 * (os.cpu_count() or 1))), "--dist", "worksteal"]


def langgraph_suite(*arguments: str) -> int:
    """Their tests, which only the source distribution has, beside what they need and ours does
    not.
    """
    python = make_environment(HERE / ".venv-langgraph")
    theirs = (
        "langgraph-checkpoint-sqlite",
        "pycryptodome",
        "pytest-mock",
        "redis",
        "syrupy",
        "pip",
    )
    install(python, "-c", CONSTRAINTS, "-e", f"{HERE}[test]", *theirs)
    cache = HERE / ".venv-langgraph" / "suite"
    return call(
        python, HERE / "tests" / "contract" / "langgraph_suite", "--cache", cache, *arguments
    )


def lint() -> int:
    """Every check is run, so that one look shows all that is wrong: together, for the types take one
    core as long as all others another.
    """
    python = environment("test", "lint")
    checks = {
        "lint": ("ruff", "check", "."),
        "format": ("ruff", "format", "--check", "."),
        "layers": ("lint-imports",),
        "prose": ("pytest", "-q", "tests/contract/test_prose.py"),
        "types of callers": (
            "mypy",
            "--strict",
            "--explicit-package-bases",
            "tests/typing/must_pass.py",
        ),
        "types": ("basedpyright",),
    }

    def output_of(check: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(tool(python, check[0])), *check[1:]],
            cwd=HERE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    failed: list[str] = []
    with ThreadPoolExecutor(len(checks)) as together:
        for name, checked in zip(checks, together.map(output_of, checks.values()), strict=True):
            print(checked.stdout, end="", flush=True)
            if checked.returncode:
                failed.append(name)
    print(
        f"failed: {', '.join(failed)}"
        if failed
        else "lint, format, types, layers and prose: all good"
    )
    return 1 if failed else 0


def package() -> int:
    """The wheel, built from the tree and imported where nothing else is installed."""
    python = environment("test", "lint")
    with tempfile.TemporaryDirectory() as folder:
        check_call(python, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, HERE)
        (wheel,) = Path(folder).glob("*.whl")
        clean = make_environment(Path(folder) / "venv")
        install(clean, "-c", CONSTRAINTS, wheel)
        check = "import aiodurable, pathlib; assert (pathlib.Path(aiodurable.__file__).parent / 'py.typed').exists()"
        check_call(
            clean, "-I", "-W", "error", "-c", f"{check}; print(aiodurable.__file__)", cwd=folder
        )
        print(f"{wheel.name} builds, installs and imports")
    return 0


def run(program: str, *arguments: str) -> int:
    """A program of the environment."""
    return call(tool(environment("test", "lint"), program), *arguments)


def lowest(*arguments: str) -> int:
    """The other end of the bounds, in an environment beside `.venv`."""
    uv = require_uv()
    python = make_environment(HERE / ".venv-lowest")
    check_call(
        uv,
        "pip",
        "install",
        "-q",
        "--python",
        python,
        "--resolution",
        "lowest-direct",
        "-e",
        ".[test]",
    )
    return call(python, "-m", "pytest", *in_parallel(arguments), *arguments)


def lock() -> int:
    """Every version for every platform, and no word of where it came from."""
    resolve = (
        require_uv(),
        "pip",
        "compile",
        "-q",
        "--universal",
        "--python-version",
        "3.11",
        "--upgrade",
    )
    plain = ("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links")
    return call(*resolve, *plain, "--all-extras", PYPROJECT, "-o", CONSTRAINTS)


def environment(*extras: str) -> Path:
    """The Python of `.venv`, with the project and `extras` installed: again when pyproject or
    constraints changed.
    """
    folder = HERE / ".venv"
    wanted = hashlib.sha256(
        PYPROJECT.read_bytes() + CONSTRAINTS.read_bytes() + sys.version.encode()
    ).hexdigest()
    stamps = [folder / f".installed-{extra}" for extra in extras]
    if all(stamp.exists() and stamp.read_text() == wanted for stamp in stamps):
        return interpreter(folder)
    if interpreter(folder).exists() and installer_of(interpreter(folder)) is None:
        print(
            f"dev.py: neither uv nor pip is here: going on with what is installed in {folder}",
            file=sys.stderr,
        )
    else:
        print(f"dev.py: installing {', '.join(extras)} into {folder}", file=sys.stderr)
        python = make_environment(folder)
        install(python, "-c", CONSTRAINTS, "-e", f"{HERE}[{','.join(extras)}]")
        for stamp in stamps:
            stamp.write_text(wanted)
    return interpreter(folder)


def make_environment(folder: Path) -> Path:
    """A virtual environment in `folder`, by whatever this machine has; one of this Python that is
    there is kept.
    """
    if not interpreter(folder).exists() or not of_this_python(folder):
        shutil.rmtree(folder, ignore_errors=True)
        if uv := shutil.which("uv"):
            check_call(uv, "venv", "-q", "--python", sys.executable, folder)
        elif subprocess.run(
            [sys.executable, "-m", "venv", folder], capture_output=True, check=False
        ).returncode:
            # Debian without python3-venv: no ensurepip. The system's own pip can install into it.
            shutil.rmtree(folder, ignore_errors=True)
            check_call(sys.executable, "-m", "venv", "--without-pip", folder)
    return interpreter(folder)


def of_this_python(folder: Path) -> bool:
    """Whether `python3.13 dev.py test` would run the tests on Python 3.13 there."""
    found = re.search(
        r"^version(?:_info)? *= *(\d+\.\d+)", (folder / "pyvenv.cfg").read_text(), re.MULTILINE
    )
    return found is not None and found[1] == f"{sys.version_info.major}.{sys.version_info.minor}"


def install(python: Path, *arguments: str | Path) -> None:
    """`pip install` into the environment of `python`."""
    if (installer := installer_of(python)) is None:
        sys.exit(
            f"dev.py: cannot install into {python}: neither uv nor pip is here; install one of them"
        )
    check_call(*installer, *arguments)


def installer_of(python: Path) -> tuple[str | Path, ...] | None:
    """What installs into the environment of `python`: uv, its own pip, or ours; None: nothing."""
    if uv := shutil.which("uv"):
        return uv, "pip", "install", "-q", "--python", python
    for pip in ((python, "-m", "pip"), (sys.executable, "-m", "pip", "--python", python)):
        tried = subprocess.run([*pip[:3], "--version"], capture_output=True, check=False)
        if tried.returncode == 0:
            return *pip, "install", "-q", "--disable-pip-version-check"
    return None


def interpreter(folder: Path) -> Path:
    """The Python of the environment in `folder`."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def tool(python: Path, name: str) -> Path:
    """A program that was installed beside `python`."""
    return python.with_name(f"{name}.exe" if os.name == "nt" else name)


def require_uv() -> str:
    """uv's path: only it can resolve for every platform and for the lowest versions."""
    return shutil.which("uv") or sys.exit(
        "dev.py: this needs uv, and it is not on the PATH: pip install uv"
    )


def call(*command: str | Path, cwd: Path = HERE) -> int:
    """Run it, by default in the project's folder, and return its exit code."""
    sys.stdout.flush()
    return subprocess.call([str(part) for part in command], cwd=cwd)


def check_call(*command: str | Path, cwd: Path | str = HERE) -> None:
    """Run it, and raise if it fails."""
    sys.stdout.flush()
    subprocess.run([str(part) for part in command], check=True, cwd=cwd)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
