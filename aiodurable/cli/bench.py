"""`aiodurable bench checkpoints|locks|memory|soak|status`: the benchmarks, which are programs beside the library.

A wheel carries them as `aiodurable.benchmarks`; in a checkout they are `benchmarks`, next to `aiodurable`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import click

from aiodurable.cli.exit_codes import FailedCommand

__all__ = ["bench"]


@click.group(short_help="Measure checkpoints, locks, memory and statuses on this machine, or soak it.")
def bench() -> None:
    """Measure checkpoints, locks, memory and statuses on this machine, or soak it.

    Needs the extra `bench`. `aiodurable bench NAME --help` lists what each can be told.
    """


def _benchmark(name: str, what: str) -> click.Command:
    settings = {"ignore_unknown_options": True, "help_option_names": []}

    @click.command(name, context_settings=settings, short_help=what)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        _load(name).main(arguments)  # its own parser: it is a program without this command, too

    return command


def _load(name: str) -> ModuleType:
    package = "aiodurable.benchmarks" if find_spec("aiodurable.benchmarks") else "benchmarks"
    try:
        return import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        raise FailedCommand(
            f"wanted the benchmark of {name}, found no module {error.name}: pip install 'aiodurable[bench]'"
        ) from error


for _name, _what in {
    "checkpoints": "Whole durable runs against LangGraph alone, DBOS and Absurd.",
    "locks": "A lock and its unlock, against one connection per lock, pgbench and Redis.",
    "memory": "Ten thousand runs with large states at once: whether memory stays flat.",
    "soak": "Runs for minutes, some cancelled, some cut off: whether anything grows or is left.",
    "status": "Statuses, searches and pruning, and how they grow with the number of threads.",
}.items():
    bench.add_command(_benchmark(_name, _what))
