"""The side effects of a run, as its nodes reach them: each name once, each result stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.runtime import get_runtime

from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.size_estimate import looks_large, stored_large
from aiodurable.errors import ConfigurationError, InvalidArgumentError
from aiodurable.idempotency import node_config
from aiodurable.runs.effect_rows import EffectKey, EffectRows, EffectState
from aiodurable.runs.stored_value import StoredValue, dump_value, load_value

__all__ = ["EFFECTS_KEY", "Effects", "current_effects"]

T = TypeVar("T")

EFFECTS_KEY: Final = "__pregel_aiodurable_effects"
"""Where a run puts its `Effects` in `config["configurable"]`. As with `SESSION_KEY`, LangGraph
neither stores nor streams it.
"""


@dataclass(slots=True)
class Effects:
    """The effects of one call of a graph.

    Attributes:
        rows: their rows.
        fence: the fence of the thread.
        run_id: the run.
        serde: the serializer for results.
        loop: the event loop of the run.
        used: the names that tasks have used: of each try of a task, each once.
    """

    rows: EffectRows
    fence: Fence
    run_id: str
    serde: SerializerProtocol
    loop: asyncio.AbstractEventLoop
    used: set[tuple[str, int, str]] = field(default_factory=set[tuple[str, int, str]])

    def named(self, name: str, config: Mapping[str, Any]) -> EffectKey:
        """The effect of this name of the task that is being executed.

        Raises:
            ConfigurationError: it belongs to another thread than the run.
        """
        thread_id = config.get("thread_id")
        if thread_id != self.fence.thread_id:
            raise ConfigurationError(
                f"cannot run effect {name!r}: its graph runs on thread {thread_id!r}, and the run"
                f" that calls it holds the lease of thread {self.fence.thread_id!r}; call that"
                " graph through Durable.run"
            )
        runtime = get_runtime().execution_info
        here = runtime.checkpoint_id if runtime is not None else ""
        root: Mapping[str, str] = config.get("checkpoint_map") or {}
        return EffectKey(config["checkpoint_ns"], name, root.get("", here))

    @contextmanager
    def using(self, key: EffectKey) -> Iterator[None]:
        """Refuse a name that this try of the task has used already: the second side effect would be
        skipped. One that failed may be tried again.

        Raises:
            InvalidArgumentError: it is used.
        """
        info = get_runtime().execution_info
        this = (key.task, 0 if info is None else info.node_attempt, key.name)
        if this in self.used:
            raise InvalidArgumentError(
                f"cannot run effect {key.name!r} twice in one task of thread"
                f" {self.fence.thread_id!r}: the second one would get the result of the first; name"
                " each by what tells them apart, as the id of a tool call or of an order",
                thread_id=self.fence.thread_id,
                argument="name",
            )
        self.used.add(this)
        try:
            yield
        except BaseException:  # a cancellation too: the name may be used again
            self.used.discard(this)
            raise

    async def store(
        self, key: EffectKey, begin_id: int, value: Any, answers: int | None = None
    ) -> None:
        """Record that an effect is done, with its result.

        Raises:
            InvalidArgumentError: the result cannot be stored; it is recorded as done all the same.
        """

        def dump() -> StoredValue:
            # in a list: a serializer has no bytes for None
            return dump_value("result", [value], self.serde)

        refused: InvalidArgumentError | None = None
        stored: StoredValue = (None, None)
        try:
            stored = await self._off_the_loop(dump) if looks_large((value,)) else dump()
        except InvalidArgumentError as error:
            refused = error
        await self.rows.finish(
            key,
            fence=self.fence,
            begin_id=begin_id,
            state=EffectState.DONE,
            answers=answers,
            result=stored,
        )
        if refused is not None:
            raise InvalidArgumentError(
                f"cannot keep the result of effect {key.name!r} of thread"
                f" {self.fence.thread_id!r}: {refused}. The side effect has been run and is"
                " recorded as done, without a result: it never runs again. Return plain data, and"
                " let reconcile= find the result of this one; without it a person is asked",
                thread_id=self.fence.thread_id,
                argument="do",
            ) from refused

    async def stored(self, key: EffectKey, result: StoredValue) -> Any:
        """Decode a stored result.

        Raises:
            ConfigurationError: this process cannot decode it.
        """

        def load() -> Any:
            [value] = load_value(self.serde, result)
            return value

        try:
            return await self._off_the_loop(load) if stored_large(result[1:]) else load()
        except Exception as error:  # serializers raise what they like
            raise ConfigurationError(
                f"cannot read the result of effect {key.name!r} of thread"
                f" {self.fence.thread_id!r}: {type(error).__name__}; its class has moved, or the"
                " graph's schemas do not name it any more"
            ) from error

    async def _off_the_loop(self, work: Callable[[], T]) -> T:
        return await self.loop.run_in_executor(None, work)


def current_effects(what: str) -> tuple[Effects, Mapping[str, Any]]:
    """The effects of the run that executes this node, and the node's config.

    Raises:
        ConfigurationError: it was called outside a node or task of a run.
    """
    config = node_config()
    effects: Effects | None = config.get(EFFECTS_KEY)
    if effects is None or not config.get("checkpoint_ns"):
        raise ConfigurationError(
            f"cannot run {what}: it belongs to a step of a run; call it inside a node or a task of"
            " a graph that runs through Durable.run or a worker"
        )
    return effects, config
