"""`assert_created` and `refute_created`: whether a run was accepted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, TypedDict, Unpack

from aiodurable.durable import Durable
from aiodurable.models import ClaimState, RunRecord, RunStatus
from aiodurable.runs.stored_value import load_value
from aiodurable.testing.services import services_of

__all__ = ["CreatedFilters", "assert_created", "refute_created"]

_SHOWN: Final = 20
"""Runs that a message lists."""
_PAGE: Final = 500


class CreatedFilters(TypedDict, total=False):
    """What a run that was accepted must have; see `RunRecord`."""

    run_id: str
    thread_id: str
    graph: str
    queue: str
    status: RunStatus | str
    claim_state: ClaimState | str | None
    priority: int
    fairness_key: str | None
    concurrency_key: str | None
    dedup_key: str | None
    max_attempts: int | None
    summary: str | None
    input: Any
    """The input it was accepted with: of dicts those keys that are given, in dicts in them too."""
    metadata: Mapping[str, Any]
    """Its metadata, compared as `input` is."""


async def assert_created(
    durable: Durable, *, show_input: bool = False, **filters: Unpack[CreatedFilters]
) -> RunRecord:
    """Assert that a run was accepted that has all of this, and return it: of several the first.

    Args:
        durable: on the database of the test.
        show_input: list inputs in the message, too.
        filters: see `CreatedFilters`: run_id, thread_id, graph, queue, status, claim_state,
            priority, fairness_key, concurrency_key, dedup_key, max_attempts, summary, input,
            metadata.

    Raises:
        AssertionError: there is none; the message lists those there are.
        TypeError: there is no such filter.
    """
    wanted: dict[str, Any] = {**filters}
    seen = list[str]()
    async for run, given in _runs(durable, wanted, show_input):
        if _fits(run, given, wanted):
            return run
        seen.append(_line(run, given, show_input))
    there = "\n".join(seen[:_SHOWN]) or "no run at all"
    more = f"\nand {len(seen) - _SHOWN} more" if len(seen) > _SHOWN else ""
    raise AssertionError(f"no run was created with {_words(wanted)}; there is:\n{there}{more}")


async def refute_created(
    durable: Durable, *, show_input: bool = False, **filters: Unpack[CreatedFilters]
) -> None:
    """Assert that no run was accepted that has all of this; without filters, none at all.

    Args:
        durable, show_input, filters: as for `assert_created`.

    Raises:
        AssertionError: there is one; the message shows it.
        TypeError: there is no such filter.
    """
    wanted: dict[str, Any] = {**filters}
    async for run, given in _runs(durable, wanted, show_input):
        if _fits(run, given, wanted):
            raise AssertionError(
                f"a run was created with {_words(wanted)}:\n{_line(run, given, show_input)}"
            )


async def _runs(
    durable: Durable, wanted: Mapping[str, Any], show_input: bool
) -> AsyncGenerator[tuple[RunRecord, Any], None]:
    """All runs, and their inputs where somebody reads them."""
    if unknown := wanted.keys() - CreatedFilters.__annotations__.keys():
        raise TypeError(f"there is no filter {', '.join(sorted(unknown))}")
    services = services_of(durable)
    after = None
    while True:
        runs, after = await durable.runs.list(after=after, limit=_PAGE)
        for run in runs:
            given = None
            if show_input or "input" in wanted:
                stored = await services.ledger.get(run.run_id)
                serde = services.checkpoints.get_checkpointer().serde
                given = None if stored is None else load_value(serde, stored.stored_input)
            yield run, given
        if after is None:
            return


def _fits(run: RunRecord, given: Any, wanted: Mapping[str, Any]) -> bool:
    return all(
        _matches(given if name == "input" else getattr(run, name), value)
        for name, value in wanted.items()
    )


def _matches(found: Any, wanted: Any) -> bool:
    """Whether `found` is `wanted`, or a dict that has all of it."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return all(key in found and _matches(found[key], wanted[key]) for key in wanted)
    return bool(found == wanted)


def _words(wanted: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in wanted.items()) or "any filter"


def _line(run: RunRecord, given: Any, show_input: bool) -> str:
    shown = f" input={given!r}" if show_input else ""
    keys = "".join(
        f" {name}={value!r}"
        for name in ("priority", "fairness_key", "concurrency_key", "dedup_key", "summary")
        if (value := getattr(run, name))
    )
    return (
        f"- {run.run_id}: thread {run.thread_id!r}, graph {run.graph!r}, queue {run.queue!r},"
        f" {run.status}{keys}{shown}"
    )
