"""The checks of a worker campaign see what they are for."""

from __future__ import annotations

from tests.support.campaign_checks import wrong_line, wrong_tokens


def line(*checkpoints: tuple[str, str | None, str]) -> list[dict[str, str | None]]:
    names = ("checkpoint_id", "parent_checkpoint_id", "run_id")
    return [dict(zip(names, checkpoint, strict=True)) for checkpoint in checkpoints]


def test_a_line_of_runs_one_after_the_other_is_right() -> None:
    assert list(wrong_line("t", line(("1", None, "a"), ("2", "1", "a"), ("3", "2", "b")))) == []


def test_two_attempts_that_wrote_at_once_are_seen_by_their_fork() -> None:
    [wrong] = wrong_line("t", line(("1", None, "a"), ("2", "1", "a"), ("3", "1", "a")))
    assert wrong == "thread t: checkpoint 3 does not follow 2"


def test_two_runs_that_took_part_in_one_line_at_once_are_seen() -> None:
    [wrong] = wrong_line("t", line(("1", None, "a"), ("2", "1", "b"), ("3", "2", "a")))
    assert wrong == "thread t: its runs interleave: ['a', 'b', 'a']"


def test_a_token_that_falls_and_one_that_two_workers_had_are_seen() -> None:
    assert list(wrong_tokens("t", ["collect 1 10", "sort 1 10", "weigh 2 11"])) == []
    [falls] = wrong_tokens("t", ["collect 2 11", "sort 1 10"])
    assert falls == "thread t: its fencing tokens fall: [2, 1]"
    [shared] = wrong_tokens("t", ["collect 1 10", "sort 1 11"])
    assert shared.startswith("thread t: two workers wrote under one token")
