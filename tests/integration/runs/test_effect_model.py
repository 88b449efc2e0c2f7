"""Whatever ends an attempt, and wherever: a side effect happens once, its result is kept, and only
who does not know asks.

An attempt ends before or after its n-th statement for the effect, in the side effect, or behind it.
What it left is either `begun`, `done` or `not_done`, and the next attempt does what that says.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from langgraph.graph import START, StateGraph

from aiodurable import NOT_DONE, Durable, ThreadStatus, effect
from aiodurable.runs.effect_rows import EffectRows
from tests.support import loops
from tests.support.graphs import Story
from tests.support.waiting import within

START_WITH: dict[str, Any] = {"words": [], "told": ""}
ENDS = st.one_of(st.none(), st.tuples(st.sampled_from(["before", "after"]), st.integers(1, 4)))
DEEDS = st.sampled_from(["done", "done", "declined", "fails", "breaks"])


class Declined(Exception):
    """It did not happen, and everybody knows."""


@dataclass
class Attempt:
    """What one attempt meets.

    Attributes:
        end: it ends before or after this statement of the effect; None: it does not.
        deed: how the side effect goes: done; declined, which says that it did not happen; fails
            before it happens; breaks after it has happened.
        looks: whether `reconcile` can say what happened.
        passes: whether the node goes on after the effect.
    """

    end: tuple[str, int] | None
    deed: str
    looks: bool
    passes: bool
    statements: int = 0

    def meets(self, when: str) -> None:
        """One more statement, or one that was answered."""
        self.statements += when == "before"
        if self.end == (when, self.statements):
            raise ConnectionError("the attempt ends here")


@dataclass
class Model:
    """One effect: what its row says, and what has happened.

    Attributes:
        row: None: there is none.
        charges: how often the side effect has happened.
        answers: how many answers of a person the row counts.
        given: what a person has answered.
    """

    row: str | None = None
    charges: int = 0
    answers: int = 0
    given: list[bool] = field(default_factory=list[bool])

    def attempt(self, it: Attempt, *, person: bool) -> str:
        """How the attempt ends: complete, failed or asks."""
        try:
            self._effect(it, person=person)
        except (ConnectionError, ArithmeticError, Declined):
            return "failed"
        except InterruptedError:
            return "asks"
        return "complete" if it.passes else "failed"

    def _effect(self, it: Attempt, *, person: bool) -> None:
        it.meets("before")
        begins, before = self.row in (None, "not_done"), self.row
        self.row = "begun" if begins else self.row
        it.meets("after")
        if not begins:
            if before == "done":
                return
            if person and len(self.given) <= self.answers:
                raise InterruptedError
            if not person and not it.looks:
                raise ArithmeticError
            happened = self.given[self.answers] if person else self.charges > 0
            it.meets("before")
            self.row, self.answers = "done" if happened else "begun", self.answers + person
            it.meets("after")
            if happened:
                return
        if it.deed == "declined":
            with suppress(ConnectionError):
                it.meets("before")
                self.row = "not_done"
                it.meets("after")
            raise Declined
        self.charges += it.deed != "fails"
        if it.deed != "done":
            raise ArithmeticError
        it.meets("before")
        self.row = "done"
        it.meets("after")


class Effects(RuleBasedStateMachine):
    """Attempts of one run, and a model of its effect. A complete run is followed by another one, on
    a thread of its own.
    """

    dsn = ""
    person = False
    number = 0

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=loops.new_event_loop)
        self.durable = Durable(self.dsn, graphs={"pays": self.pays()})
        self.do(self.durable.__aenter__())
        self.fresh()

    def do(self, work: Any) -> Any:
        return self.runner.run(within(30, work))

    def fresh(self) -> None:
        Effects.number += 1
        self.thread = f"t{Effects.number}"
        self.model = Model()
        self.charges = 0
        self.asks = self.complete = False

    def pays(self) -> StateGraph[Any, Any, Any, Any]:
        async def charge() -> str:
            if self.now.deed == "declined":
                raise Declined
            if self.now.deed == "fails":
                raise ZeroDivisionError
            self.charges += 1
            if self.now.deed == "breaks":
                raise OverflowError
            return "receipt"

        async def look() -> Any:
            if not self.now.looks:
                raise ZeroDivisionError
            return "receipt" if self.charges else NOT_DONE

        async def node(state: Story) -> dict[str, Any]:
            got = await effect(
                "charge", charge, reconcile=None if self.person else look, not_done=Declined
            )
            if not self.now.passes:
                raise ZeroDivisionError
            return {"words": [got]}

        return StateGraph(Story).add_node("node", node).add_edge(START, "node")

    @rule(end=ENDS, deed=DEEDS, looks=st.sampled_from([True, True, False]), passes=st.booleans())
    def attempt(self, end: Any, deed: str, looks: bool, passes: bool) -> None:
        if self.complete:
            self.fresh()
        expected = Attempt(end, deed, looks, passes)
        self.now = Attempt(end, deed, looks, passes)
        answer: dict[str, Any] | None = None
        if self.asks:
            answer = {"done": self.charges > 0} | ({"result": "receipt"} if self.charges else {})
            self.model.given.append(self.charges > 0)

        assert self.do(self.once(answer)) == self.model.attempt(expected, person=self.person)

        assert self.charges == self.model.charges
        assert self.charges <= 1, "the side effect happened twice"
        assert self.do(self.row()) == self.model.row

    async def once(self, answer: dict[str, Any] | None) -> str:
        """One attempt; how it ends."""

        def ended(original: Any) -> Any:
            async def statement(rows: Any, *args: Any, **options: Any) -> Any:
                self.now.meets("before")
                row = await original(rows, *args, **options)
                self.now.meets("after")
                return row

            return statement

        self.asks = False
        with (
            patch.object(EffectRows, "begin", ended(EffectRows.begin)),
            patch.object(EffectRows, "finish", ended(EffectRows.finish)),
        ):
            try:
                async with self.durable.run(self.thread, "pays") as run:
                    if answer is not None:
                        # By its id: a person may say the same to two questions.
                        [question] = run.checkpoint.interrupts
                        result = await run.answer({question.id: answer})
                    elif run.status is ThreadStatus.NEW:
                        result = await run.ainvoke(START_WITH)
                    else:
                        result = await run.ainvoke()
            except (ConnectionError, ArithmeticError, Declined):
                return "failed"
        if "__interrupt__" in result:
            self.asks = True
            return "asks"
        assert result["words"] == ["receipt"]
        self.complete = True
        return "complete"

    async def row(self) -> str | None:
        effects = await self.durable.threads.effects(self.thread)
        return effects[0].state if effects else None

    def teardown(self) -> None:
        self.do(self.durable.aclose())
        self.runner.close()


@pytest.mark.parametrize("person", [False, True], ids=["reconcile", "person"])
def test_an_effect_happens_once_wherever_its_attempts_end(dsn: str, person: bool) -> None:
    Effects.dsn, Effects.person = dsn, person
    run_state_machine_as_test(
        Effects,
        settings=settings(
            max_examples=8,
            stateful_step_count=12,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
