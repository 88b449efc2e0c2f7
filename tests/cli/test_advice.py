"""What went wrong at the command line is mended by a command, not by a call of Python."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from aiodurable.cli.advice import COMMANDS, with_commands
from aiodurable.cli.commands import cli
from tests.support.library_messages import unmended, unused


def test_each_call_that_a_message_advises_has_its_command() -> None:
    assert unmended(with_commands) == []


def test_each_advice_that_has_a_command_is_one_of_a_message() -> None:
    assert unused(COMMANDS) == []


@pytest.mark.parametrize("command", sorted(set(COMMANDS.values())))
def test_each_command_that_is_advised_is_one(command: str) -> None:
    for words in re.findall(r"`aiodurable ([^`]+)`", command):
        names = [word for word in words.split() if word.islower() and not word.startswith("-")]
        shown = CliRunner().invoke(cli, [*names, "--help"])
        assert shown.exit_code == 0, words
        assert [
            option for option in re.findall(r"--[a-z-]+", words) if option not in shown.stdout
        ] == []
