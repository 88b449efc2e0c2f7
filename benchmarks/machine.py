"""What a figure was measured on: enough to judge it, nothing that identifies anybody."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("langgraph", "langgraph-checkpoint-postgres", "psycopg", "asyncpg")


def describe(server_version: str) -> dict[str, Any]:
    """Processor, memory, versions."""
    cpu = "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text("utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgres": server_version,
        **{name: version(name) for name in PACKAGES},
    }
