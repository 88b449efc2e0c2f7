"""What an attempt gives its graph: the config that addresses the thread under its lease, and
LangGraph's options.
"""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.runnables import RunnableConfig

from aiodurable.checkpoints.write_session import SESSION_KEY
from aiodurable.runs.answers import STRICT_RESUME
from aiodurable.runs.attempt import Attempt
from aiodurable.runs.call import Call
from aiodurable.runs.current_effects import EFFECTS_KEY, Effects
from aiodurable.runs.current_run import RUN_KEY, CurrentRun
from aiodurable.runs.durable_time import CLOCK_KEY
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.services import Services

__all__ = ["AttemptConfig", "options_of"]


class AttemptConfig:
    """Makes the configs of a graph's calls on one thread, under one lease.

    Args:
        services: the open services.
        graph: the graph that is called.
        lease: the thread's lease, whose write session the config carries.
    """

    def __init__(self, services: Services, graph: BoundGraph, lease: ThreadLease) -> None:
        self._services = services
        self._graph = graph
        self._lease = lease
        self._loop = asyncio.get_running_loop()

    def addressed(self, config: RunnableConfig, run_id: str | None) -> RunnableConfig:
        """The config with the thread, the write session and the metadata of checkpoints."""
        own = {
            "thread_id": self._lease.thread_id,
            "aiodurable_graph_name": self._graph.name,
            "aiodurable_worker": self._services.ledger.worker,
            SESSION_KEY: self._lease.session,
            **({} if run_id is None else {"aiodurable_run_id": run_id}),
            STRICT_RESUME: True,
        }
        return {**config, "configurable": {**config.get("configurable", {}), **own}}

    def within(
        self, config: RunnableConfig, run_id: str, attempt: Attempt | None
    ) -> RunnableConfig:
        """The config, from which nodes learn which run executes them.

        Args:
            config: the config.
            run_id: the run of a call outside an attempt.
            attempt: the attempt; None: the call is on the graph itself.
        """
        current = CurrentRun(
            self._lease.thread_id,
            run_id=run_id if attempt is None else attempt.run_id,
            attempt=0 if attempt is None else attempt.number,
            graph=self._graph.name,
            worker=self._services.ledger.worker,
            fencing_token=self._lease.token,
        )
        effects = Effects(
            self._services.ledger.effects,
            self._lease.fence,
            current.run_id,
            self._graph.ledger_serde,
            self._loop,
        )
        inside: dict[str, Any] = {RUN_KEY: current, EFFECTS_KEY: effects}
        if attempt is not None:
            inside[CLOCK_KEY] = attempt.clock
        return {**config, "configurable": {**config.get("configurable", {}), **inside}}


def options_of(attempt: Attempt, call: Call) -> dict[str, Any]:
    """LangGraph's options of a call: its own over those of every attempt."""
    context = call.context if call.context is not None else attempt.context
    return {
        "durability": call.durability,
        "control": attempt.control,
        **({} if context is None else {"context": context}),
        **call.options,
    }
