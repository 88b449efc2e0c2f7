"""Deliver answers to a graph: the ledger stores each one first, and keeps it until it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.types import Command

from aiodurable.checkpoints.repair import drop_stray_answer
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.services import Services
from aiodurable.runs.signals import Due
from aiodurable.waits import is_of_a_wait

__all__ = ["AnswerDelivery", "of_waits"]

_BESIDE = "beside"
"""The key of a command's update and goto, stored among the answers. No interrupt id looks like it.
"""


class AnswerDelivery:
    """The answers on their way to the graph of one attempt.

    Args:
        services: the open services.
        lease: the thread's lease, whose write session is the attempt's.
        run_id: the run.
        graph: the graph that runs it.
        stored: what an earlier attempt has stored and could not deliver.
        has_stray_answer: whether plain LangGraph left an answer beside the checkpoint.

    Attributes:
        answers: by interrupt id; the graph has not used them yet.
        beside: the update and goto that go with them; None: none.
    """

    def __init__(
        self,
        services: Services,
        lease: ThreadLease,
        run_id: str,
        graph: BoundGraph,
        stored: Mapping[str, Any] | None,
        *,
        has_stray_answer: bool,
    ) -> None:
        self._services = services
        self._lease = lease
        self._run_id = run_id
        self._graph = graph
        self._has_stray_answer = has_stray_answer
        self.answers: Mapping[str, Any] = (
            {key: value for key, value in stored.items() if key != _BESIDE} if stored else {}
        )
        self.beside: Mapping[str, Any] | None = stored.get(_BESIDE) if stored else None

    @property
    def waiting(self) -> bool:
        """Whether something is there to deliver, although this call brings nothing."""
        return bool(self.answers or self.beside or self._has_stray_answer)

    async def store(
        self,
        command: Command[Any] | None,
        answers: Mapping[str, Any],
        *,
        head: str | None,
        due: Due | None,
    ) -> Command[Any] | None:
        """Store these answers, beside those that an earlier attempt could not deliver.

        Args:
            command: the command of the answers; the graph gets its update and goto, too.
            answers: the answers by interrupt id; all of these questions are open.
            head: the thread's newest checkpoint.
            due: which of the thread's sleeps and waits are over.

        Returns:
            The graph's input; None: there is nothing to deliver.

        Raises:
            LeaseLostError, InvalidArgumentError, ConfigurationError: see `Attempt.deliver`.
        """
        thread_id, serde = self._lease.thread_id, self._graph.ledger_serde
        questions = await self._services.threads.questions(thread_id, serde=serde)
        kept = (
            dict(zip(questions.answerable, questions.stray_answer, strict=True))
            if len(questions.answerable) == len(questions.stray_answer)
            else {}
        )
        ended = {} if due is None else due.answers(questions.answerable, serde)
        new = {**({} if questions.stray_is_used else kept), **ended, **answers}
        given = {**self.answers, **new}
        self.answers = {key: answer for key, answer in given.items() if key in questions.answerable}
        self.beside = _what_comes_with(command, self.beside, head, questions.command_writes)
        await self._services.ledger.answers.store(
            self._run_id,
            fence=self._lease.fence,
            new=new,
            all={**self.answers, **({_BESIDE: self.beside} if self.beside else {})},
            closed=questions.closed_by(given),
            serde=serde,
            signals=None if due is None else due.taken(ended),
        )
        if questions.stray_answer and (questions.stray_is_used or questions.answerable):
            await drop_stray_answer(self._services.checkpoints.database, self._lease.session)
        if not (self.answers or self.beside):
            return None
        beside = self.beside or {"update": None, "goto": ()}
        return Command(update=beside["update"], goto=beside["goto"], resume=self.answers or None)

    async def over(
        self, *, withdrawn: Sequence[str] = (), kept: Mapping[str, Any] | None = None
    ) -> None:
        """Record that the graph has had the answers; see `AnswerRows.over`."""
        await self._services.ledger.answers.over(
            self._run_id,
            fence=self._lease.fence,
            withdrawn=withdrawn,
            kept=kept or {},
            serde=self._graph.ledger_serde,
        )

    async def not_used(
        self, delivered: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], Sequence[str]]:
        """Of answers that LangGraph refused together: those to sleeps and waits, which are kept
        where a person's answer was the wrong one, as the signals have left the mailbox; and the
        questions that are still open.
        """
        waits = of_waits(delivered)
        if not waits or len(waits) == len(delivered):
            return {}, ()
        questions = await self._services.threads.questions(
            self._lease.thread_id, serde=self._graph.ledger_serde
        )
        left = set(questions.answerable).intersection(delivered)
        return {key: waits[key] for key in left & waits.keys()}, [*(left - waits.keys())]


def of_waits(answers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of the answers that end a sleep or a wait."""
    return {key: answer for key, answer in answers.items() if is_of_a_wait(answer)}


def _what_comes_with(
    command: Command[Any] | None, stored: Mapping[str, Any] | None, head: str | None, commanded: int
) -> Mapping[str, Any] | None:
    """The update and goto of a command, after those that an earlier attempt stored and did not
    deliver.

    LangGraph stores them beside the checkpoint, in one transaction, before it runs anything. So
    they were delivered if there are more such writes than before, or another checkpoint.
    """
    if stored is not None and (stored["at"] != head or stored.get("after", 0) < commanded):
        stored = None
    if command is None or not (command.update is not None or command.goto):
        return stored
    update, goto = command.update, command.goto
    if stored is not None:
        update = [*_channels(stored["update"]), *_channels(update)]
        goto = [*_targets(stored["goto"]), *_targets(goto)]
    return {"update": update, "goto": goto, "at": head, "after": commanded}


def _channels(update: Any) -> Sequence[tuple[str, Any]]:
    """The channels and values that an update of a command writes, as LangGraph reads it."""
    return Command(update=update)._update_as_tuples()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _targets(goto: Any) -> Sequence[Any]:
    return goto if isinstance(goto, list | tuple) else (goto,)
