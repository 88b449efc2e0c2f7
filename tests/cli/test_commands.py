"""The command line: what is printed, and which exit code a script gets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from click.testing import CliRunner, Result

from aiodurable.cli.commands import cli
from aiodurable.cli.durations import Duration
from aiodurable.cli.exit_codes import Exit, exit_of
from aiodurable.cli.format import age, lines, one_line
from aiodurable.durable import Durable
from aiodurable.errors import (
    AiodurableError,
    CircuitOpenError,
    ConfigurationError,
    InvalidArgumentError,
    LeaseLostError,
    PostgresUnavailableError,
    SchemaMismatchError,
    ThreadNotFoundError,
    WorkflowAlreadyRunningError,
)
from tests.support.graphs import asking, four_nodes

pytestmark = pytest.mark.usefixtures("no_database_by_accident")


def aiodurable_(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


class Boom(Exception):
    pass


async def breaks_at_weigh(name: str) -> None:
    if name == "weigh":
        raise Boom("too heavy\x1b[31m for\nthe scale")


def in_database(dsn: str, work: Callable[[Durable], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Durable(
            dsn, graphs={"words": four_nodes(breaks_at_weigh), "asking": asking()}
        ) as durable:
            await work(durable)

    asyncio.run(main())


@pytest.fixture
def threads(dsn: str) -> str:
    """A database with a complete, a failed and an interrupted thread."""

    async def make(durable: Durable) -> None:
        async with durable.run("done", four_nodes()) as run:
            await run.ainvoke({"words": [], "told": ""})
        async with durable.run("broken", "words") as run:
            with pytest.raises(Boom):
                await run.ainvoke({"words": [], "told": ""})
        async with durable.run("waiting", "asking") as run:
            await run.ainvoke({"words": [], "told": ""})

    in_database(dsn, make)
    return dsn


def test_help_names_every_command_and_the_exit_codes() -> None:
    for group, *words in (
        ((), "check", "db", "doctor", "locks", "runs", "threads", "worker", "4 already running"),
        (("threads",), "answer", "delete", "fork", "list", "prune", "resume", "retry", "show"),
        (("db",), "migrate"),
    ):
        result = aiodurable_(*group, "--help")
        assert result.exit_code == 0
        assert [word for word in words if word not in result.stdout] == []


A_COMMAND_AND_WHAT_IT_LOADED = """
import sys
from aiodurable.cli import main
try:
    main()
