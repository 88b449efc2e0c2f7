"""The types of a call: what a graph takes and gives, and the options that a type checker knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import RunControl
from langgraph.types import All, Durability, StreamMode
from typing_extensions import TypeVar

from aiodurable.runs.busy import OnBusy
from aiodurable.runs.decision import OnUnfinished

if TYPE_CHECKING:
    from langgraph._internal._typing import StateLike  # pyright: ignore[reportPrivateUsage]

__all__ = [
    "CallOptions",
    "ContextT",
    "EventOptions",
    "ExecuteOptions",
    "InputT",
    "InvokeOptions",
    "OutputT",
    "ResumeOptions",
    "RunOptions",
    "StreamOptions",
]

# LangGraph's own have a state type for their default, which a run does not have.
InputT = TypeVar("InputT", bound="StateLike", default=Any)
OutputT = TypeVar("OutputT", bound="StateLike", default=Any)
ContextT = TypeVar("ContextT", bound="StateLike | None", default=Any)


class RunOptions(TypedDict, total=False):
    """The options of `Durable.run`."""

    run_id: str | None
    on_busy: OnBusy
    timeout: float | None
    config: RunnableConfig | None


class CallOptions(TypedDict, total=False):
    """LangGraph's options that every call of a graph has."""

    print_mode: StreamMode | Sequence[StreamMode]
    output_keys: str | Sequence[str] | None
    interrupt_before: All | Sequence[str] | None
    interrupt_after: All | Sequence[str] | None
    durability: Durability | None
    control: RunControl | None
    debug: bool | None


class InvokeOptions(CallOptions, total=False):
    """LangGraph's options of `ainvoke`."""

    stream_mode: StreamMode | Sequence[StreamMode] | None
    version: Literal["v1", "v2"]


class ExecuteOptions(CallOptions, total=False):
    """The options of `WorkflowExecutor.execute`."""

    run_id: str | None
    config: RunnableConfig | None
    context: Any
    on_unfinished: OnUnfinished


class ResumeOptions(InvokeOptions, total=False):
    """The options of `Threads.resume`."""

    on_busy: OnBusy
    timeout: float | None
    past_gate: bool
    config: RunnableConfig | None
    context: Any


class StreamOptions(InvokeOptions, total=False):
    """LangGraph's options of `astream`."""

    subgraphs: bool


class EventOptions(CallOptions, total=False):
    """LangChain's filters of `astream_events`, and LangGraph's options."""

    include_names: Sequence[str] | None
    include_types: Sequence[str] | None
    include_tags: Sequence[str] | None
    exclude_names: Sequence[str] | None
    exclude_types: Sequence[str] | None
    exclude_tags: Sequence[str] | None
    stream_mode: StreamMode | Sequence[StreamMode] | None
    subgraphs: bool
