"""All tables by one command: what a run, a lock, a status and a queue cost against their peers, how
processes add up, and what the dashboard costs beside a million threads.

    python -m benchmarks all                        the published figures, about two hours
    python -m benchmarks all --quick --into FOLDER  a try, about ten minutes

Each benchmark is a process of its own, on a server of its own. Its JSON and chart go to
`benchmarks/results`, and its tables into the marked blocks of the docs; with `--into` both
go to that folder, and nothing else changes. What one of them has measured is kept if another one
fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .tables import RESULTS, fill

DOCS = Path(__file__).parent.parent / "docs"
FIGURES = DOCS / "benchmarks" / "figures.md"


@dataclass(frozen=True, slots=True)
class Part:
    """Attributes:
    minutes: about how long it takes on two quiet cores.
    charted: whether it draws.
    arguments: of the published figures, beside its defaults.
    """

    minutes: int
    charted: bool = True
    arguments: tuple[str, ...] = ()


PARTS: Mapping[str, Part] = {
    "checkpoints": Part(30),
    "locks": Part(8),
    "status": Part(45, arguments=("--threads", "10000", "100000", "1000000")),
    "worker": Part(10),
    "processes": Part(7, charted=False),
    "aging": Part(5, charted=False),
    "dashboard": Part(35, charted=False, arguments=("--threads", "1000000")),
}


def measure(name: str, into: Path, *, quick: bool) -> bool:
    """Whether it ended well."""
    command = [sys.executable, "-m", "benchmarks", name, "--json", str(into / f"{name}.json")]
    command += ["--svg", str(into / f"{name}.svg")] if PARTS[name].charted else []
    command += ["--quick"] if quick else PARTS[name].arguments
    return subprocess.run(command, check=False).returncode == 0


def write_pages(into: Path | None) -> None:
    """Fill the blocks of the docs' pages; with `into`, those of a copy in that folder."""
    if into:
        (into / FIGURES.name).write_text(fill(FIGURES.read_text("utf-8"), into), "utf-8")
        return
    for page in DOCS.rglob("*.md"):
        before = page.read_text("utf-8")
        if (after := fill(before, RESULTS)) != before:
            page.write_text(after, "utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        "python -m benchmarks all",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    options.add_argument("--quick", action="store_true", help="fewer rounds; not to be quoted")
    options.add_argument("--into", type=Path, metavar="FOLDER", help="leave the docs as they are")
    options.add_argument(
        "--render", action="store_true", help="measure nothing: write what is saved again"
    )
    given = options.parse_args(argv)
    if given.quick and not given.into:
        options.error("quick figures are not published: give --into FOLDER")
    into: Path = given.into or RESULTS
    into.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    for name in () if given.render else given.only:
        how_long = "" if given.quick else f", about {PARTS[name].minutes} minutes"
        print(f"\n{name}{how_long}\n", flush=True)
        if not measure(name, into, quick=given.quick):
            failed.append(name)
        write_pages(given.into)
    if given.render:
        write_pages(given.into)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see above for each error")


if __name__ == "__main__":
    main()
