"""What went wrong at the command line is mended by a command, not by a call of Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import aiodurable
from aiodurable.cli.advice import COMMANDS, with_commands
from aiodurable.cli.commands import cli

PACKAGE = Path(aiodurable.__file__).parent
NOT_FOR_COMMANDS = {"cli", "dashboard", "testing"}
CALL = re.compile(r"\b(?:runs|threads|run)\.[a-z_]+\(|\b[a-z]+_(?:workflow|checkpoint_status)\(")
NO_ADVICE = {
    "run.ainvoke(input)": "`why` says what a call of the application would do",
    "threads.retry, ": "the name of an argument",
}


def messages() -> Iterator[str]:
    """The texts of the library that a command may print; docstrings are none."""
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in NOT_FOR_COMMANDS:
            continue
        tree = ast.parse(path.read_text())
        docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docs:
                yield node.value


def test_each_call_that_a_message_advises_has_its_command() -> None:
    calls = [text for text in messages() if CALL.search(text) and text not in NO_ADVICE]
    assert len(calls) > 10
    assert [text for text in calls if CALL.search(with_commands(text))] == []


def test_each_advice_that_has_a_command_is_one_of_a_message() -> None:
    texts = "\n".join(messages())
    assert [advice for advice in COMMANDS if advice not in texts] == []


@pytest.mark.parametrize("command", sorted(set(COMMANDS.values())))
def test_each_command_that_is_advised_is_one(command: str) -> None:
    for words in re.findall(r"`aiodurable ([^`]+)`", command):
        names = [word for word in words.split() if word.islower() and not word.startswith("-")]
        shown = CliRunner().invoke(cli, [*names, "--help"])
        assert shown.exit_code == 0, words
        assert [
            option for option in re.findall(r"--[a-z-]+", words) if option not in shown.stdout
        ] == []
