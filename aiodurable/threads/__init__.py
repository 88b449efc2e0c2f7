"""Reading and pruning threads from the tables alone, without their graph.

`status` computes the status of a thread and documents the rules. `search` scans threads in steps,
`filters` selects among them, `counts` counts them. `history` lists the steps of one thread,
`effects` its side effects. `prune` removes old checkpoints and runs, by `prune_options` and at
`prune_pace`. `reader` offers all of it on one database. `task_path` and `subgraph_namespace` parse
LangGraph's names of tasks and of subgraphs.

Nothing here takes a lease, and nothing writes to a thread while a run holds it.
"""

from aiodurable.models import NEEDS_ATTENTION
from aiodurable.threads.counts import ThreadCounts
from aiodurable.threads.effects import ThreadEffect
from aiodurable.threads.filters import Filter, ThreadFilters, check_positive
from aiodurable.threads.history import ThreadStep
from aiodurable.threads.prune_options import PruneOptions, PruneReport
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
    "ThreadEffect",
    "ThreadFilters",
    "ThreadPage",
    "ThreadReader",
    "ThreadStep",
    "check_positive",
]
