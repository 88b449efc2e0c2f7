"""A process has one name in the tables and at the server; where they differ, it is taken for dead."""

from __future__ import annotations

import os
import socket

import pytest

from aiodurable.postgres.connect import application_name, process_name

POD = "shop-worker-production-eu-west-7d9f8b6c5d-abcde"


@pytest.mark.parametrize(
    "host", ["web-1", POD, "h" * 64, "k\u00fcche", "a@b", "a#b", "a:b", "\udcff" * 3]
)
def test_every_role_s_connection_has_the_whole_name(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    for role in ("pool", "lock", "worker", "completion"):
        shown = application_name(role)
        assert shown.isascii()
        assert len(shown) <= 63
        assert shown.split("@")[1:] == [process_name()]
    assert process_name().split("#") == [process_name()]


def test_pods_whose_names_differ_at_the_end_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = set[str]()
    for host in (POD, f"{POD[:-1]}x", POD[:-6], "k\u00fcche", "k\u00f6che"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        names.add(process_name())
    assert len(names) == 5


def test_a_short_name_is_left_as_it_is() -> None:
    if len(socket.gethostname()) < 30:
        assert process_name() == f"{socket.gethostname()}:{os.getpid()}"
