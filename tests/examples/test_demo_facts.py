"""The demo believes nothing but facts: each promise is broken by a false one, and the command says
so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from examples.demo import story
from examples.demo.__main__ import demo
from examples.demo.facts import Facts, check
from examples.demo.log import Entry

SECTIONS = ["section 1", "section 2", "section 3", "section 4"]


def entry(what: Any, step: str | None = None, at: float = 0.0, **details: Any) -> Entry:
    return Entry(what, step, details, at)


def began(*steps: str, at: float) -> list[Entry]:
    return [entry("began", step, at) for step in steps]


def as_promised() -> Facts:
    """The first finished two sections, the third was in flight when it was killed at 5.0; the
    second did the rest.
    """
    return Facts(
        pids={"first": 11, "second": 22, "third": 33},
        exit_codes={"first": -9, "second": 0},
        logs={
            "first": [
                entry("started", run_id="r"),
                *began("read", "section 1", "section 2", "section 3", at=4.0),
            ],
            "second": [
                entry("started", run_id="r"),
                *began("section 3", "section 4", "compare", "write", at=5.1),
            ],
            "third": [
                entry(
                    "refused", error="WorkflowAlreadyRunningError", holder="aiodurable:lock@host:22"
                )
            ],
        },
        section_steps=SECTIONS,
        held=[("section 1", 11), ("section 2", 11)],
        results=[("section 1", 11), ("section 2", 11), ("section 3", 22), ("section 4", 22)],
        killed_at=5.0,
        status="complete",
        attempts=2,
        report="# Report",
        undisturbed="# Report",
    )


def with_log(process: str, *entries: Entry) -> dict[str, Any]:
    return {"logs": {**as_promised().logs, process: entries}}


def and_also(process: str, *entries: Entry) -> dict[str, Any]:
    return with_log(process, *as_promised().logs[process], *entries)


def exit_code(process: str, code: int) -> dict[str, Any]:
    return {"exit_codes": {**as_promised().exit_codes, process: code}}


def test_facts_as_promised_keep_every_promise() -> None:
    facts = as_promised()
    assert [promise.text for promise in check(facts) if not promise.kept] == []
    assert facts.takeover_ms == pytest.approx(100)
    assert facts.ran_twice == ["section 3"], (
        "what was in flight runs again, and that is told, not hidden"
    )


FALSE: dict[str, tuple[str, dict[str, Any]]] = {
    "it ended by itself": ("SIGKILL in the middle", exit_code("first", 0)),
    "it was ended gently": ("SIGKILL in the middle", exit_code("first", -15)),
    "nothing was done yet": ("SIGKILL in the middle", {"held": []}),
    "all was done already": ("SIGKILL in the middle", and_also("first", *began("write", at=4.5))),
    "the second failed": ("another process finishes", exit_code("second", 1)),
    "the thread is left crashed": ("another process finishes", {"status": "crashed"}),
    "nobody went on": ("never two at a time", with_log("second", entry("started", run_id="r"))),
    "both ran at once": ("never two at a time", and_also("second", *began("section 4", at=4.9))),
    "a finished section ran again": (
        "nothing finished runs again",
        and_also("second", *began("section 2", at=6.0)),
    ),
    "the documents were read again": (
        "nothing finished runs again",
        and_also("second", *began("read", at=6.0)),
    ),
    "a result was replaced": (
        "no result of the first is lost",
        {"results": [("section 1", 11), ("section 2", 22), ("section 3", 22), ("section 4", 22)]},
    ),
    "a result is missing": ("each section counts once", {"results": as_promised().results[:3]}),
    "a result counts twice": (
        "each section counts once",
        {"results": [*as_promised().results, ("section 4", 22)]},
    ),
    "the third was let in": ("a third is refused", with_log("third", entry("started", run_id="r"))),
    "the third was refused and had it": ("a third is refused", and_also("third", entry("started"))),
    "the third was told the wrong one": (
        "a third is refused",
        with_log(
            "third",
            entry("refused", error="WorkflowAlreadyRunningError", holder="aiodurable:lock@host:11"),
        ),
    ),
    "the third was told nobody": (
        "a third is refused",
        with_log("third", entry("refused", error="WorkflowAlreadyRunningError", holder=None)),
    ),
    "the third got another error": (
        "a third is refused",
        with_log(
            "third", entry("refused", error="LockTimeoutError", holder="aiodurable:lock@host:22")
        ),
    ),
    "it was another run": (
        "one run in the ledger",
        with_log("second", entry("started", run_id="s"), *as_promised().logs["second"][1:]),
    ),
    "the ledger counts three attempts": ("one run in the ledger", {"attempts": 3}),
    "there is no report": ("the report of an undisturbed run", {"report": None}),
    "the report differs": ("the report of an undisturbed run", {"report": "# Another"}),
}


@pytest.mark.parametrize(("promise", "false"), FALSE.values(), ids=FALSE.keys())
def test_a_false_fact_breaks_its_promise(promise: str, false: dict[str, Any]) -> None:
    broken = [kept.text for kept in check(replace(as_promised(), **false)) if not kept.kept]
    assert any(text.startswith(promise) for text in broken), broken


def play_with(monkeypatch: pytest.MonkeyPatch, facts: Facts) -> None:
    async def played(*_: object) -> Facts:
        return facts

    monkeypatch.setattr(story, "play", played)


@pytest.mark.parametrize(("promise", "false"), FALSE.values(), ids=FALSE.keys())
def test_the_command_fails_and_names_the_broken_promise(
    promise: str, false: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    play_with(monkeypatch, replace(as_promised(), **false))
    result = CliRunner().invoke(demo, ["-o", str(tmp_path / "report.md")])
    assert result.exit_code == 1
    assert "BROKEN" in result.stdout
    assert promise in result.stderr


def test_the_command_succeeds_on_facts_as_promised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    play_with(monkeypatch, as_promised())
    result = CliRunner().invoke(demo, ["-o", str(tmp_path / "report.md")])
    assert result.exit_code == 0, result.output
    assert "BROKEN" not in result.stdout
    assert "From kill -9 to resumption: 100 ms" in result.stdout
