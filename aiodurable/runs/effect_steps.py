"""What `effect` does, step by step, for async and for sync nodes alike.

A generator that says what is to be done next: something on the event loop, or one of the caller's
functions. `effect` and `effect_sync` differ only in how they do it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from langgraph.errors import GraphBubbleUp
from langgraph.types import interrupt

from aiodurable.errors import (
    InvalidArgumentError,
    WorkflowExecutionError,
)
from aiodurable.runs.current_effects import Effects
from aiodurable.runs.effect_rows import EffectKey, EffectRow, EffectState
from aiodurable.thread_id import is_storable

__all__ = [
    "NOT_DONE",
    "Call",
    "Effect",
    "EffectAnswer",
    "NeverRan",
    "NotDone",
    "OnLoop",
    "Step",
    "checked",
]

T = TypeVar("T")

_log = logging.getLogger(__name__)


_LONGEST_NAME: Final = 200
_ANSWER_S: Final = 0.5
"""Seconds for which a cancelled effect waits to hear whether its row was written."""


class NotDone(Enum):
    """The type of `NOT_DONE`, which `reconcile` returns where a side effect did not happen."""

    NOT_DONE = "not done"


NOT_DONE: Final = NotDone.NOT_DONE


@dataclass(frozen=True)
class EffectAnswer:
    """A person's answer about a side effect of which nobody knows whether it happened.

    Attributes:
        done: whether it happened.
        result: what it returned, if it did.
    """

    done: bool
    result: Any = None


class NeverRan(Exception):  # noqa: N818  # a signal between a driver and the steps
    """The caller's function cannot have had its side effect. Its cause is the error to raise."""


@dataclass(frozen=True, slots=True)
class OnLoop:
    """Run this on the event loop; `to_the_end`: whatever arrives meanwhile."""

    work: Callable[[], Coroutine[Any, Any, Any]]
    to_the_end: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """Call the caller's function."""

    function: Callable[[], Any]


Step = OnLoop | Call


