"""Bars as SVG: small, self-contained, readable on a light page and on a dark one.

Groups flow in columns; each has a scale of its own, for what is compared stands in one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 880
MARGIN = 24
GAP = 40
BAR = 16
ROW = 24
LABEL = 0.36
"""The share of a column that its labels take, and below the share of what stands behind a bar."""
AFTER = 0.25

STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; font-size: 12px; fill: #3b4348 }
.page { fill: #ffffff; stroke: #d9dedb }
.title { font-size: 18px; font-weight: 600; fill: #14191c }
.group { font-size: 13px; font-weight: 600; fill: #14191c }
.muted { fill: #6d777c }
.number { fill: #14191c; font-variant-numeric: tabular-nums }
.bar { fill: #b4bebb }
.ours { fill: #1f7a54 }
.strong { font-weight: 600; fill: #14191c }
@media (prefers-color-scheme: dark) {
  text, .muted { fill: #98a3a8 }
  .page { fill: #12171a; stroke: #2a3236 }
  .title, .group, .number, .strong { fill: #eef2f0 }
  .bar { fill: #46525a }
  .ours { fill: #3fb07f }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One contender's figure; `note` stands behind it, such as a ratio. `ours` is drawn in
    colour.
    """

    label: str
    value: float
    note: str = ""
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """What is compared with each other."""

    title: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        return 30 + ROW * len(self.bars)


def bar_chart(
    title: str, subtitle: Sequence[str], groups: Sequence[Group], *, columns: int = 1
) -> str:
    """An SVG document. `subtitle` is a line each: what is measured, on what machine, with which
    versions.
    """
    head = MARGIN + 20 + 18 * len(subtitle) + 22
    column = (WIDTH - 2 * MARGIN - GAP * (columns - 1)) / columns
    parts = [_text(MARGIN, MARGIN + 16, title, "title")]
    parts += [
        _text(MARGIN, MARGIN + 38 + 18 * number, line, "muted")
        for number, line in enumerate(subtitle)
    ]
    top = head
    for first in range(0, len(groups), columns):
        row = groups[first : first + columns]
        for number, group in enumerate(row):
            parts += _group(group, MARGIN + number * (column + GAP), top, column)
        top += max(group.height for group in row) + 22
    height = top - 22 + MARGIN
    box = f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>'
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0'
        f' {WIDTH} {height}" role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">'
    )
    return "\n".join([opening, f"<style>{STYLE}</style>", box, *parts, "</svg>\n"])


def _group(group: Group, x: float, y: float, width: float) -> list[str]:
    bar_x, longest = x + width * LABEL, width * (1 - LABEL - AFTER)
    largest = max((bar.value for bar in group.bars), default=0) or 1
    parts = [_text(x, y + 12, group.title, "group")]
    for number, bar in enumerate(group.bars):
        top = y + 26 + number * ROW
        length = max(1.0, longest * bar.value / largest)
        middle = top + BAR / 2 + 4
        box = f'x="{bar_x:.1f}" y="{top:.1f}" width="{length:.1f}" height="{BAR}" rx="2"'
        note = (
            f'<tspan class="{"strong" if bar.ours else "muted"}" dx="7">{escape(bar.note)}</tspan>'
        )
        place = f'x="{bar_x + length + 7:.1f}" y="{middle:.1f}"'
        parts += [
            _text(bar_x - 8, middle, bar.label, "strong" if bar.ours else "", anchor="end"),
            f'<rect class="{"ours" if bar.ours else "bar"}" {box}/>',
            f'<text class="number" {place}>{short(bar.value)}{note}</text>',
        ]
    return parts


def _text(x: float, y: float, words: str, style: str, *, anchor: str = "start") -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}"'
        f' text-anchor="{anchor}">{escape(words)}</text>'
    )


def short(value: float) -> str:
    """The digits that matter: 0.123, 1.2, 12.3, 1,234, 12.3k."""
    if value >= 10_000:
        return f"{value / 1000:,.1f}k"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.3g}"
