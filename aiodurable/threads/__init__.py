"""Threads: what the tables say of them, without their graph.

`status` says where one thread stands and holds the rules. `search` goes through all of them, a step
at a time; `filters` says for which. `counts` says how many there are, and `history` what one went
through. `retention` removes what is no longer needed. `reader` holds them all.

Nothing here takes a lease, or writes to a thread that somebody works on.
"""

from aiodurable.models import NEEDS_ATTENTION
from aiodurable.threads.counts import ThreadCounts
from aiodurable.threads.filters import Filter, ThreadFilters, check_positive
from aiodurable.threads.history import ThreadStep
from aiodurable.threads.prune import PruneOptions, PruneReport
from aiodurable.threads.reader import ThreadReader
from aiodurable.threads.search import ThreadPage
from aiodurable.threads.status import Standing

__all__ = [
    "NEEDS_ATTENTION",
    "Filter",
    "PruneOptions",
    "PruneReport",
    "Standing",
    "ThreadCounts",
    "ThreadFilters",
    "ThreadPage",
    "ThreadReader",
    "ThreadStep",
    "check_positive",
]
