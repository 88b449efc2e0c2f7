"""Documents, and the sections they fall into."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from aiodurable.errors import ConfigurationError

__all__ = ["MAX_SECTIONS", "Section", "find", "read"]

MAX_SECTIONS = 400
"""So many sections at most go into one report, which says so."""

_SUFFIXES = {".md", ".markdown", ".rst", ".txt"}
_WORDS_PER_SECTION = 600
_ATX = re.compile(r"\s{0,3}#{1,6}\s+(.+?)\s*#*\s*$")
_FENCE = re.compile(r"\s{0,3}(```+|~~~+)")
_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.])\1{2,}\s*$")


class Section(TypedDict):
    """A stretch of a document under one heading.

    Attributes:
        index: counts through all documents, from 0.
        document: the path of its file, absolute.
        title: its heading; the file's name for what stands before the first one.
        text: what follows, without the heading.
    """

    index: int
    document: str
    title: str
    text: str


def find(given: Path | None) -> list[Path]:
    """The documents of a file or a folder, sorted by name; for None README, docs and CHANGELOG of
    this project.

    A Python file gives its docstrings.

    Raises:
        ConfigurationError: the folder holds no documents, or the file is not text.
    """
    if given is None:
        return _own()
    if given.is_dir():
        found = sorted(
            path for path in given.rglob("*") if _is_document(path.relative_to(given), path)
        )
        if not found:
            raise ConfigurationError(
                f"cannot find documents ({', '.join(sorted(_SUFFIXES))}) under {given}"
            )
        return [path.resolve() for path in found]
    with given.open("rb") as file:
        if b"\0" in file.read(8192):
            raise ConfigurationError(f"cannot read {given}: it is binary, not text")
    return [given.resolve()]


def _is_document(relative: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") or part == "node_modules" for part in relative.parts)
    return path.suffix.lower() in _SUFFIXES and not hidden and path.is_file()


def _own() -> list[Path]:
    root = Path(__file__).resolve().parents[2]
    return [root / "README.md", *sorted((root / "docs").rglob("*.md")), root / "CHANGELOG.md"]


def read(paths: Sequence[str | Path]) -> list[Section]:
    """The sections of all documents that have a word in them, `MAX_SECTIONS` at most.

    Raises:
        ConfigurationError: a Python file is none.
        OSError: a document cannot be read.
    """
    sections: list[Section] = []
    for path in map(Path, paths):
        text = path.read_text("utf-8", errors="replace").replace("\0", "")
        for title, body in _split(path, text):
            for part, stretch in enumerate(_stretches(body)):
                if re.search(r"\w", stretch) and len(sections) < MAX_SECTIONS:
                    name = title if part == 0 else f"{title} ({part + 1})"
                    sections.append(
                        Section(index=len(sections), document=str(path), title=name, text=stretch)
                    )
    return sections


def _split(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Pairs of heading and body."""
    if path.suffix == ".py":
        yield from _docstrings(path, text)
        return
    title, body, fence = path.name, list[str](), ""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if mark := _FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        heading = None if fence else _heading(lines, number)
        if heading is None:
            body.append(line)
        else:
            yield title, "\n".join(body)
            title, body = heading, []
    yield title, "\n".join(body)


def _heading(lines: Sequence[str], number: int) -> str | None:
    """The heading in this line: `# so`, or so with a line of `===` under it as reStructuredText has
    it.
    """
    if atx := _ATX.match(lines[number]):
        return atx[1]
    line, below = lines[number].strip(), lines[number + 1] if number + 1 < len(lines) else ""
    above = lines[number - 1].strip() if number else ""
    underlined = (
        line and line[0].isalnum() and _UNDERLINE.match(below) and len(below.strip()) >= len(line)
    )
    return line if underlined and (not above or _UNDERLINE.match(above)) else None


def _docstrings(path: Path, text: str) -> Iterator[tuple[str, str]]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ConfigurationError(
            f"wanted Python, for its docstrings, found in {path}: {error}"
        ) from error
    for node in ast.walk(tree):
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
            yield (
                path.name if isinstance(node, ast.Module) else f"{path.stem}.{node.name}",
                docstring,
            )


def _stretches(body: str) -> Iterator[str]:
    """`body` in pieces of some hundred words, broken between paragraphs: a book without headings is
    not one section.
    """
    piece: list[str] = []
    words = 0
    for paragraph in re.split(r"\n\s*\n", body):
        count = len(paragraph.split())
        if piece and words + count > _WORDS_PER_SECTION:
            yield "\n\n".join(piece)
            piece, words = [], 0
        piece.append(paragraph)
        words += count
    yield "\n\n".join(piece)
