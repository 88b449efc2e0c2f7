"""LangGraph's own asynchronous tests through our saver: none may fail that the stock saver passes.

`python3 dev.py langgraph-suite [PYTEST_ARGS]` installs what they need and starts this. The tests
are in the source distribution of LangGraph alone, which pip fetches in the installed version into a
cache folder. They run three times: with the stock saver, with ours on threads that nobody leased,
and with ours on leased ones.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

import psycopg
from psycopg.conninfo import make_conninfo

from aiodurable.dsn import parse_dsn
from aiodurable.embedded import EmbeddedPostgres
from aiodurable.postgres.schema import migrate

HERE = Path(__file__).resolve().parent
SAVERS = ("stock", "unleased", "leased")
TEMPLATE = "suite_template"

Outcomes = dict[str, str]
"""What became of each test, by its name: passed, failed, error or skipped."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py langgraph-suite", description=__doc__)
    parser.add_argument(
        "--cache", type=Path, required=True, help="where the source distribution is kept"
    )
    options, pytest_arguments = parser.parse_known_args()
    suite = fetched(options.cache)
    results: dict[str, Outcomes] = {}
    with EmbeddedPostgres(durable=False, settings={"max_connections": "300"}) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        asyncio.run(migrate(parse_dsn(make_conninfo(url, dbname=TEMPLATE))))
        for saver in SAVERS:
            print(f"\n=== {saver}", flush=True)
            results[saver] = outcomes(suite, saver, url, pytest_arguments)
        for saver in SAVERS[1:]:
            if again := worse(results, saver):
                print(f"\n=== {saver}: those that the stock saver passes, once more", flush=True)
                results[saver] |= outcomes(suite, saver, url, again)
    return verdict(results)


def fetched(cache: Path) -> Path:
    """The unpacked source distribution of the LangGraph that is installed."""
    name = f"langgraph-{version('langgraph')}"
    if not (cache / name / "tests").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        download = (
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--disable-pip-version-check",
            "--no-deps",
        )
        # Its output names the index that it came from.
        subprocess.run(
            [*download, "--no-binary", ":all:", "-d", str(cache), name.replace("-", "==")],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with tarfile.open(cache / f"{name}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    if not (cache / name / "tests").is_dir():
        sys.exit(f"the source distribution {name}.tar.gz has no tests")
    return cache / name


def outcomes(suite: Path, saver: str, url: str, pytest_arguments: list[str]) -> Outcomes:
    report = suite.parent / f"{saver}.xml"
    report.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "AIODURABLE_SUITE_SAVER": saver,
        "AIODURABLE_SUITE_DSN": url,
        "AIODURABLE_SUITE_TEMPLATE": TEMPLATE,
        "LANGSMITH_TRACING": "false",
        "NO_DOCKER": "false",  # with it, the suite has no tests on Postgres
        "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parents[1] / "support"))),
    }
    # The suite runs on anyio's plugin; addopts of its own would print whole traces.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "suite_plugin"]
    command += ["-o", "addopts=", f"--junitxml={report}", "--tb=short", "--timeout=120"]
    command += pytest_arguments or ["-n", "2"]
    if not any((suite / part.partition("::")[0]).exists() for part in pytest_arguments):
        command.append("tests")
    subprocess.run(command, cwd=suite, env=environment, check=False)
    if not report.exists():
        sys.exit(f"the tests with the {saver} saver did not run")
    found: Outcomes = {}
    for case in ET.parse(report).iter("testcase"):  # our own pytest wrote it
        told = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        path = f"{case.get('classname')}".replace(".", "/") + ".py"
        found[f"{path}::{case.get('name')}"] = told[0] if told else "passed"
    return found


def worse(results: dict[str, Outcomes], saver: str) -> list[str]:
    """The tests that the stock saver passes and this one does not."""
    found = results[saver]
    return [name for name, what in results["stock"].items() if what == "passed" != found.get(name)]


def verdict(results: dict[str, Outcomes]) -> int:
    print("\n=== LangGraph's own asynchronous tests, by saver")
    for saver, found in results.items():
        counts = Counter(found.values())
        print(
            f"{saver:9} {len(found)} run: "
            + ", ".join(f"{count} {what}" for what, count in counts.most_common())
        )
    if not results["stock"]:
        print("no test was run")
        return 1
    failed = {saver: worse(results, saver) for saver in SAVERS}
    for saver, names in failed.items():
        for name in names:
            print(f"{saver} fails where the stock saver passes: {name}")
    return 1 if any(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
