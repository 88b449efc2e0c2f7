"""The prose is plain English: a short list of words that docs, docstrings and comments do
without. A test's data may have them.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.example_programs import REPOSITORY

BANNED = re.compile(
    r"\b(rooms?|doors?|floors?|told|anew|beneath|unborn|whoever|whosoever|whatsoever|lying|hears?"
    r" of|lets? go)\b",
    re.IGNORECASE,
)
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
SOURCES = [
    *sorted((REPOSITORY / "aiodurable").rglob("*.py")),
    *sorted((REPOSITORY / "aiodurable" / "postgres").rglob("*.sql")),
    *sorted((REPOSITORY / "examples").rglob("*.py")),
    *sorted((REPOSITORY / "benchmarks").glob("*.py")),
    REPOSITORY / "dev.py",
]
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page, without code and the targets of links; a block of code leaves empty
    lines.
    """
    text = re.sub(
        r"^```.*?^```$",
        lambda block: "\n" * block[0].count("\n"),
        page.read_text("utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", lambda code: "\n" * code[0].count("\n"), text)
    yield from enumerate(text.splitlines(), 1)


def comments(source: Path) -> Iterator[tuple[int, str]]:
    """The comments of a module or of a file of SQL, in which a block's name is one."""
    if source.suffix == ".sql":
        for line, text in enumerate(source.read_text("utf-8").splitlines(), 1):
            yield line, text.partition("--")[2]
        return
    with source.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], re.sub(r"`[^`]*`", "", token.string)


def strings(module: Path) -> Iterator[tuple[int, str]]:
    """The lines of all strings of several words: docstrings and messages."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        match node:
            case ast.Constant(value=str(text), lineno=first) if " " in text:
                yield from enumerate(re.sub(r"`[^`]*`", "", text).splitlines(), first)
            case _:
                pass


def docstrings(module: Path) -> Iterator[tuple[int, str]]:
    """The lines of a module's docstrings."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        match getattr(node, "body", None):
            case [ast.Expr(ast.Constant(value=str(text), lineno=first)), *_]:
                yield from enumerate(re.sub(r"`[^`]*`", "", text).splitlines(), first)
            case _:
                pass


def test_the_check_sees_a_banned_word_in_prose_and_leaves_code_alone(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(
        "It is `told`.\n```\nroom\n```\nWhoever [waits](door.md) is fine.\n"
    )
    assert [line for line, text in prose(tmp_path / "page.md") if BANNED.search(text)] == [5]
    (module := tmp_path / "module.py").write_text(
        '"""A\n\nroom, then."""\nroom = "told"  # anew\n"""Is `lying`."""\n'
    )
    assert [line for line, text in strings(module) if BANNED.search(text)] == [3]
    assert [line for line, text in comments(module) if BANNED.search(text)] == [4]
    assert [line for line, text in docstrings(module) if BANNED.search(text)] == [3]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_page_is_in_plain_english(page: Path) -> None:
    assert [
        f"{page.name}:{line}: {text}" for line, text in prose(page) if BANNED.search(text)
    ] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(REPOSITORY)))
def test_strings_and_comments_are_in_plain_english(source: Path) -> None:
    lines = [*comments(source), *(strings(source) if source.suffix == ".py" else ())]
    assert [f"{source.name}:{line}: {text}" for line, text in lines if BANNED.search(text)] == []


@pytest.mark.parametrize("test", TESTS, ids=lambda test: str(test.relative_to(REPOSITORY)))
def test_a_test_describes_itself_in_plain_english(test: Path) -> None:
    lines = [*comments(test), *docstrings(test)]
    assert [f"{test.name}:{line}: {text}" for line, text in lines if BANNED.search(text)] == []


@pytest.mark.parametrize(
    "source",
    [source for source in SOURCES if source.suffix == ".sql"],
    ids=lambda source: source.name,
)
def test_a_line_of_sql_has_at_most_100_columns(source: Path) -> None:
    lines = enumerate(source.read_text("utf-8").splitlines(), 1)
    assert [f"{source.name}:{line}: {text}" for line, text in lines if len(text) > 100] == []
