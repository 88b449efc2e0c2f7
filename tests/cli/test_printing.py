"""What a command prints of names and values that somebody else chose: nothing a terminal obeys, and
JSON that is JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels import EphemeralValue
from langgraph.graph import START, StateGraph
from langgraph.types import Interrupt, interrupt

from aiodurable.cli.format import quoted, shell_word
from aiodurable.cli.thread_json import thread_json
from aiodurable.durable import Durable
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from tests.support.terminal import written_to_a_terminal

CLEARS = "a\x1b[2J\x1b[1;1Hcomplete"
COPIES = "b\x1b]52;c;cm0gLXJmIC8=\x07"
TURNS = "c\u202egpj.exe\u2069"
BREAKS = "d\nfailed  e'\\"
HOSTILE = (CLEARS, COPIES, TURNS, BREAKS, "e\x9b31m", " f ", "é 日本 ok")
OBEYED = re.compile(r"[^\x20-\x7e\n\r\xa0-\u02ff\u2500-\u257f\u3000-\u9fff…≤]")

State = TypedDict(
    "State",
    {"x": int, "chan\x1b]0;owned\x07nel": int, "once\x1b[2J": Annotated[int, EphemeralValue]},
    total=False,
)


async def begin(state: State) -> State:
    return {"x": 2}


async def ask(state: State) -> State:
    interrupt({("a", 1): float("nan"), b"k": b"\xff", "big": 2**60, "esc": "\x1b[2J\x7f"})
    return {}


async def fails(state: State) -> State:
    raise RuntimeError("\x1b[2J\x1b]52;c;eA==\x07 failed")


def graph_of(node: Any) -> Any:
    return (
        StateGraph(State)
        .add_sequence([("fi\x1b[2Jrst", begin), ("no\x1b[2Jde", node)])
        .add_edge(START, "fi\x1b[2Jrst")
    )


async def fill(dsn: str) -> None:
    name = "gra\x1b[2Jph"
    async with Durable(dsn, graphs={name: graph_of(ask), "failing": graph_of(fails)}) as durable:
        for thread_id in HOSTILE:
            async with durable.run(thread_id, name) as run:
                await run.ainvoke({"x": 1, "chan\x1b]0;owned\x07nel": 2, "once\x1b[2J": 3})
        async with durable.run("failed", "failing") as run:
            with pytest.raises(RuntimeError):
                await run.ainvoke({"x": 1})


@pytest.fixture(scope="module")
def hostile(server: Any, template: str) -> Any:
    """A database whose thread ids, channels, nodes, questions and errors were chosen to be
    obeyed.
    """
    name = server.create(template)
    asyncio.run(fill(server.database(name)))
    yield server.database(name)
    server.drop(name)


EACH = """
import json, sys
from aiodurable.cli.commands import cli
for arguments in json.loads(sys.argv[1]):
    try:
        cli(arguments, prog_name="aiodurable")
    except SystemExit:
        pass
    sys.stdout.flush()
    print("=" * 20, file=sys.stderr, flush=True)
