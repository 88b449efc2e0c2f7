"""Answers an open question, which the parameter `question` names by its interrupt id."""

from __future__ import annotations

from typing import Any

from aiodurable.dashboard.actions.act import Act, Confirmation, Form, Outcome, required
from aiodurable.dashboard.actions.answer_form import answer_of, fields_of
from aiodurable.dashboard.context import Context
from aiodurable.dashboard.question import Question, questions_of
from aiodurable.errors import GraphNotRegisteredError, NothingToAnswerError
from aiodurable.models import WorkflowCheckpoint

__all__ = ["ANSWER"]


async def _open(context: Context) -> tuple[WorkflowCheckpoint, Question]:
    """The thread, and its question, if that is still open.

    Raises:
        NothingToAnswerError: it is not.
    """
    thread = await context.durable.threads.get(required(context, "id"))
    wanted = required(context, "question")
    for question in await questions_of(context, thread):
        if question.interrupt_id == wanted:
            return thread, question
    raise NothingToAnswerError(
        f"cannot answer question {wanted} of thread {thread.thread_id!r}: it is not open any more."
        " It was answered, or its run was given up",
        thread_id=thread.thread_id,
        status=thread.status,
        interrupt_ids=(wanted,),
    )


async def _confirm(context: Context) -> Confirmation:
    thread, question = await _open(context)
    return Confirmation(
        heading="Answer this question",
        button="Answer",
        back=context.url("/questions"),
        text="The answer reaches this question alone, once.",
        facts=[
            ("Thread", thread.thread_id),
            ("Graph", thread.graph or "not recorded"),
            ("Node", ", ".join(thread.pending) or "–"),
        ],
        tree=question.tree,
        note=""
        if question.seen
        else "You may not view_state of this thread: the question is hidden.",
        fields=fields_of(question.schema),
    )


async def _perform(context: Context, form: Form) -> Outcome:
    thread, question = await _open(context)
    answer = answer_of(question.schema, form)
    if thread.graph is None:
        raise GraphNotRegisteredError(
            f"cannot answer thread {thread.thread_id!r}: its graph is not recorded; answer it where"
            " its graph is: run.answer(…)",
            thread_id=thread.thread_id,
        )
    how = await context.background.begin(
        f"the answer to thread {thread.thread_id!r}",
        _answered(context, thread.thread_id, thread.graph, {question.interrupt_id: answer}),
    )
    return Outcome(f"Answered: {how}.", context.url("/thread", id=thread.thread_id))


async def _answered(context: Context, thread_id: str, graph: str, answers: Any) -> None:
    async with context.durable.run(thread_id, graph) as run:
        await run.answer(answers)


def _details(context: Context, form: Form) -> dict[str, Any]:  # noqa: ARG001
    return {"question": required(context, "question")}


ANSWER = Act("threads.answer", "answer", "Answer", _confirm, _perform, _details)
