"""`threads.why`: which rule decided a thread's status, and what happens next.

The status comes from `classify` itself, with the name of the rule that decided; what a call does
from `decide` itself; what workers do from the conditions of `postgres/sql/worker.sql`, which
`why.sql` includes. Nothing here decides anything a second time.
"""

from aiodurable.runs.why.answer import NextStep, QueueFacts, RunFacts, Why, WhyAction, WhyFacts
from aiodurable.runs.why.service import why
from aiodurable.threads.rules import WhyRule

__all__ = [
    "NextStep",
    "QueueFacts",
    "RunFacts",
    "Why",
    "WhyAction",
    "WhyFacts",
    "WhyRule",
    "why",
]
