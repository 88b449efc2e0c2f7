"""Which moments of a run are worth a kill, and how nodes are named."""

from __future__ import annotations

from pathlib import Path

from aiodurable.testing.moments import Journal, Moment, different_moments, node_path


def write(when: str, nth: int) -> Moment:
    return Moment("write", when, nth, "t")  # pyright: ignore[reportArgumentType]


def node(when: str, name: str) -> Moment:
    return Moment("node", when, 1, name)  # pyright: ignore[reportArgumentType]


def test_of_moments_between_which_nothing_happens_one_is_kept() -> None:
    run = [
        *(write("before", 1), write("after", 1), write("before", 2), write("after", 2)),
        *(node("before", "a"), node("after", "a"), write("before", 3), write("after", 3)),
    ]
    assert different_moments(run) == [
        write("before", 1),
        *(write("after", 1), write("after", 2), node("after", "a"), write("after", 3)),
    ]


def test_a_write_inside_of_a_node_has_a_moment_before_it_too() -> None:
    run = [
        *(write("before", 1), write("after", 1)),
        *(node("before", "a"), write("before", 2), write("after", 2), node("after", "a")),
    ]
    assert write("before", 2) in different_moments(run)


def test_a_node_in_a_subgraph_is_named_with_those_around_it() -> None:
    assert node_path("outer:1a-2b|inner:3c") == "outer/inner"
    assert node_path("outer:1a-2b|1|inner:3c") == "outer/inner"
    assert node_path("1:1a-2b|2:3c") == "1/2"


def test_the_journal_keeps_moments_and_knows_which_runs_had_no_key(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert journal.moments() == []
    journal.note("moment", *write("before", 1))
    for task in ("pay:1", "pay:2", "log:3"):
        journal.note("began", task)
    journal.note("key", "pay:1")
    assert journal.moments() == [write("before", 1)]
    assert journal.runs() == {"pay": 2, "log": 1}
    assert journal.without_key() == {"pay", "log"}
    journal.note("key", "pay:2")
    assert journal.without_key() == {"log"}
