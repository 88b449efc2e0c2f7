"""Actions on a schedule, which the parameter `schedule` names: pause, resume, trigger, backfill."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiodurable.dashboard.actions.act import Act, Confirmation, Field, Form, Outcome, required
from aiodurable.dashboard.context import Context
from aiodurable.errors import InvalidArgumentError

__all__ = ["BACKFILL_SCHEDULE", "PAUSE_SCHEDULE", "RESUME_SCHEDULE", "TRIGGER_SCHEDULE"]

_SHOWN = 20


async def _confirmation(context: Context, verb: str, text: str, **more: Any) -> Confirmation:
    schedule = await context.durable.schedules.get(required(context, "schedule"))
    return Confirmation(
        heading=f"{verb} this schedule?",
        button=verb,
        back=context.url("/schedules"),
        text=text,
        facts=[
            ("Schedule", schedule.schedule_id),
            ("Graph", schedule.graph),
            ("Stands", "paused" if schedule.paused else "ended" if schedule.ended else "active"),
        ],
        **more,
    )


_NOTE = Field("note", "Why", help="Others read it on the page of schedules.")


async def _confirm_pause(context: Context) -> Confirmation:
    return await _confirmation(
        context, "Pause", "No slot fires any more. Runs that were accepted go on.", fields=[_NOTE]
    )


async def _pause(context: Context, form: Form) -> Outcome:
    await context.durable.schedules.pause(
        required(context, "schedule"), note=form.get("note") or None
    )
    return Outcome("The schedule is paused.", context.url("/schedules"))


async def _confirm_resume(context: Context) -> Confirmation:
    return await _confirmation(
        context,
        "Resume",
        "It fires again from its next slot on. The slots of the pause are not made up for.",
        fields=[_NOTE],
    )


async def _resume(context: Context, form: Form) -> Outcome:
    await context.durable.schedules.resume(
        required(context, "schedule"), note=form.get("note") or None
    )
    return Outcome("The schedule fires again.", context.url("/schedules"))


async def _confirm_trigger(context: Context) -> Confirmation:
    return await _confirmation(context, "Trigger", "One run is accepted now, beside its slots.")


async def _trigger(context: Context, form: Form) -> Outcome:  # noqa: ARG001
    run = await context.durable.schedules.trigger(required(context, "schedule"))
    return Outcome("A run was accepted: this is it.", context.url("/run", id=run.run_id))


async def _confirm_backfill(context: Context) -> Confirmation:
    start, end = context.query("start"), context.query("end")
    if start is None or end is None:
        return await _confirmation(
            context,
            "Backfill",
            "Choose past slots; the next page shows which these are. A slot that has its run"
            " already does not get another one.",
            fields=[
                Field("start", "From (UTC)", "moment", required=True),
                Field("end", "To (UTC), included", "moment", required=True),
            ],
            choose=True,
        )
    slots = await context.durable.schedules.backfill(
        required(context, "schedule"), _moment(start), _moment(end), dry_run=True
    )
    return await _confirmation(
        context,
        "Backfill",
        f"These {len(slots)} slots are accepted; those that have a run already stay as they are.",
        listed=[f"{slot.slot.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" for slot in slots[:_SHOWN]],
        more=max(0, len(slots) - _SHOWN),
        possible=bool(slots),
    )


async def _backfill(context: Context, form: Form) -> Outcome:  # noqa: ARG001
    slots = await context.durable.schedules.backfill(
        required(context, "schedule"),
        _moment(required(context, "start")),
        _moment(required(context, "end")),
    )
    accepted = sum(slot.accepted for slot in slots)
    return Outcome(f"Of {len(slots)} slots, {accepted} were accepted.", context.url("/schedules"))


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgumentError(
            f"cannot use {text[:40]!r} as a time: write it as 2026-11-29T08:00", argument="start"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _details(context: Context, form: Form) -> dict[str, Any]:  # noqa: ARG001
    return {"schedule": required(context, "schedule")}


def _filled(context: Context, form: Form) -> dict[str, Any]:
    return _details(context, form) | {"start": context.query("start"), "end": context.query("end")}


PAUSE_SCHEDULE = Act(
    "schedules.pause", "pause_schedule", "Pause", _confirm_pause, _pause, _details, of_thread=False
)
RESUME_SCHEDULE = Act(
    "schedules.resume",
    "resume_schedule",
    "Resume",
    _confirm_resume,
    _resume,
    _details,
    of_thread=False,
)
TRIGGER_SCHEDULE = Act(
    "schedules.trigger",
    "trigger_schedule",
    "Trigger",
    _confirm_trigger,
    _trigger,
    _details,
    of_thread=False,
)
BACKFILL_SCHEDULE = Act(
    "schedules.backfill",
    "backfill_schedule",
    "Backfill",
    _confirm_backfill,
    _backfill,
    _filled,
    of_thread=False,
)
