"""What a figure was measured on: enough to judge it, nothing that identifies anybody."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BUSY_LOAD = 0.5
"""Load a core, before a benchmark begins, from which on the machine counts as busy."""
PACKAGES = ("langgraph", "langgraph-checkpoint-postgres", "psycopg", "asyncpg")


def describe(server_version: str, packages: Iterable[str] = ()) -> dict[str, Any]:
    """Processor, memory, versions; also those of `packages`, None where one is not installed."""
    cpu = "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text("utf-8").splitlines()
        cpu = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu
        )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgres": server_version.partition(" ")[0],
        **{name: _version(name) for name in (*PACKAGES, *packages)},
    }


def busy(machine: Mapping[str, Any], load: float) -> bool:
    """Whether other work would take part in the figures."""
    return load > BUSY_LOAD * machine["cores"]


def in_words(machine: dict[str, Any], *packages: str) -> str:
    """A line for a chart: `2 cores, 23 GiB, Python 3.11.7, Postgres 18.4, langgraph 1.2.22`."""
    named = [f"{name} {machine[name]}" for name in packages if machine.get(name)]
    host = f"{machine['cores']} cores, {machine['memory_gib']} GiB"
    return ", ".join(
        [host, f"Python {machine['python']}", f"Postgres {machine['postgres']}", *named]
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
