"""The texts of the library that advise calls of Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import aiodurable

PACKAGE = Path(aiodurable.__file__).parent
FOR_NO_PERSON = {"cli", "dashboard", "testing"}
CALL = re.compile(r"\b(?:runs|threads|run)\.[a-z_]+\(|\b[a-z]+_(?:workflow|checkpoint_status)\(")
NO_ADVICE = {
    "run.ainvoke(input)": "`why` says what a call of the application would do",
    "threads.retry, ": "the name of an argument",
}


def messages() -> Iterator[str]:
    """The texts of the library that a command or a page may show; docstrings are none."""
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in FOR_NO_PERSON:
            continue
        tree = ast.parse(path.read_text())
        docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docs:
                yield node.value


def unmended(mend: Callable[[str], str]) -> list[str]:
    """The messages that still name a call once `mend` has replaced what it knows."""
    calls = [text for text in messages() if CALL.search(text) and text not in NO_ADVICE]
    assert len(calls) > 10
    return [text for text in calls if CALL.search(mend(text))]


def unused(table: Mapping[str, str]) -> list[str]:
    """The advice of a table that no message has."""
    texts = "\n".join(messages())
    return [advice for advice in table if advice not in texts]