class Effect(Generic[T]):
    """One call of `effect`.

    Args:
        effects: those of the call.
        key: the effect.
        do: has the side effect.
        reconcile: finds out whether it happened; None: a person does.
        not_done: exceptions of `do` that mean that it did not happen.
    """

    def __init__(
        self,
        effects: Effects,
        key: EffectKey,
        do: Callable[[], Any],
        *,
        reconcile: Callable[[], Any] | None,
        not_done: tuple[type[Exception], ...],
    ) -> None:
        self._effects = effects
        self._key = key
        self._do = do
        self._reconcile = reconcile
        self._not_done = not_done
        self._thread_id = effects.fence.thread_id

    def steps(self) -> Generator[Step, Any, T]:
        """What to do, one step after the other. Returns the result of the side effect."""
        row = yield from self._begin()
        for _ in range(row.answers):
            # LangGraph counts the questions of a task: each answer of before has its place, or the
            # next question of this task would get it.
            self._ask(row)
        if row.begins:
            return (yield from self._run(row.begin_id))
        if row.state is EffectState.DONE and row.result[0] is not None:
            return (yield OnLoop(lambda: self._effects.stored(self._key, row.result)))
        _log.warning(
            "effect %r of thread %r: %s",
            self._key.name,
            self._thread_id,
            "done, its result is not stored"
            if row.state is EffectState.DONE
            else "begun, and nobody knows whether it happened",
        )
        if self._reconcile is not None:
            try:
                found: T | NotDone = yield Call(self._reconcile)
            except NeverRan as error:
                raise error.__cause__ or error from None
            if not isinstance(found, NotDone):
                yield self._store(row, found)
                return found
            answers = None
        else:
            answer = self._ask(row)
            if answer.done:
                yield self._store(row, answer.result, row.answers + 1)
                return answer.result
            answers = row.answers + 1
        if row.state is EffectState.DONE:
            raise WorkflowExecutionError(
                f"cannot run effect {self._key.name!r} of thread {self._thread_id!r}: it is"
                " recorded as done, without its result, and somebody says that it is not done;"
                " say what it returned",
                thread_id=self._thread_id,
            )
        begun = yield from self._begin(row, answers)
        if not begun.begins:
            raise WorkflowExecutionError(
                f"cannot run effect {self._key.name!r} of thread {self._thread_id!r}: something"
                " else than this run has changed its row in aiodurable_effects. It was not run",
                thread_id=self._thread_id,
            )
        return (yield from self._run(begun.begin_id))

    def _run(self, begin_id: int) -> Generator[Step, Any, T]:
        try:
            value: T = yield Call(self._do)
        except NeverRan as error:
            yield from self._forget(begin_id)
            raise error.__cause__ or error from None
        except self._not_done:
            yield from self._forget(begin_id)
            raise
        except GraphBubbleUp as error:
            # Its answer would go to the question that this effect asks when it is called again.
            raise InvalidArgumentError(
                f"cannot interrupt inside effect {self._key.name!r} of thread"
                f" {self._thread_id!r}: ask first, and call effect after that. It is not known"
                " whether this one happened",
                thread_id=self._thread_id,
                argument="do",
            ) from error
        yield OnLoop(lambda: self._effects.store(self._key, begin_id, value), to_the_end=True)
        return value

    def _forget(self, begin_id: int) -> Generator[Step, Any, None]:
        """Record that it did not happen. Its own exception goes first, whatever comes of that."""
        try:
            yield OnLoop(
                lambda: self._effects.rows.finish(
                    self._key,
                    fence=self._effects.fence,
                    begin_id=begin_id,
                    state=EffectState.NOT_DONE,
                ),
                to_the_end=True,
            )
        except Exception as error:
            _log.warning(
                "cannot record that effect %r of thread %r did not happen: %s",
                self._key.name,
                self._thread_id,
                type(error).__name__,
            )

    def _begin(
        self, unknown: EffectRow | None = None, answers: int | None = None
    ) -> Generator[Step, Any, EffectRow]:
        """Write that it begins. One that is cancelled meanwhile did not happen."""
        written = list[EffectRow]()

        async def begin() -> None:
            work = self._effects.rows.begin(
                self._key,
                fence=self._effects.fence,
                run_id=self._effects.run_id,
                replaced=None if unknown is None else unknown.begin_id,
                answers=answers,
            )
            task = asyncio.ensure_future(work)
            try:
                written.append(await asyncio.shield(task))
            except asyncio.CancelledError:
                done, _ = await asyncio.wait({task}, timeout=_ANSWER_S)  # not for a dead link
                if done and not task.cancelled() and task.exception() is None:
                    written.append(task.result())
                raise
            finally:
                task.cancel()

        try:
            yield OnLoop(begin)
        except BaseException:  # a cancellation too: it has begun, and did not happen
            if written and written[0].begins:
                yield from self._forget(written[0].begin_id)
            raise
        return written[0]

    def _store(self, row: EffectRow, value: Any, answers: int | None = None) -> OnLoop:
        return OnLoop(
            lambda: self._effects.store(self._key, row.begin_id, value, answers), to_the_end=True
        )

    def _ask(self, row: EffectRow) -> EffectAnswer:
        began = None if row.begun_at is None else row.begun_at.isoformat(timespec="seconds")
        name = self._key.name
        question = (
            f"effect {name!r} is done, but its result was not stored. What did it return?"
            ' Answer {"done": true, "result": …}'
            if row.state is EffectState.DONE
            else f"effect {name!r} began at {began} and nobody knows whether it happened. Did it?"
            ' Answer {"done": true, "result": …}, or {"done": false}: then it runs again'
        )
        return interrupt(
            {"effect": name, "task": self._key.task, "begun_at": began, "question": question},
            response_schema=EffectAnswer,
        )


def checked(
    name: str, not_done: type[Exception] | tuple[type[Exception], ...]
) -> tuple[type[Exception], ...]:
    """The exceptions as a tuple.

    Raises:
        InvalidArgumentError: the name or an exception cannot be used.
    """
    given: Any = name  # callers are not all type-checked
    if not isinstance(given, str) or not 0 < len(given) <= _LONGEST_NAME or not is_storable(given):
        raise InvalidArgumentError(
            f"cannot run an effect: its name must be a text of 1 to {_LONGEST_NAME} characters"
            f" without NUL and lone surrogates, got {type(name).__name__}",
            argument="name",
        )
    classes = not_done if isinstance(not_done, tuple) else (not_done,)
    each: Any
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, Exception)):
            raise InvalidArgumentError(
                f"cannot run effect {name!r}: not_done takes classes of exceptions, got {each!r}",
                argument="not_done",
            )
    return classes