finally:
    print("loaded:", *sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("group", [(), ("threads",)])
def test_help_loads_no_command_and_nothing_that_only_commands_need(group: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", A_COMMAND_AND_WHAT_IT_LOADED, *group, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Commands:" in done.stdout
    loaded = done.stderr.split()
    assert {name for name in loaded if name.startswith("aiodurable")} == {
        "aiodurable",
        "aiodurable.cli",
        "aiodurable.cli.commands",
        "aiodurable.cli.lazy_group",
    }
    dear = {"asyncio", "asyncpg", "importlib.metadata", "langchain_core", "langgraph", "psycopg"}
    assert {*dear, "rich", "ssl"} & set(loaded) == set()


@pytest.mark.parametrize(
    "command", [("locks", "list"), ("db", "grants", "--role", "x"), ("completion", "bash")]
)
def test_a_command_that_reads_no_thread_loads_no_langgraph(command: tuple[str, ...]) -> None:
    nowhere = "postgresql://x@127.0.0.1:1/x"
    done = subprocess.run(
        [sys.executable, "-c", A_COMMAND_AND_WHAT_IT_LOADED, *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "AIODURABLE_DSN": nowhere},
    )
    assert done.returncode == (Exit.OK if command[0] == "completion" else Exit.DATABASE), done
    assert {"langchain_core", "langgraph"} & set(done.stderr.split()) == set()


def every_command(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The commands by their words, groups without theirs."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name), command


def test_every_command_that_help_names_can_be_imported_and_has_help_of_its_own() -> None:
    commands = dict(every_command())
    assert len(commands) > 30
    for path, command in commands.items():
        assert command.name == path[-1], path
        assert command.help, path
        assert aiodurable_(*path, "--help").exit_code == 0, path


def test_a_short_spelling_is_the_same_command() -> None:
    commands = dict(every_command())
    short = [path for path in commands if len(path) == 1 and ("threads", *path) in commands]
    assert ("status",) in short
    assert all(commands[path] is commands["threads", *path] for path in short)


def test_a_misspelt_command_is_a_usage_error() -> None:
    result = aiodurable_("threads", "lst")
    assert result.exit_code == 2
    assert "No such command 'lst'" in result.stderr


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_extra_the_command_says_what_to_install(missing: str) -> None:
    program = f"""
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name == {missing!r} else found(name, *args)
import aiodurable.cli
aiodurable.cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (
        done.stderr == f"aiodurable: the command needs {missing}: pip install 'aiodurable[cli]'\n"
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AiodurableError("x"), 1),
        (LeaseLostError("x"), 1),
        (ConfigurationError("x"), 2),
        (InvalidArgumentError("x"), 2),
        (ThreadNotFoundError("x"), 3),
        (WorkflowAlreadyRunningError("x"), 4),
        (PostgresUnavailableError("x"), 5),
        (SchemaMismatchError("x"), 5),
        (CircuitOpenError("x"), 5),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error: AiodurableError, code: int) -> None:
    assert exit_of(error) == Exit(code)


def test_db_check_says_whether_the_tables_are_there_and_print_connects_to_no_database(
    empty_dsn: str,
) -> None:
    assert aiodurable_("db", "check", "--dsn", empty_dsn).exit_code != 0
    printed = aiodurable_("db", "migrate", "--print", "--dsn", "postgresql://nowhere.invalid/x")
    assert printed.exit_code == 0
    assert "CREATE TABLE IF NOT EXISTS aiodurable_runs (" in printed.stdout
    assert aiodurable_("db", "check", "--dsn", empty_dsn).exit_code != 0
    assert aiodurable_("db", "migrate", "--dsn", empty_dsn).exit_code == 0
    assert aiodurable_("db", "check", "--dsn", empty_dsn).stdout.endswith("schema 3\n")


def test_the_printed_sql_fills_the_schema_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIODURABLE_SCHEMA", "one")
    printed = aiodurable_("db", "migrate", "--print").stdout
    assert printed.startswith('CREATE SCHEMA IF NOT EXISTS "one";\nSET search_path TO "one";\n')


def test_migrate_makes_the_tables_once(empty_dsn: str) -> None:
    first, again = (aiodurable_("db", "migrate", "--dsn", empty_dsn) for _ in range(2))
    assert first.exit_code == again.exit_code == 0
    assert "steps applied" in first.stdout
    assert "nothing to do" in again.stdout
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("SELECT count(*) FROM aiodurable_runs").fetchone() == (0,)


def test_reading_changes_nothing_in_a_database_without_tables(empty_dsn: str) -> None:
    for command in (("status", "any"), ("threads", "list")):
        result = aiodurable_(*command, "--dsn", empty_dsn)
        assert result.exit_code == 5
        assert "aiodurable db migrate" in result.stderr
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone() == (0,)


@pytest.mark.parametrize("command", [("status", "any"), ("threads", "list"), ("db", "migrate")])
def test_the_error_of_an_unreachable_database_has_no_password(command: tuple[str, ...]) -> None:
    result = aiodurable_(*command, "--dsn", "postgresql://somebody:hunter2@127.0.0.1:1/nowhere")
    assert result.exit_code == 5
    assert "127.0.0.1:1" in result.stderr
    assert "hunter2" not in result.output


def test_with_json_an_error_is_text_on_stderr_and_stdout_stays_empty(dsn: str) -> None:
    for arguments, code in (
        (("threads", "list", "--json", "--dsn", "postgresql://127.0.0.1:1/nowhere"), Exit.DATABASE),
        (("status", "nobody", "--json", "--dsn", dsn), Exit.NOT_FOUND),
        (("threads", "list", "--json", "--status", "nonsense", "--dsn", dsn), Exit.USAGE),
    ):
        result = aiodurable_(*arguments)
        assert (result.exit_code, result.stdout) == (code, "")
        assert "Error: " in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGPIPE")
@pytest.mark.parametrize(
    "command",
    [
        ("threads", "list", "--all", "--json"),
        ("threads", "list", "--all"),
        ("doctor", "--json"),
        ("--help",),
    ],
)
def test_who_leaves_before_the_end_of_the_output_hears_of_no_error(
    threads: str, command: tuple[str, ...]
) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "aiodurable", *command],
            env={**os.environ, "AIODURABLE_DSN": threads},
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("command", [("status", "any"), ("threads", "list"), ("db", "migrate")])
def test_no_database_at_all_is_a_usage_error_that_tells_the_ways(command: tuple[str, ...]) -> None:
    result = aiodurable_(*command)
    assert result.exit_code == 2
    assert "AIODURABLE_DSN" in result.stderr


def test_status_of_an_unknown_thread_is_not_found(dsn: str) -> None:
    result = aiodurable_("status", "nobody", "--dsn", dsn)
    assert result.exit_code == 3
    assert "cannot find thread nobody" in result.stderr


def test_status_tells_what_a_person_needs(threads: str) -> None:
    result = aiodurable_("status", "broken", "--dsn", threads)
    assert result.exit_code == 0, result.output
    lines = dict(
        line.split(maxsplit=1)
        for line in result.stdout.replace("failed in", "failed_in").splitlines()
    )
    assert lines["status"] == "failed"
    assert lines["graph"] == "words"
    assert lines["failed_in"] == "weigh"
    assert "too heavy" in lines["error"]
    assert "\x1b" not in result.stdout, "a terminal obeys escape sequences"
    assert lines["run"].endswith(", 1 attempt")
    assert "which word?" in aiodurable_("status", "waiting", "--dsn", threads).stdout


def test_status_as_json_is_one_object(threads: str) -> None:
    thread = json.loads(aiodurable_("status", "waiting", "--json", "--dsn", threads).stdout)
    assert (thread["thread_id"], thread["status"], thread["attempts"]) == (
        "waiting",
        "interrupted",
        1,
    )
    assert thread["interrupts"][0]["value"] == {"question": "which word?"}
    assert thread["holder"] is None


def test_status_finds_the_database_in_the_environment(
    threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIODURABLE_DSN", threads)
    assert aiodurable_("status", "done").exit_code == 0


def test_list_shows_what_needs_attention(threads: str) -> None:
    result = aiodurable_("threads", "list", "--dsn", threads)
    assert result.exit_code == 0, result.output
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == ["thread", "status", "graph", "age", "what"]
    first_lines = [row for row in rows if not row.startswith(" ")]  # a long error goes on below
    assert [row.split()[:2] for row in first_lines] == [
        ["broken", "failed"],
        ["waiting", "interrupted"],
    ]


def listed(*arguments: str) -> list[str]:
    result = aiodurable_("threads", "list", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line)["thread_id"] for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ((), ["broken", "waiting"]),
        (("--all",), ["broken", "done", "waiting"]),
        (("--status", "complete"), ["done"]),
        (("-s", "failed", "-s", "complete"), ["broken", "done"]),
        (("--graph", "asking"), ["waiting"]),
        (("--error", "heavy"), ["broken"]),
        (("--older-than", "1h"), []),
        (("--newer-than", "1h"), ["broken", "waiting"]),
    ],
)
def test_list_filters(threads: str, filters: tuple[str, ...], found: list[str]) -> None:
    assert listed("--dsn", threads, *filters) == found


def test_list_says_when_there_is_more(threads: str) -> None:
    result = aiodurable_("threads", "list", "--dsn", threads, "--limit", "1")
    assert "broken" in result.stdout
    assert "waiting" not in result.stdout
    assert "--after broken" in result.stderr
    assert "--after" not in aiodurable_("threads", "list", "--dsn", threads, "--limit", "2").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--status", "new"),
        ("--older-than", "yesterday"),
        ("--limit", "0"),
        ("--all", "--status", "failed"),
    ],
)
def test_list_refuses_what_makes_no_sense(arguments: tuple[str, ...]) -> None:
    assert aiodurable_("threads", "list", *arguments).exit_code == 2


def test_pg_starts_tells_its_url_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32":
        pytest.skip("embedded Postgres is not for Windows")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(
                folder.stat().st_mode | 0o011
            )  # root's Postgres runs as somebody else, who must get there
    monkeypatch.setenv("AIODURABLE_PG_DATA", str(tmp_path / "data"))
    assert aiodurable_("pg", "url").exit_code == 3
    started = aiodurable_("pg", "start")
    try:
        assert started.exit_code == 0, started.output
        url = started.stdout.strip()
        assert aiodurable_("pg", "url").stdout.strip() == url
        assert aiodurable_("pg", "start").stdout.strip() == url, "one that runs is left alone"
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        stopped = aiodurable_("pg", "stop")
    assert stopped.exit_code == 0, stopped.output
    assert aiodurable_("pg", "url").exit_code == 3
    assert aiodurable_("pg", "stop").exit_code == 0, "what is stopped may be stopped again"


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("1.5m", timedelta(seconds=90)),
        ("2h", timedelta(hours=2)),
        ("7 d", timedelta(days=7)),
    ],
)
def test_ages_are_read_with_their_unit(text: str, span: timedelta) -> None:
    assert Duration().convert(text, None, None) == span


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (None, ""),
        (timedelta(seconds=-3), "0 s"),
        (timedelta(seconds=119), "119 s"),
        (timedelta(minutes=5, seconds=9), "5 min"),
        (timedelta(hours=47), "47 h"),
        (timedelta(days=41), "41 d"),
    ],
)
def test_ages_are_shown_in_their_largest_unit(span: timedelta | None, words: str) -> None:
    assert age(span) == words


def test_one_line_leaves_no_control_character() -> None:
    assert one_line("a\x1b[31mb\r\nc\x07\u202ed ") == "a [31mb  c  d"


def test_lines_keep_the_indentation_of_a_traceback() -> None:
    assert lines('File "a.py"\n    raise \x1b[31mE \n\tat') == 'File "a.py"\n    raise  [31mE\n at'


def test_any_value_of_a_question_can_be_printed_as_json() -> None:
    from langgraph.types import Interrupt

    from aiodurable.cli.thread_json import thread_json
    from aiodurable.models import ThreadStatus, WorkflowCheckpoint

    value: Any = object()
    thread = WorkflowCheckpoint(
        "t", ThreadStatus.INTERRUPTED, interrupts=(Interrupt(value=value, id="i"),)
    )
    assert json.loads(thread_json(thread))["interrupts"] == [{"id": "i", "value": repr(value)}]
