"""Which view answers which path."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from aiodurable.dashboard.actions.all_acts import ACTS
from aiodurable.dashboard.actions.endpoint import view_of
from aiodurable.dashboard.endpoint import endpoint
from aiodurable.dashboard.views import (
    audit,
    database,
    overview,
    quarantine,
    questions,
    queues,
    run,
    runs,
    schedules,
    state,
    thread,
    threads,
    workers,
)

__all__ = ["routes"]


def routes() -> list[BaseRoute]:
    """The pages. Each checks the right to `view`; names come as parameters, because a browser
    changes a path such as `/thread/../x`.
    """
    return [
        Route("/", endpoint(overview.show)),
        Route("/threads", endpoint(threads.show)),
        Route("/thread", endpoint(thread.show, of_thread=True)),
        Route("/thread/state", endpoint(state.show, of_thread=True)),
        Route("/thread/diff", endpoint(state.diff, of_thread=True)),
        Route("/thread/value", endpoint(state.download, of_thread=True)),
        Route("/runs", endpoint(runs.show)),
        Route("/run", endpoint(run.show)),
        Route("/questions", endpoint(questions.show)),
        Route("/quarantine", endpoint(quarantine.show)),
        Route("/queues", endpoint(queues.show)),
        Route("/schedules", endpoint(schedules.show)),
        Route("/workers", endpoint(workers.show)),
        Route("/database", endpoint(database.show)),
        Route("/audit", endpoint(audit.show)),
        *(
            Route(
                f"/act/{name}",
                endpoint(view_of(act), of_thread=act.of_thread),
                methods=["GET", "POST"],
            )
            for name, act in ACTS.items()
        ),
    ]
