"""The search of the threads page."""

from __future__ import annotations

from datetime import timedelta

import pytest

from aiodurable.dashboard.thread_query import QUALIFIERS, completions, filters_of, with_qualifier
from aiodurable.errors import InvalidArgumentError
from aiodurable.models import ThreadStatus
from aiodurable.threads import ThreadFilters


@pytest.mark.parametrize(
    ("query", "filters"),
    [
        (None, {}),
        ("", {}),
        ("order-", {"prefix": "order-"}),
        ("order:7", {"prefix": "order:7"}),
        ("status:failed", {"status": [ThreadStatus.FAILED]}),
        ("status:failed,crashed", {"status": [ThreadStatus.FAILED, ThreadStatus.CRASHED]}),
        (
            'status:failed graph:order error:"timed out" older:1h a-',
            {
                "status": [ThreadStatus.FAILED],
                "graph": "order",
                "error": "timed out",
                "older_than": timedelta(hours=1),
                "prefix": "a-",
            },
        ),
        ("newer:1.5d", {"newer_than": timedelta(hours=36)}),
        ("resumable:yes orphaned:no", {"resumable": True, "orphaned": False}),
        ('reason:"recursion limit"', {"reason": "recursion limit"}),
        ('"two words"', {"prefix": "two words"}),
    ],
)
def test_a_query_becomes_filters(query: str | None, filters: ThreadFilters) -> None:
    assert filters_of(query) == filters


@pytest.mark.parametrize(
    "query",
    ["status:done", "older:soon", "older:-1h", f"older:{'9' * 30}d", "resumable:perhaps", "a b"],
)
def test_a_query_that_means_nothing_is_refused(query: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cannot search for"):
        filters_of(query)


def test_a_qualifier_is_replaced_and_removed() -> None:
    query = with_qualifier('status:failed error:"timed out"', "status", "crashed")
    assert query == 'error:"timed out" status:crashed'
    assert with_qualifier(query, "status", None) == 'error:"timed out"'
    assert with_qualifier("status:failed", "status", None) is None


def test_every_qualifier_sets_a_filter_and_is_offered() -> None:
    offered = {text.partition(":")[0] for text, _ in completions(())}
    assert offered == set(QUALIFIERS)
    assert {qualifier.filter for qualifier in QUALIFIERS.values()} <= set(
        ThreadFilters.__annotations__
    )
