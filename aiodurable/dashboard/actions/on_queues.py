"""Actions on a queue, which the parameter `queue` names: pause, resume, scale."""

from __future__ import annotations

from typing import Any

from aiodurable.dashboard.actions.act import (
    Act,
    Confirmation,
    Field,
    Form,
    Outcome,
    number_of,
    required,
)
from aiodurable.dashboard.context import Context

__all__ = ["PAUSE_QUEUE", "RESUME_QUEUE", "SCALE_QUEUE"]

_LIMITS = (
    ("max_running", "Runs at work at once", "integer"),
    ("max_running_per_key", "The same, for each concurrency key", "integer"),
    ("rate", "Runs that begin in a second", "number"),
    ("burst", "Runs that may begin at once after a quiet time", "integer"),
)


def _confirmation(context: Context, verb: str, text: str, **more: Any) -> Confirmation:
    queue = required(context, "queue")
    return Confirmation(
        heading=f"{verb} this queue?",
        button=verb,
        back=context.url("/queues"),
        text=text,
        facts=[("Queue", queue)],
        **more,
    )


async def _confirm_pause(context: Context) -> Confirmation:
    return _confirmation(
        context, "Pause", "No worker begins a run of it any more. Those at work go on."
    )


async def _pause(context: Context, form: Form) -> Outcome:  # noqa: ARG001
    await context.durable.queues.pause(required(context, "queue"))
    return Outcome("The queue is paused.", context.url("/queues"))


async def _confirm_resume(context: Context) -> Confirmation:
    return _confirmation(context, "Resume", "Workers begin its runs again.")


async def _resume(context: Context, form: Form) -> Outcome:  # noqa: ARG001
    await context.durable.queues.resume(required(context, "queue"))
    return Outcome("The queue is at work again.", context.url("/queues"))


async def _confirm_scale(context: Context) -> Confirmation:
    name = required(context, "queue")
    now = next((queue for queue in await context.durable.queues.list() if queue.name == name), None)
    fields = [
        Field(
            limit,
            label,
            kind,
            "" if now is None or (value := getattr(now, limit)) is None else str(value),
            help="Empty: no limit.",
        )
        for limit, label, kind in _LIMITS
    ]
    return _confirmation(
        context,
        "Scale",
        "These limits hold for all workers together, from the next claim on.",
        fields=fields,
    )


async def _scale(context: Context, form: Form) -> Outcome:
    await context.durable.queues.scale(required(context, "queue"), **_limits(form))
    return Outcome("The limits of the queue were set.", context.url("/queues"))


def _limits(form: Form) -> dict[str, Any]:
    return {
        limit: number_of(form, limit, float if kind == "number" else int, label)
        for limit, label, kind in _LIMITS
    }


def _details(context: Context, form: Form) -> dict[str, Any]:  # noqa: ARG001
    return {"queue": required(context, "queue")}


def _scaled(context: Context, form: Form) -> dict[str, Any]:
    return _details(context, form) | _limits(form)


PAUSE_QUEUE = Act(
    "queues.pause", "pause_queue", "Pause", _confirm_pause, _pause, _details, of_thread=False
)
RESUME_QUEUE = Act(
    "queues.resume", "resume_queue", "Resume", _confirm_resume, _resume, _details, of_thread=False
)
SCALE_QUEUE = Act(
    "queues.scale", "scale_queue", "Scale", _confirm_scale, _scale, _scaled, of_thread=False
)
