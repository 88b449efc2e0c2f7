"""Puts the answer together."""

from __future__ import annotations

from aiodurable.runs.services import Services
from aiodurable.runs.why.actions import actions
from aiodurable.runs.why.answer import Why
from aiodurable.runs.why.facts import read
from aiodurable.runs.why.next_steps import next_steps
from aiodurable.thread_id import validate_thread_id
from aiodurable.threads.rules import RULES, WhyRule

__all__ = ["why"]


async def why(services: Services, thread_id: str) -> Why:
    """See `Threads.why`."""
    found = await read(services, validate_thread_id(thread_id))
    rule = found.thread.rule
    return Why(
        status=found.thread.status,
        facts=found.facts,
        rule=WhyRule(rule, RULES[rule]),
        next=next_steps(found),
        actions=actions(found),
    )
