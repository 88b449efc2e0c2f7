"""Actions on one run, which the parameter `run` names; `id` is its thread."""

from __future__ import annotations

from aiodurable.dashboard.actions.act import Act, Confirmation, Form, Outcome, required
from aiodurable.dashboard.context import Context
from aiodurable.errors import RunNotFoundError
from aiodurable.models import RunRecord

__all__ = ["CANCEL_RUN", "RETRY_RUN"]


async def _run(context: Context) -> RunRecord:
    """The run, if it is one of the thread for which the right was checked."""
    run = await context.durable.runs.get(required(context, "run"))
    if run.thread_id != required(context, "id"):
        raise RunNotFoundError(
            f"cannot find run {run.run_id!r}: it is none of this thread", run_id=run.run_id
        )
    return run


def _back(context: Context) -> str:
    return context.url("/run", id=required(context, "run"))


async def _confirm(context: Context, verb: str, text: str) -> Confirmation:
    run = await _run(context)
    return Confirmation(
        heading=f"{verb} this run?",
        button=verb,
        back=_back(context),
        text=text,
        facts=[
            ("Run", run.run_id),
            ("Thread", run.thread_id),
            ("Status", run.status),
            ("Attempts", run.attempts),
        ],
    )


async def _confirm_cancel(context: Context) -> Confirmation:
    return await _confirm(
        context,
        "Cancel",
        "A run that waits is given up; one at work ends, in whichever process. What is over stays"
        " as it is.",
    )


async def _cancel(context: Context, form: Form) -> Outcome:  # noqa: ARG001
    run = await context.durable.runs.cancel((await _run(context)).run_id)
    return Outcome(f"Cancelled: the run is {run.status}.", _back(context))


async def _confirm_retry(context: Context) -> Confirmation:
    return await _confirm(
        context, "Retry", "A worker begins it again, with all the attempts it may have."
    )


async def _retry(context: Context, form: Form) -> Outcome:  # noqa: ARG001
    run = await context.durable.runs.retry((await _run(context)).run_id)
    return Outcome(f"A worker begins it again; it is {run.status}.", _back(context))


CANCEL_RUN = Act("runs.cancel", "cancel", "Cancel", _confirm_cancel, _cancel)
RETRY_RUN = Act("runs.retry", "retry", "Retry", _confirm_retry, _retry)
