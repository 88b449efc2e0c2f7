"""Figures for a person, as a table, and for a program, as JSON with the machine they were measured
on.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .chart import short

Row = Mapping[str, Any]


def parser(description: str | None, name: str, *, svg: bool = True) -> argparse.ArgumentParser:
    """With the options that every benchmark has: `--json FILE`, `--quick`; with `svg` also `--svg
    FILE`.
    """
    made = argparse.ArgumentParser(
        f"python -m benchmarks {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--quick",
        action="store_true",
        help="about a minute: fewer rounds of less; not to be quoted",
    )
    made.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="save the figures and the machine's description here",
    )
    if svg:
        made.add_argument("--svg", type=Path, metavar="FILE", help="save a chart here")
    return made


def save(path: Path, machine: Mapping[str, Any], rows: Sequence[Row], **more: Any) -> None:
    """Write `rows` with what they were measured on; figures with four digits that matter."""
    report = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        **{name: rounded(value) for name, value in more.items()},
        "figures": rounded(list(rows)),
    }
    path.write_text(
        json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8"
    )


def load(path: Path, name: str = "figures") -> list[dict[str, Any]]:
    """What `save` wrote there under `name`; nothing where there is no such file."""
    return json.loads(path.read_text("utf-8")).get(name, []) if path.exists() else []


def refuse_others(path: Path, machine: Mapping[str, Any]) -> None:
    """End the program where the figures in the file were measured on anything else than `machine`:
    they cannot be compared.
    """
    there = json.loads(path.read_text("utf-8"))["machine"] if path.exists() else {}
    others = sorted(name for name in {*there, *machine} if there.get(name) != machine.get(name))
    if there and others:
        found = ", ".join(
            f"{name} {there.get(name)} there and {machine.get(name)} here" for name in others
        )
        raise SystemExit(
            f"wanted to keep the figures in {path}, found {found}: measure all of them, or save"
            " elsewhere"
        )


def rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.4g}") if math.isfinite(value) else None
        case Mapping():
            return {name: rounded(inner) for name, inner in value.items()}
        case list():
            return [rounded(inner) for inner in value]
        case _:
            return value


def table(rows: Sequence[Row], heads: Mapping[str, str]) -> str:
    """Markdown that reads well in a terminal too. `heads`: the columns wanted and what they are
    called.
    """
    lines = [list(heads.values()), *([_cell(row.get(name)) for name in heads] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [type(rows[0].get(name)) in (int, float) for name in heads]

    def line(cells: Sequence[str]) -> str:
        placed = (
            cell.rjust(w) if n else cell.ljust(w)
            for cell, w, n in zip(cells, widths, numeric, strict=True)
        )
        return f"| {' | '.join(placed)} |"

    rule = [("-" * (w - 1) + ":") if n else "-" * w for w, n in zip(widths, numeric, strict=True)]
    return "\n".join([line(lines[0]), f"| {' | '.join(rule)} |", *map(line, lines[1:])])


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return short(value) if isinstance(value, float) else str(value)
