"""The program of the processes that a crash test starts and kills.

It imports the graph's module once and forks a process for each job, before any event loop exists in
it. Where the module has started threads, which a fork would lose, it does one job itself and ends.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NoReturn, cast

from langchain_core.runnables import RunnableConfig
from langgraph.types import Interrupt

from aiodurable import idempotency
from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError
from aiodurable.models import ThreadStatus
from aiodurable.runs import current_effects
from aiodurable.runs.durable_run import DurableRun
from aiodurable.testing.graph_reference import GraphReference, load_graph, load_module
from aiodurable.testing.moments import Journal, Moment, Moments

__all__ = ["Ended", "Given", "Job", "main"]

_STUCK: Final = 1000
"""Questions and gates of one run after which it counts as endless."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does: start the thread, or go on with it.

    Attributes:
        dsn, thread_id: where.
        journal: the file that gets what happens.
        death: where to kill the process; None: nowhere.
        wait_s: seconds to wait until the lease of a killed process is free.
        given: `Given`, pickled: its classes are those of the graph's module.
    """

    dsn: str
    thread_id: str
    journal: str
    death: Moment | None
    wait_s: float
    given: bytes


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller passes in, in the order of `crash_everywhere`."""

    input: Any
    config: RunnableConfig | None
    context: Any
    answers: Sequence[Any] | Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended.

    Attributes:
        killed: whether it was killed.
        values: the final state, pickled.
        problem: why there is no final state.
    """

    killed: bool = False
    values: bytes | None = None
    problem: str | None = None


def main(descriptor: int) -> None:
    """Serve jobs until the other end is closed."""
    connection = Connection(descriptor)
    graph: GraphReference = connection.recv()
    try:
        load_module(graph)
    except Exception as error:  # the module of an application may raise anything
        traceback.print_exc()
        connection.send(f"importing {graph.module!r} raised {type(error).__name__}: {error}")
        return
    forks = threading.active_count() == 1
    connection.send(None)
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        if not forks:
            connection.send(os.getpid())
            connection.send(_ended(graph, job))
            return
        _fork(connection, graph, job)


def _fork(connection: Connection, graph: GraphReference, job: Job) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _child(writer, graph, job)
    os.close(writer)
    connection.send(child)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if answer:
        connection.send(pickle.loads(answer))  # noqa: S301 - our own process pickled it
    elif code == -signal.SIGKILL:
        connection.send(Ended(killed=True))
    else:
        connection.send(Ended(problem=f"its process ended with exit code {code}"))


def _child(writer: int, graph: GraphReference, job: Job) -> NoReturn:
    code = 1
    try:
        answer = pickle.dumps(_ended(graph, job))
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(answer)
        code = 0
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(code)


def _ended(graph: GraphReference, job: Job) -> Ended:
    try:
        values = asyncio.run(_work(graph, job))
    except Exception as error:  # whatever a node raises
        traceback.print_exc()
        return Ended(problem=f"it raised {type(error).__name__}")
    try:
        return Ended(values=pickle.dumps(values))
    except Exception as error:  # whatever a value raises
        return Ended(problem=f"its final state does not pickle: {type(error).__name__}")


async def _work(reference: GraphReference, job: Job) -> dict[str, Any]:
    """Start the thread or go on with it, through all questions and gates, to its end."""
    graph = await load_graph(reference)
    given: Given = pickle.loads(job.given)  # noqa: S301 - our own process pickled it
    journal = Journal(Path(job.journal))
    moments = Moments(journal, job.death)
    moments.watch()
    _watch_keys(moments)
    async with Durable(job.dsn) as durable:
        moments.counting = True
        async with durable.run(
            job.thread_id,
            graph,
            run_id=f"{job.thread_id}-run",
            on_busy="wait",
            timeout=job.wait_s,
            config=_with_callback(given.config, moments),
            context=given.context,
        ) as run:
            result = await _to_its_end(run, given, journal)
            state = (await run.aget_state()).values
        moments.counting = False
    return cast("dict[str, Any]", state) if isinstance(state, dict) and state else {"": result}


async def _to_its_end(run: DurableRun[Any, Any, Any], given: Given, journal: Journal) -> Any:
    result = None
    if run.status not in (ThreadStatus.INTERRUPTED, ThreadStatus.PAUSED):
        result = await run.ainvoke(given.input)
    for _ in range(_STUCK):
        match run.checkpoint.status:
            case ThreadStatus.INTERRUPTED:
                result = await run.answer(_answers(run.checkpoint.interrupts, given, journal))
            case ThreadStatus.PAUSED:
                result = await run.ainvoke()
            case _:
                return result
    raise ConfigurationError(
        f"cannot run the graph to its end: it has stopped {_STUCK} times for a question or a gate"
    )


def _answers(questions: Sequence[Interrupt], given: Given, journal: Journal) -> dict[str, Any]:
    if callable(given.answers):
        return {question.id: given.answers(question.value) for question in questions}
    # Questions that an earlier process has answered keep their answers.
    places: dict[str, int] = dict(tuple(pair) for pair in journal.read("question"))
    for question in questions:
        if question.id not in places:
            if len(places) >= len(given.answers):
                raise ConfigurationError(
                    f"cannot run the graph to its end: it asks more than the {len(given.answers)}"
                    " questions that answers=[…] answers"
                )
            places[question.id] = len(places)
            journal.note("question", question.id, places[question.id])
    return {question.id: given.answers[places[question.id]] for question in questions}


def _with_callback(config: RunnableConfig | None, moments: Moments) -> RunnableConfig:
    given: RunnableConfig = {**(config or {})}
    callbacks = given.get("callbacks")
    return {**given, "callbacks": [*(callbacks if isinstance(callbacks, list) else ()), moments]}


def _watch_keys(moments: Moments) -> None:
    """Note each use of an idempotency key, and each effect."""
    digest, config_of = idempotency.blake2b, current_effects.node_config

    def blake2b(data: bytes, **options: Any) -> Any:
        moments.note_key(data.split(b"\0")[1].decode())
        return digest(data, **options)

    def node_config() -> Mapping[str, Any]:
        config = config_of()
        if task := config.get("checkpoint_ns"):
            moments.note_key(task)
        return config

    idempotency.blake2b = blake2b  # pyright: ignore[reportAttributeAccessIssue]
    current_effects.node_config = node_config
