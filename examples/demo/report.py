"""The report, as Markdown. The same findings always give the same text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from examples.demo.analysis import Comparison, Finding, reading_ease
from examples.demo.documents import MAX_SECTIONS

__all__ = ["render"]

_WORDS_PER_MINUTE = 230
_LONG_SENTENCE = 35


def render(findings: Sequence[Finding], comparison: Comparison) -> str:
    """The report on all sections, in their order."""
    ordered = sorted(findings, key=lambda finding: finding["index"])
    names = _names(ordered)
    parts = (
        _documents(ordered, comparison, names),
        _hard(ordered, names),
        _long(ordered, names),
        _repeated(ordered, comparison, names),
        _missing(ordered, names),
        _sections(ordered, names),
    )
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _names(findings: Sequence[Finding]) -> dict[str, str]:
    """Paths as short as they can be: from the folder that all documents share."""
    paths = {finding["document"] for finding in findings}
    folder = os.path.commonpath([str(Path(path).parent) for path in paths])
    return {path: _cell(Path(path).relative_to(folder).as_posix()) for path in paths}


def _documents(
    findings: Sequence[Finding], comparison: Comparison, names: dict[str, str]
) -> Iterator[str]:
    words = sum(finding["words"] for finding in findings)
    yield "# What these documents are like"
    yield ""
    yield (
        f"{len(names)} {_s('document', len(names))}, {len(findings)} {_s('section', len(findings))}, {words:,} words of "
        f"prose: {_minutes(words)} to read at {_WORDS_PER_MINUTE} words a minute."
    )
    if len(findings) == MAX_SECTIONS:
        yield f"No more than {MAX_SECTIONS} sections are read: there may be others."
    yield ""
    yield "Ease is Flesch's: 60 is plain English, 30 is hard. It is an estimate, and means little for other languages."
    yield ""
    yield "| document | sections | words | ease | code | links | key terms |"
    yield "|---|--:|--:|--:|--:|--:|---|"
    for document in dict.fromkeys(finding["document"] for finding in findings):
        own = [finding for finding in findings if finding["document"] == document]
        lines, code = sum(f["lines"] for f in own), sum(f["code_lines"] for f in own)
        yield (
            f"| {names[document]} | {len(own)} | {sum(f['words'] for f in own):,} | {_ease(own)} "
            f"| {code / lines if lines else 0:.0%} | {sum(f['links'] for f in own)} "
            f"| {', '.join(comparison['terms'][document])} |"
        )


def _hard(findings: Sequence[Finding], names: dict[str, str]) -> Iterator[str]:
    scored = [
        (ease, f) for f in findings if f["words"] >= 40 and (ease := reading_ease([f])) is not None
    ]
    yield "## Hardest to read"
    yield ""
    if not scored:
        yield "No section is long enough to tell (40 words)."
    for ease, finding in sorted(scored, key=lambda pair: (pair[0], pair[1]["index"]))[:5]:
        length = finding["words"] / finding["sentences"]
        yield f"- {_where(finding, names)}: ease {ease:.0f}, {length:.0f} words a sentence"


def _long(findings: Sequence[Finding], names: dict[str, str]) -> Iterator[str]:
    long = sorted(
        (f for f in findings if f["longest"] >= _LONG_SENTENCE),
        key=lambda f: (-f["longest"], f["index"]),
    )
    yield f"## Sentences of {_LONG_SENTENCE} words and more"
    yield ""
    if not long:
        yield "None."
    for finding in long[:10]:
        yield f"- {finding['longest']} words in {_where(finding, names)}: “{_cell(finding['longest_text'])} …”"


def _repeated(
    findings: Sequence[Finding], comparison: Comparison, names: dict[str, str]
) -> Iterator[str]:
    by_index = {finding["index"]: finding for finding in findings}
    yield "## Said twice"
    yield ""
    if not comparison["repetitions"]:
        yield "No two sections share a third of their runs of eight words."
    for pair in comparison["repetitions"][:10]:
        one, other = by_index[pair["one"]], by_index[pair["other"]]
        yield f"- {_where(one, names)} and {_where(other, names)}: {pair['share']:.0%} of the shorter"


def _missing(findings: Sequence[Finding], names: dict[str, str]) -> Iterator[str]:
    yield "## Links to files that are not there"
    yield ""
    if not any(finding["missing"] for finding in findings):
        yield "None."
    for finding in findings:
        for target in finding["missing"]:
            yield f"- `{_cell(target)}` in {_where(finding, names)}"


def _sections(findings: Sequence[Finding], names: dict[str, str]) -> Iterator[str]:
    yield "## All sections"
    yield ""
    yield "| # | section | words | ease | longest sentence | most frequent terms |"
    yield "|--:|---|--:|--:|--:|---|"
    for finding in findings:
        top = sorted(finding["terms"].items(), key=lambda item: (-item[1], item[0]))[:4]
        yield (
            f"| {finding['index'] + 1} | {_where(finding, names)} | {finding['words']} | {_ease([finding])} "
            f"| {finding['longest']} | {', '.join(term for term, _ in top)} |"
        )


def _where(finding: Finding, names: dict[str, str]) -> str:
    return f"{names[finding['document']]} › {_cell(finding['title'])}"


def _ease(findings: Sequence[Finding]) -> str:
    ease = reading_ease(findings)
    return "–" if ease is None else f"{ease:.0f}"


def _minutes(words: int) -> str:
    return f"{max(1, round(words / _WORDS_PER_MINUTE))} min"


def _s(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _cell(text: str) -> str:
    """Text that breaks no table."""
    return text.replace("|", "\\|").replace("\n", " ")
