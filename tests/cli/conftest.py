"""What the tests of commands share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def no_database_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command finds only the database that a test gives it, whatever this machine has
    configured.
    """
    for name in list(os.environ):
        if name.startswith(("PG", "AIODURABLE_")) or name == "DATABASE_URL":
            monkeypatch.delenv(name)
