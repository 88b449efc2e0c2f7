"""Actions on one thread: resume, retry, fork, cancel, delete."""

from __future__ import annotations

from typing import Any

from aiodurable.dashboard.actions.act import Act, Confirmation, Field, Form, Outcome, required
from aiodurable.dashboard.context import Context
from aiodurable.errors import InvalidArgumentError
from aiodurable.models import WorkflowCheckpoint

__all__ = ["CANCEL", "DELETE", "FORK", "RESUME", "RETRY", "cancelled", "retried"]


def _page(context: Context, thread_id: str | None = None) -> str:
    return context.url("/thread", id=thread_id or required(context, "id"))


def _standing(thread: WorkflowCheckpoint) -> list[tuple[str, Any]]:
    reason = f", {thread.reason}" if thread.reason else ""
    return [
        ("Thread", thread.thread_id),
        ("Status", f"{thread.status}{reason}"),
        ("Graph", thread.graph or "not recorded"),
        ("Next", ", ".join(thread.pending) or "–"),
    ]


async def _confirm(context: Context, verb: str, text: str, **more: Any) -> Confirmation:
    thread = await context.durable.threads.get(required(context, "id"))
    return Confirmation(
        heading=f"{verb} this thread?",
        button=verb,
        back=_page(context),
        text=text,
        facts=_standing(thread),
        **more,
    )


async def _confirm_resume(context: Context) -> Confirmation:
    return await _confirm(
        context,
        "Resume",
        "It goes on from its last checkpoint, in this process. A gate is passed: that is your"
        " decision. Nodes that did not finish run again.",
    )


async def _resume(context: Context, form: Form) -> Outcome:  # noqa: ARG001
    thread_id = required(context, "id")
    how = await context.background.begin(
        f"the resumption of thread {thread_id!r}",
        context.durable.threads.resume(thread_id, past_gate=True),
    )
    return Outcome(f"Resumed: {how}.", _page(context))


async def _confirm_retry(context: Context) -> Confirmation:
    return await _confirm(
        context,
        "Retry",
        "What failed runs again, with all the attempts it may have. A worker begins it; a run that"
        " the ledger does not know is begun in this process.",
    )


async def retried(context: Context, thread: WorkflowCheckpoint) -> str:
    """Retry the run that a thread had when it was read, and say how that stands."""
    thread_id = thread.thread_id
    if thread.run_id is not None and thread.graph is not None:
        await context.durable.runs.retry(thread.run_id)
        return "a worker begins it"
    return await context.background.begin(
        f"another try of thread {thread_id!r}", context.durable.threads.retry(thread_id)
    )


async def _retry(context: Context, form: Form) -> Outcome:  # noqa: ARG001
    thread = await context.durable.threads.get(required(context, "id"))
    return Outcome(f"Retried: {await retried(context, thread)}.", _page(context))


async def _confirm_fork(context: Context) -> Confirmation:
    checkpoint = context.query("checkpoint")
    at = "its newest checkpoint" if checkpoint is None else f"checkpoint {checkpoint}"
    return await _confirm(
        context,
        "Fork",
        f"A new thread is made from {at}. This one stays as it is. Where work is left, the new one"
        " is paused until somebody resumes it.",
        fields=[
            Field("new_id", "Id of the new thread", help="Empty: a random one."),
        ],
    )


async def _fork(context: Context, form: Form) -> Outcome:
    new_id = form.get("new_id", "") or None
    if new_id is not None:  # who may act on some ids alone makes no other thread
        await context.require("fork", new_id)
    new = await context.durable.threads.fork(
        required(context, "id"),
        new_id,
        checkpoint_id=context.query("checkpoint"),
    )
    return Outcome("Forked: this is the new thread.", _page(context, new.thread_id))


async def _confirm_cancel(context: Context) -> Confirmation:
    return await _confirm(
        context,
        "Cancel",
        "Its run ends, in whichever process it is at work. Only a person goes on with it"
        " afterwards. A run that waits in a queue is given up.",
    )


async def _cancel(context: Context, form: Form) -> Outcome:  # noqa: ARG001
    thread = await context.durable.threads.get(required(context, "id"))
    await cancelled(context, thread)
    known = thread.checkpoint_id is not None  # otherwise nothing is left to see but the run
    page = _page(context) if known else context.url("/run", id=thread.run_id)
    return Outcome("Its run was cancelled.", page)


async def cancelled(context: Context, thread: WorkflowCheckpoint) -> None:
    """Cancel the run that a thread had at work or in a queue when it was read."""
    if thread.run_id is not None:
        run = await context.durable.runs.cancel(thread.run_id)
        if run.cancel_requested_at is not None or run.reason == "cancelled":
            return
    raise InvalidArgumentError(
        f"cannot cancel thread {thread.thread_id!r}: it is {thread.status}, and no run of it is at"
        " work or waits in a queue",
        thread_id=thread.thread_id,
        argument="id",
    )


async def _confirm_delete(context: Context) -> Confirmation:
    return await _confirm(
        context,
        "Delete",
        "All that is stored of it is removed: checkpoints, writes, runs with their inputs and"
        " errors. This cannot be undone.",
        dangerous=True,
    )


async def _delete(context: Context, form: Form) -> Outcome:  # noqa: ARG001
    known = await context.durable.threads.delete(required(context, "id"))
    said = "The thread was deleted." if known else "Nothing was known of this thread."
    return Outcome(said, context.url("/threads"))


def _forked(context: Context, form: Form) -> dict[str, Any]:
    return {"checkpoint": context.query("checkpoint"), "new_id": form.get("new_id") or None}


RESUME = Act("threads.resume", "resume", "Resume", _confirm_resume, _resume)
RETRY = Act("threads.retry", "retry", "Retry", _confirm_retry, _retry)
FORK = Act("threads.fork", "fork", "Fork", _confirm_fork, _fork, _forked)
CANCEL = Act("threads.cancel", "cancel", "Cancel", _confirm_cancel, _cancel)
DELETE = Act("threads.delete", "delete", "Delete", _confirm_delete, _delete)