"""


def each(commands: Iterable[Sequence[str]]) -> list[str]:
    """A program that runs each command: importing LangGraph takes longer than any of them."""
    return [sys.executable, "-c", EACH, json.dumps([list(command) for command in commands])]


def at_a_terminal(dsn: str, commands: Iterable[Sequence[str]]) -> list[str]:
    """What each command writes to a terminal, its errors too."""
    environment = {
        **os.environ,
        "AIODURABLE_DSN": dsn,
        "TERM": "dumb",
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }
    return written_to_a_terminal(each(commands), environment).split("=" * 20)[:-1]


def in_a_pipe(dsn: str, *arguments: str, stderr: int = subprocess.STDOUT) -> str:
    environment = {**os.environ, "AIODURABLE_DSN": dsn}
    return subprocess.run(
        [sys.executable, "-m", "aiodurable", *arguments],
        stdout=-1,
        stderr=stderr,
        env=environment,
        check=False,
    ).stdout.decode()


COMMANDS = {
    "list": (
        "threads",
        "list",
    ),
    "list, a page": ("threads", "list", "--limit", "2"),
    "list as JSON": ("threads", "list", "--json"),
    "status": ("status", CLEARS),
    "status as JSON": ("status", CLEARS, "--json"),
    "show": ("threads", "show", COPIES, "--values"),
    "show as JSON": ("threads", "show", COPIES, "--values", "--json"),
    "a failed one": ("threads", "show", "failed"),
    "locks": ("locks", "list", CLEARS, TURNS),
    "cancel": ("threads", "cancel", CLEARS),
    "delete": ("threads", "delete", "--yes", "nobody" + CLEARS),
    "unknown": ("status", "nobody" + COPIES),
    "prune": ("threads", "prune", "--dry-run", "--older-than", "0s", "--graph", CLEARS),
    "retry": ("threads", "retry", CLEARS, "--app", "no_such_module:" + COPIES),
    "fork": ("threads", "fork", CLEARS, "--before", COPIES),
    "why": ("why", CLEARS),
    "why as JSON": ("why", CLEARS, "--json"),
    "why, unknown": ("threads", "why", "nobody" + COPIES),
    "verify": ("verify",),
    "verify as JSON": ("verify", "--json"),
    "signal": ("threads", "signal", "new" + CLEARS, "paid", "1"),
    "signal, refused": ("threads", "signal", CLEARS, "paid" + COPIES, "1"),
    "list, wide": ("threads", "list", "--all", "--wide"),
    "show, wide": ("threads", "show", COPIES, "--wide"),
    "locks, wide": ("locks", "list", CLEARS, "--wide"),
    "resume": ("threads", "resume", CLEARS, "--app", "no_such_module:" + COPIES),
    "answer": ("threads", "answer", CLEARS, COPIES, "--app", "no_such_module:x"),
    "resume many": ("threads", "resume-many", "--app", "no_such_module:" + COPIES, "--yes"),
    "create": ("runs", "create", "new" + CLEARS, COPIES, "--input", "1", "--run-id", "x" + COPIES),
    "create, refused": ("runs", "create", CLEARS, "graph", "--input", COPIES),
    "create many": ("runs", "create-many", "no such file" + COPIES),
    "runs": ("runs", "list"),
    "a run": ("runs", "show", "x" + COPIES),
    "an unknown run": ("runs", "show", "nothing" + COPIES),
    "retry of a run": ("runs", "retry", "nothing" + COPIES),
    "wait": ("runs", "wait", "nothing" + COPIES, "--timeout", "1s"),
    "cancel of a run": ("runs", "cancel", "x" + COPIES),
    "queues": ("queues", "list"),
    "pause": ("queues", "pause", "default"),
    "an unknown schedule": ("schedules", "show", "nothing" + COPIES),
    "schedule": ("schedules", "create", "s" + COPIES, CLEARS, "--input", "{}", "--every", "1h"),
    "schedules": ("schedules", "list"),
    "delete of a schedule": ("schedules", "delete", "s" + COPIES),
    "check": ("check", "--app", "no_such_module:" + COPIES),
    "worker": ("worker", "no_such_module:" + COPIES),
    "grants": ("db", "grants", "--role", "nobody" + COPIES),
    "a command": ("threads", CLEARS),
    "an option": ("threads", "list", "--graph", CLEARS, "--" + COPIES),
}


def test_no_command_writes_what_a_terminal_obeys(hostile: str) -> None:
    written = dict(zip(COMMANDS, at_a_terminal(hostile, COMMANDS.values()), strict=True))
    assert {name: found for name, text in written.items() if (found := OBEYED.findall(text))} == {}
    assert [name for name, text in written.items() if not text.strip() or "Traceback" in text] == []
    assert "without $'once" in written["show"]


def test_the_hint_for_the_next_page_is_a_word_that_bash_reads_back(hostile: str) -> None:
    page, word = (
        in_a_pipe(hostile, "threads", "list", "--limit", "2").rstrip("\n").split("--after ")
    )
    argument = subprocess.run(
        ["bash", "-c", f"printf %s {word}"], capture_output=True, check=True
    ).stdout.decode()
    assert argument == sorted(HOSTILE)[1]
    assert argument not in page


@pytest.mark.parametrize(
    "name", [*HOSTILE, "", "plain", "two words", "it's", "$HOME", "é\x85", "\x1b9", "a\udcff"]
)
def test_a_quoted_name_is_printable_and_bash_reads_the_same(name: str) -> None:
    for word in (shell_word(name), quoted(name) if quoted(name) != name else shell_word(name)):
        assert word.isprintable()
        found = subprocess.run(
            ["bash", "-c", f"printf %s {word}"],
            capture_output=True,
            check=True,
            env={"LC_ALL": "C"},
        )
        assert found.stdout.decode(errors="surrogateescape") == name


def test_a_printable_name_is_shown_as_it_is() -> None:
    for name in ("plain", "two words", "it's", "tenant/é/日本", ""):
        assert quoted(name) == name


def refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def lines_of(dsn: str, *arguments: str) -> list[Any]:
    return [
        json.loads(line, parse_constant=refuse)
        for line in in_a_pipe(dsn, *arguments, stderr=subprocess.DEVNULL).splitlines()
    ]


def test_a_question_that_json_cannot_carry_hides_no_other_thread(hostile: str) -> None:
    found = lines_of(hostile, "threads", "list", "--json")
    assert {thread["thread_id"] for thread in found} == {*HOSTILE, "failed"}
    [question] = found[0]["interrupts"]
    assert question["value"]["('a', 1)"] == "NaN"
    assert question["value"]["b'k'"] == "b'\\xff'"


def test_show_and_status_give_json_for_any_state(hostile: str) -> None:
    [shown] = lines_of(hostile, "threads", "show", COPIES, "--values", "--json")
    assert shown["values"]["chan\x1b]0;owned\x07nel"] == 2
    [status] = lines_of(hostile, "status", COPIES, "--json")
    assert status["thread_id"] == COPIES


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    "value",
    [Unprintable(), {Unprintable(): Unprintable()}, "\ud800", [float("inf")], 10**5000],
    ids=["unprintable", "unprintable inside", "lone surrogate", "infinity", "huge"],
)
def test_a_value_that_cannot_be_shown_leaves_the_rest_of_its_thread(value: Any) -> None:
    questions = (Interrupt(value=value, id="one"), Interrupt(value="sure?", id="two"))
    thread = WorkflowCheckpoint("t", ThreadStatus.INTERRUPTED, interrupts=questions)
    found: Mapping[str, Any] = json.loads(thread_json(thread), parse_constant=refuse)
    assert [question["id"] for question in found["interrupts"]] == ["one", "two"]
    assert found["interrupts"][1]["value"] == "sure?"


def test_what_these_tests_call_hostile_is() -> None:
    """The pattern finds what it is for."""
    assert all(OBEYED.search(name) for name in HOSTILE[:3])
