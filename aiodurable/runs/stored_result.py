"""Stored results: a call for which nothing has to run returns what a checkpoint holds, in the shape
that a live call would have returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables.schema import StandardStreamEvent, StreamEvent
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.pregel._validate import validate_keys
from langgraph.types import GraphOutput

from aiodurable.errors import ResultPrunedError
from aiodurable.models import WorkflowCheckpoint
from aiodurable.runs.graphs import BoundGraph

__all__ = ["StoredResult", "read_result", "stored_chunks", "stored_end_event", "stored_result"]


@dataclass(frozen=True, slots=True)
class StoredResult:
    """Nothing has to run: the result is read from a checkpoint.

    Attributes:
        checkpoint_id: the checkpoint; None: the thread's newest.
        interrupts: the questions that belong to the result.
    """

    checkpoint_id: str | None
    interrupts: tuple[Any, ...] = ()


async def read_result(
    graph: BoundGraph, thread: WorkflowCheckpoint, run_id: str, stored: StoredResult
) -> tuple[Any, tuple[Any, ...]]:
    """The state and the questions of a result, decoded to the graph's own classes.

    Raises:
        ResultPrunedError: its checkpoint was pruned.
    """
    coordinates = {"thread_id": thread.thread_id}
    if stored.checkpoint_id is not None and stored.checkpoint_id != thread.checkpoint_id:
        coordinates["checkpoint_id"] = stored.checkpoint_id
    snapshot = await graph.pregel.aget_state({"configurable": coordinates})
    if snapshot.created_at is None:
        raise ResultPrunedError(
            f"cannot return the result of run {run_id!r} of thread {thread.thread_id!r}: the run is"
            " complete, but its checkpoint was pruned; start a new run, with another run_id",
            thread_id=thread.thread_id,
            run_id=run_id,
        )
    decoded: dict[Any, Any] = {question.id: question for question in snapshot.interrupts}
    questions = tuple(decoded.get(getattr(one, "id", None), one) for one in stored.interrupts)
    return snapshot.values, questions


def stored_end_event(name: str, run_id: str, output: Any) -> StreamEvent:
    """The event with which a graph's call ends, for a run that ended before the call."""
    return StandardStreamEvent(
        event="on_chain_end",
        name=name,
        run_id=run_id,
        parent_ids=[],
        tags=[],
        metadata={},
        data={"output": output},
    )


def stored_result(
    graph: BoundGraph, values: Any, options: Mapping[str, Any], interrupts: Sequence[Any] = ()
) -> Any:
    """What `ainvoke(**options)` returned when it left this state and these interrupts.

    Raises:
        ValueError: `output_keys` names no channel of the graph, as from LangGraph.
    """
    keys = options.get("output_keys")
    options = {**options, "output_keys": graph.pregel.output_channels if keys is None else keys}
    if options.get("stream_mode", "values") != "values":
        return list(stored_chunks(graph, values, options, interrupts))
    output = _output(graph, values, options)
    if options.get("version") == "v2":
        return GraphOutput(value=output, interrupts=tuple(interrupts))
    if not interrupts:
        return output
    return {**(output if isinstance(output, dict) else {}), INTERRUPT: list(interrupts)}


def stored_chunks(
    graph: BoundGraph, values: Any, options: Mapping[str, Any], interrupts: Sequence[Any] = ()
) -> Iterator[Any]:
    """What `astream(**options)` yielded last: the "values" chunk and the "updates" chunk with the
    interrupts.

    Each only if the options have that mode.

    Raises:
        ValueError: as `stored_result`.
    """
    modes = options.get("stream_mode") or "values"
    output = _output(graph, values, options)
    wanted = [modes] if isinstance(modes, str) else modes
    if "values" in wanted:
        yield _chunk("values", output, modes, options, interrupts=tuple(interrupts))
    if "updates" in wanted and interrupts:
        yield _chunk("updates", {INTERRUPT: tuple(interrupts)}, modes, options)


def _chunk(mode: str, data: Any, modes: Any, options: Mapping[str, Any], **more: Any) -> Any:
    if options.get("version") == "v2":
        return {"type": mode, "ns": (), "data": data, **more}
    if options.get("subgraphs"):
        return ((), mode, data) if isinstance(modes, list) else ((), data)
    return (mode, data) if isinstance(modes, list) else data


def _output(graph: BoundGraph, values: Any, options: Mapping[str, Any]) -> Any:
    pregel = graph.pregel
    keys = options.get("output_keys")
    validate_keys(keys, pregel.channels)
    if not isinstance(values, Mapping) or isinstance(pregel.stream_channels_asis, str):
        return values  # a graph of one channel, such as an entrypoint
    if isinstance(keys, str):
        return values.get(keys)
    names = pregel.stream_channels_asis if keys is None else keys
    output = {name: values[name] for name in names if name in values}
    # LangGraph's coercion to the output's model or dataclass; there is no public way to it.
    coerce = pregel._output_mapper if options.get("version") == "v2" else None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return coerce(output) if coerce else output
