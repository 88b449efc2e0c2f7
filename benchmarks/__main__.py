"""`python -m benchmarks NAME [ARGUMENTS]`, from a checkout."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = (
    "aging",
    "all",
    "backlog",
    "checkpoints",
    "compare",
    "dashboard",
    "locks",
    "memory",
    "observers",
    "processes",
    "soak",
    "status",
    "worker",
)


def main(name: str = "", *arguments: str) -> None:
    if name not in NAMES:
        sys.exit(f"usage: python -m benchmarks {'|'.join(NAMES)} [--help]")
    import_module(f".{name}", __package__).main(arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
