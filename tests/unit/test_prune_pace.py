"""How much a prune removes at once, by what it removed before."""

import pytest

from aiodurable.threads import prune_pace
from aiodurable.threads.prune_pace import Pace


def sizes(pace: Pace, rows: list[int], removed: int = 0) -> list[int]:
    """The sizes of a prune's batches, of threads that have so many rows, of `removed` bytes each."""
    found: list[int] = []
    for batch in pace.pieces(rows):
        found.append(len(batch))
        pace.begin()
        pace.adapt(rows=sum(batch), removed=removed * len(batch))
    return found


def test_a_batch_grows_to_what_a_transaction_may_remove() -> None:
    assert sizes(Pace(1000, 1.0), [50] * 150) == [10, 20, 40, 40, 40]
    assert sizes(Pace(1000, 1.0), [1] * 150, removed=32 * 1024) == [10, 20, 32, 32, 32, 24]
    assert sizes(Pace(25, 1.0), [1] * 80) == [10, 20, 25, 25]


def test_a_long_thread_makes_the_next_batch_smaller_and_short_ones_let_it_grow_again() -> None:
    rows = [10] * 30 + [10_000] * 40 + [10] * 20
    found = sizes(Pace(100, 1.0), rows)
    assert found[:3] == [10, 20, 40]
    assert found[3:] == [1, 2, 4, 8, 5]


def test_one_thread_goes_whatever_it_holds() -> None:
    assert sizes(Pace(100, 1.0), [1_000_000] * 13) == [10, 1, 1, 1]


def test_the_remainder_of_a_step_does_not_shrink_the_next_batch() -> None:
    pace = Pace(100, 1.0)
    assert sizes(pace, [20] * 200) == [10, 20, 40, 80, 50]
    assert sizes(pace, [20] * 200) == [100, 100]


def test_transactions_that_take_too_long_get_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(100, 1.0)
    assert sizes(pace, [10] * 70) == [10, 20, 40]
    with monkeypatch.context() as patch:
        patch.setattr(prune_pace, "_LONG_S", 0.0)
        assert sizes(pace, [10] * 130) == [80, 40, 10]
    assert sizes(pace, [10] * 60) == [10, 20, 30]
