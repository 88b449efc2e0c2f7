"""`import aiodurable` is light, and every name it promises is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import aiodurable

NOT_THE_CORES = {
    "click",
    "rich",
    "fastapi",
    "starlette",
    "uvicorn",
    "jinja2",
    "prometheus_client",
    "opentelemetry",
    "testcontainers",
}


def loaded_by(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_importing_it_loads_nothing_heavy() -> None:
    loaded = loaded_by("import aiodurable")
    assert not loaded & (NOT_THE_CORES | {"langgraph", "langchain_core", "psycopg", "asyncpg"})


def test_using_all_of_it_loads_no_web_cli_or_metrics_library_beyond_langgraphs_own() -> None:
    everything = loaded_by("from aiodurable import *")
    assert {"langgraph", "psycopg", "asyncpg"} <= everything
    assert not (everything - loaded_by("import langgraph.graph")) & NOT_THE_CORES


def test_every_promised_name_is_there_and_typed() -> None:
    assert all(getattr(aiodurable, name).__doc__ for name in aiodurable.__all__)
    stub = ast.parse(Path(aiodurable.__file__).with_suffix(".pyi").read_text("utf-8"))
    typed = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == vars(aiodurable)["_MODULES"]
    (listed,) = (node for node in stub.body if isinstance(node, ast.Assign))
    assert set(ast.literal_eval(listed.value)) == set(typed) == set(aiodurable.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(aiodurable, "nothing_of_the_kind")
