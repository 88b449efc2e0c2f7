"""The docs say what is so: programs run as they are typed, links lead somewhere, and what is named
exists.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import enum
import importlib
import inspect
import json
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

import aiodurable
from aiodurable import errors, events
from aiodurable.models import RunStatus
from tests.support import commands_page
from tests.support.example_programs import REPOSITORY, Start, output, read_until

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
API = DOCS / "reference" / "api.md"
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [*(REPOSITORY / name for name in TOP), *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path, language: str = "python") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for found, block in fenced if found == language]


def first_cells(page: Path, *, under: str = "") -> list[list[str]]:
    """The code in the first cell of each table row, of a section or of the whole page."""
    text = page.read_text()
    if under:
        text = re.split(r"^#", text.partition(f"# {under}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return [
        found
        for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        if (found := re.findall(r"`(.*?)`", row))
    ]


def page_name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


# ---- programs -----------------------------------------------------------------------------------


async def test_the_first_example_of_the_readme_runs_as_it_is_typed(
    start: Start, tmp_path: Path
) -> None:
    program = tmp_path / "first_example.py"
    program.write_text(blocks(README)[0])
    assert await output(await start(program)) == "{'topic': 'tides', 'text': 'All about tides'}\n"


async def test_the_program_of_the_page_on_schedules_runs_as_it_is_typed(
    start: Start, tmp_path: Path, dsn: str
) -> None:
    program = tmp_path / "schedules.py"
    program.write_text(blocks(DOCS / "howto" / "schedules.md")[0])
    lines = (await output(await start(program, dsn=dsn))).splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["next"] * 3
    assert lines[3] == "{'region': 'north', 'report': 'the report of north'}"
    assert lines[4].endswith(" slots of the last two days")


async def test_the_program_of_the_page_on_insights_prints_what_the_page_shows(
    start: Start, tmp_path: Path, dsn: str
) -> None:
    page = DOCS / "howto" / "insights.md"
    program = tmp_path / "insights.py"
    program.write_text(blocks(page)[0])
    assert await output(await start(program, dsn=dsn)) == blocks(page, language="")[0]


async def test_the_short_path_of_the_queue_runs_as_it_is_typed(
    start: Start, tmp_path: Path, dsn: str
) -> None:
    page = DOCS / "howto" / "queue.md"
    program = tmp_path / "shop.py"
    program.write_text(blocks(page)[0])
    _, worker, typed, listed = blocks(page, "sh")[0].splitlines()
    command = tmp_path / "command.py"
    command.write_text("from aiodurable.cli import main\nmain()\n")
    await start(command, *worker.split()[1:3], dsn=dsn)
    printed = await output(await start(program, dsn=dsn))
    assert typed == f"python shop.py                                  # {printed}".rstrip()
    assert listed.startswith("aiodurable runs list ")


@pytest.mark.timeout(300)  # two interpreters, an initdb and two servers, on any machine
async def test_the_tutorials_program_survives_being_killed(start: Start, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(
        prefix="aiodurable-tutorial-"
    ) as folder:  # its path is short: a socket lies in it
        Path(folder).chmod(0o755)  # as root Postgres runs as another user
        program = tmp_path / "first_run.py"
        program.write_text(
            blocks(DOCS / "tutorial" / "first-run.md")[0].replace(
                "/tmp/first-run", f"{folder}/data"
            )
        )
        killed = await start(program)
        before = await read_until(killed, "writing")
        killed.send_signal(signal.SIGQUIT)  # Ctrl-\
        await killed.wait()
        after = await output(await start(program))
    shown = blocks(DOCS / "tutorial" / "first-run.md", language="")
    assert before == shown[0].replace("Quit\n", "")
    assert after == shown[1]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_is_shown_is_python_and_what_it_imports_from_us_exists(page: Path) -> None:
    for block in blocks(page):
        if page == API:  # signatures, with a test of their own
            continue
        tree = compile(block, page.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").partition(".")[0] == "aiodurable"
            ):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name != "decisions"], ids=page_name
)
def test_an_error_that_a_page_names_exists(page: Path) -> None:
    others = {
        "CancelledError",
        "UnknownInterruptError",
        "ValidationError",
        *dir(builtins),
    }  # of others
    found = (
        set(re.findall(r"`(\w+Error)\b", page.read_text()))
        if page.name != "CHANGELOG.md"
        else set[str]()
    )
    assert found - set(errors.__all__) - others == set()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name != "decisions"], ids=page_name
)
def test_a_module_that_a_page_names_exists(page: Path) -> None:
    named = (
        set(re.findall(r"`((?:\w+/)+\w+\.(?:py|sql))`", page.read_text()))
        if page.name != "CHANGELOG.md"
        else set[str]()
    )
    assert [
        name
        for name in named
        if not any(
            (root / name).exists() for root in (REPOSITORY, Path(aiodurable.__file__).parent)
        )
    ] == []


# ---- links --------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_and_every_example_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [README]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if page.suffix == ".md" else ():
            target = (page.parent / link).resolve()
            if target.exists() and target.is_file() and target not in seen:
                waiting.append(target)
    wanted = {
        *DOCS.rglob("*.md"),
        *(path for path in (REPOSITORY / "examples").glob("*.py") if path.name != "database.py"),
    }
    assert wanted <= seen, wanted - seen


# ---- names --------------------------------------------------------------------------------------


def literal(value: Any) -> str:
    match value:
        case enum.Enum():
            return value.name
        case str():
            return json.dumps(value)
        case tuple():
            return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
        case _:
            return repr(value)


def signature(function: Any, name: str) -> str:
    """As api.md writes it: without annotations and `self`."""
    words: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not any(
            word.startswith("*") for word in words
        ):
            words.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={literal(parameter.default)}"
        words.append(f"{stars}{parameter.name}{default}")
    return f"{name}({', '.join(words)})"


def named(name: str) -> Any:
    found: Any = aiodurable
    for package in ("dashboard", "embedded", "integrations.fastapi", "integrations.mcp", "testing"):
        prefix = package.rpartition(".")[2] + "."
        if name.startswith(prefix):
            found = importlib.import_module(f"aiodurable.{package}")
            name = name.removeprefix(prefix)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def documented() -> Iterator[tuple[str, str]]:
    yield from re.findall(r"^### (\S+)\n+```python\n(.*)\n```$", API.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "written"), list(documented()), ids=lambda value: value.partition("(")[0]
)
def test_a_signature_in_the_reference_is_that_of_the_code(name: str, written: str) -> None:
    assert written == signature(named(name), written.partition("(")[0])


def test_everything_in_the_reference_has_a_sentence() -> None:
    prose = re.sub(r"^```.*?^```$|^## [^\n]*$", "", API.read_text(), flags=re.MULTILINE | re.DOTALL)
    sections = [
        section.partition("\n") for section in re.split(r"^### ", prose, flags=re.MULTILINE)[1:]
    ]
    assert len(sections) > 50
    assert [name for name, _, text in sections if not text.strip()] == []


def test_the_reference_names_what_exists_and_all_of_it() -> None:
    headings = re.findall(r"^### (\S+)$", API.read_text(), re.MULTILINE)
    assert headings
    assert all(named(heading) is not None for heading in headings)
    told = set(re.findall(r"\w+", API.read_text() + (DOCS / "reference" / "errors.md").read_text()))
    told.add("Settings")  # has a page of its own
    assert set(aiodurable.__all__) <= told, set(aiodurable.__all__) - told


def test_the_reference_tells_every_attribute_of_a_status_and_every_event() -> None:
    told = {name for cell in first_cells(API, under="WorkflowCheckpoint") for name in cell}
    fields = {field.name for field in dataclasses.fields(aiodurable.WorkflowCheckpoint)}
    assert told == fields | {"age", "resumable"}
    told_events = {cell[0] for cell in first_cells(API, under="Events: `aiodurable.events`")}
    assert told_events == {
        kind.__name__
        for kind in map(vars(events).get, events.__all__)
        if inspect.isclass(kind)
        and issubclass(kind, events.Event)
        and kind not in (events.Event, events.ProcessEvent)
    }


def test_the_tree_of_errors_is_that_of_the_code() -> None:
    lines = blocks(DOCS / "reference" / "errors.md", language="")[0].splitlines()
    above: list[str] = []
    told: set[tuple[str, str]] = set()
    for line in lines:
        stem = re.match(r"[│├└─ ]*", line)
        assert stem is not None
        depth = len(stem[0]) // 4
        name = line[stem.end() :].split()[0]
        above[depth:] = [name]
        told.add((name, above[depth - 1] if depth else "Exception"))
    assert told == {(name, _public_base(getattr(errors, name))) for name in errors.__all__}


def _public_base(error: type[BaseException]) -> str:
    return next(base.__name__ for base in error.__mro__[1:] if not base.__name__.startswith("_"))


def test_every_setting_is_documented_with_its_variable_and_default() -> None:
    text = (DOCS / "reference" / "settings.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(.*?)` \|", text, re.MULTILINE))
    assert rows == {
        (field.name, f"AIODURABLE_{field.name.upper()}", repr(field.default))
        for field in dataclasses.fields(aiodurable.Settings)
    }


def test_every_variable_that_the_code_reads_is_documented() -> None:
    text = (DOCS / "reference" / "settings.md").read_text()
    sources = [
        *(REPOSITORY / "aiodurable").rglob("*.py"),
        REPOSITORY / "tests" / "conftest.py",
        REPOSITORY / "tests" / "support" / "postgres.py",
    ]
    read = {
        name
        for path in sources
        for name in re.findall(r"\bAIODURABLE_[A-Z_]+[A-Z]\b", path.read_text())
    }
    assert "AIODURABLE_DSN" in read
    assert {name for name in read if name not in text} == set()


def test_every_column_of_our_tables_is_documented(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_name LIKE"
            " 'aiodurable%'"
        ).fetchall()
    page = DOCS / "reference" / "schema.md"
    tables = {table for table, _ in columns}
    assert tables
    for table in tables:
        told = {name for cell in first_cells(page, under=table) for name in cell}
        assert told == {column for found, column in columns if found == table}, table


def test_every_status_is_documented() -> None:
    told = {name for cell in first_cells(DOCS / "explanation" / "status.md") for name in cell}
    assert told == set(aiodurable.ThreadStatus) | set(RunStatus)


def test_the_tables_of_the_platforms_words_are_those_of_the_code() -> None:
    text = (
        (DOCS / "explanation" / "status.md")
        .read_text()
        .partition("# In the words of LangGraph Platform\n")[2]
    )
    rows = [re.findall(r"`(\w+)`", row) for row in re.findall(r"^\| `.*$", text, re.MULTILINE)]
    assert rows[: len(aiodurable.ThreadStatus)] == [
        [str(s), s.platform] for s in aiodurable.ThreadStatus
    ]
    assert rows[len(aiodurable.ThreadStatus) :] == [[str(s), s.platform] for s in RunStatus]


def command_paths(group: click.Group, *path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from command_paths(command, *path, name)
        else:
            yield " ".join((*path, name))


def test_every_command_is_documented() -> None:
    from aiodurable.cli.commands import cli

    told: set[str] = set()
    for first, *siblings in first_cells(DOCS / "reference" / "cli.md"):
        if first.startswith("aiodurable "):
            words = re.findall(r" ([a-z-]+)(?![^ ])", first.partition(" --")[0])
            told |= {" ".join(words), *(" ".join([*words[:-1], name]) for name in siblings)}
    short = {"threads status", "threads why"}
    assert told | short == set(command_paths(cli))


def test_the_page_of_commands_is_that_of_the_code() -> None:
    assert commands_page.PAGE.read_text() == commands_page.page(), (
        "rebuild it: python3 dev.py run python -m tests.support.commands_page"
    )


async def test_the_documented_removal_removes_everything_and_leaves_langgraph_working(
    dsn: str,
) -> None:
    [statements] = [
        block for block in blocks(DOCS / "reference" / "schema.md", "sql") if "DROP" in block
    ]
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements.split(";\n"):
            connection.execute(statement.encode())
        left = connection.execute(
            "SELECT relname FROM pg_class WHERE relname LIKE 'aiodurable%'"
            " UNION ALL SELECT proname FROM pg_proc WHERE proname LIKE 'aiodurable%'"
        ).fetchall()
    assert left == []
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        assert await saver.aget_tuple({"configurable": {"thread_id": "t"}}) is None
