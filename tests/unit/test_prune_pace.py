"""How much a prune scans and removes at once, by what it took and removed before."""

from types import SimpleNamespace

import pytest

from aiodurable.threads import prune_pace
from aiodurable.threads.prune_pace import Pace, PageRanges


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands still, whatever keeps this process from going on."""
    stands = SimpleNamespace(now=0.0)
    monkeypatch.setattr(prune_pace, "time", SimpleNamespace(monotonic=lambda: stands.now))
    return stands


def sizes(pace: Pace, rows: list[int], removed: int = 0) -> list[int]:
    """The sizes of a prune's batches, of threads that have so many rows, of `removed` bytes each."""
    found: list[int] = []
    for batch in pace.pieces(rows):
        found.append(len(batch))
        pace.begin()
        pace.adapt(rows=sum(batch), removed=removed * len(batch))
    return found


def test_a_batch_grows_to_what_a_transaction_may_remove() -> None:
    assert sizes(Pace(1000, 1.0), [35] * 150) == [10, 20, 40, 40, 40]
    assert sizes(Pace(1000, 1.0), [1] * 150, removed=22 * 1024) == [10, 20, 32, 32, 32, 24]
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
    assert sizes(pace, [14] * 200) == [10, 20, 40, 80, 50]
    assert sizes(pace, [14] * 200) == [100, 100]


def test_transactions_that_take_too_long_get_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(100, 1.0)
    assert sizes(pace, [10] * 70) == [10, 20, 40]
    with monkeypatch.context() as patch:
        patch.setattr(prune_pace, "_LONG_S", -1.0)
        assert sizes(pace, [10] * 130) == [80, 40, 10]
    assert sizes(pace, [10] * 60) == [10, 20, 30]


def test_page_ranges_are_as_long_as_a_statement_may_scan(clock: SimpleNamespace) -> None:
    scan = PageRanges(1000, fewest=16, most=256)
    found: list[tuple[int, int]] = []
    for first, end in scan:
        found.append((first, end))
        with scan.timed():
            of_a_page = 1e-6 if first < 400 else 1e-4  # from there on full of rows
            clock.now += (end - first) * of_a_page
    sizes = [end - first for first, end in found]
    assert sizes == [16, 32, 64, 128, 256, 256, 128, 64, 32, 32]
    assert [first for first, _ in found[1:]] == [end for _, end in found[:-1]], (
        "no page is left out"
    )


def test_a_slow_disk_does_not_make_page_ranges_shorter_than_is_worth_a_statement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prune_pace, "_SCAN_S", -1.0)
    scan = PageRanges(100, fewest=16, most=256)
    sizes: list[int] = []
    for first, end in scan:
        sizes.append(end - first)
        with scan.timed():
            pass
    assert sizes == [16] * 7
