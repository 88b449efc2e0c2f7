"""The command line `aiodurable`, one module per command.

A command's module imports neither LangGraph (0.8 s) nor a driver at the top, but when the command
runs, so that `--help` and shell completion stay fast. `commands` lists them; `database` and `app`
open the `Durable` that a command works on.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with one of `aiodurable.cli.exit_codes.Exit`."""
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        sys.exit(
            f"aiodurable: the command needs {' and '.join(missing)}: pip install 'aiodurable[cli]'"
        )
    from aiodurable.cli.commands import cli  # noqa: PLC0415 - needs click

    cli(prog_name="aiodurable")
