"""Reads the current step of a thread or subgraph from its newest checkpoint and the writes after
it, without building any stored object (see `stored_values`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiodurable.checkpoints.stored_values import Built, ValueReader

__all__ = ["StoredStep", "StoredTask", "StoredValue"]

_NO_TASK = "00000000-0000-0000-0000-000000000000"
_CONTROL = frozenset(("__error__", "__error_source_node__", "__interrupt__", "__resume__"))
_SENDS = "__pregel_tasks"
_INPUT = "__start__"
_BRANCH, _JOIN = "branch:to:", "join:"


class StoredValue(NamedTuple):
    """A serialised value of a channel."""

    channel: str
    kind: str
    blob: bytes | None


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task of the step that has writes.

    Attributes:
        task_id: its id, which LangGraph derives from the checkpoint, the node and the channels that
            trigger it.
        path: its `task_path`; empty in rows of an old saver.
        waiting: whether it has asked a question and not finished.
    """

    task_id: str
    path: str
    waiting: bool


@dataclass(frozen=True, slots=True)
class StoredStep:
    """The newest checkpoint of one graph, and the step after it.

    Attributes:
        namespace: LangGraph's checkpoint_ns; empty for the root graph.
        checkpoint_id: the checkpoint.
        number: its superstep.
        format: its version of LangGraph's checkpoint format.
        channels: the channels that trigger a node of the step, now or once other channels have
            values, too.
        sends: the nodes of the step's Sends, in order.
        commanded: the nodes of a caller's `Command`.
        tasks: the tasks that have writes.
        values: the values that a resumption decodes.
    """

    namespace: str
    checkpoint_id: str
    number: int
    format: int
    channels: tuple[str, ...]
    sends: tuple[str, ...]
    commanded: tuple[str, ...]
    tasks: tuple[StoredTask, ...]
    values: tuple[StoredValue, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any], reader: ValueReader) -> StoredStep:
        """Decode a row of the saver's query for a checkpoint with its values and writes."""
        checkpoint: Mapping[str, Any] = row["checkpoint"]
        stored = [StoredValue(_text(v[0]), _text(v[1]), v[2]) for v in row["channel_values"] or ()]
        stored = [value for value in stored if value.kind != "empty"]
        by_channel = {value.channel: value for value in stored}
        writes = row["pending_writes"] or ()
        written = [StoredValue(_text(w[1]), _text(w[2]), w[3]) for w in writes]
        outside = [
            value for value, w in zip(written, writes, strict=True) if _text(w[0]) == _NO_TASK
        ]
        channels = dict.fromkeys(_starting(checkpoint, by_channel, reader))
        channels.update(
            dict.fromkeys(v.channel for v in outside if v.channel.startswith((_BRANCH, _INPUT)))
        )
        sends = by_channel.get(_SENDS)
        return cls(
            namespace=row["checkpoint_ns"],
            checkpoint_id=row["checkpoint_id"],
            number=int(row["metadata"].get("step", -1)),
            format=int(checkpoint.get("v", 0)),
            channels=tuple(channels),
            sends=() if sends is None else tuple(_sent(reader.inert(sends.kind, sends.blob))),
            commanded=tuple(
                node
                for v in outside
                if v.channel == _SENDS
                for node in _sent(reader.inert(v.kind, v.blob))
            ),
            tasks=tuple(_tasks(writes)),
            values=(*stored, *written),
        )


def _starting(
    checkpoint: Mapping[str, Any], by_channel: Mapping[str, StoredValue], reader: ValueReader
) -> Iterator[str]:
    """The channels that trigger the next step, and those that will once other channels have values.

    The first as in `classify` in sql/threads.sql, the others as in langgraph 1.2,
    `pregel/_algo.py`: an incomplete join and a deferred node keep their channel's value until they
    run.
    """
    updated = checkpoint.get("updated_channels")
    for channel in updated or ():
        if channel in (_INPUT, _SENDS) or channel.startswith((_BRANCH, _JOIN)):
            yield channel
    inline: Mapping[str, Any] = checkpoint.get("channel_values") or {}
    seen: Mapping[str, Mapping[str, Any]] = checkpoint.get("versions_seen") or {}
    versions: Mapping[str, Any] = checkpoint.get("channel_versions") or {}
    for channel, version in versions.items():
        value = by_channel.get(channel)
        if channel not in inline and value is None:
            continue
        if channel.startswith(_JOIN):
            arrived = None if value is None else reader.inert(value.kind, value.blob)
            if isinstance(arrived, Built) and arrived.made_of:
                yield channel
        elif channel.startswith(_BRANCH) or (channel == _INPUT and updated is None):
            yield from (
                ()
                if seen.get(channel.removeprefix(_BRANCH), {}).get(channel) == version
                else (channel,)
            )


def _sent(sends: Any) -> Iterator[str]:
    for send in sends if isinstance(sends, list) else [sends]:
        if isinstance(send, Built) and send.node is not None:
            yield send.node


def _tasks(writes: Sequence[Any]) -> Iterator[StoredTask]:
    paths: dict[str, str] = {}
    channels: dict[str, set[str]] = {}
    for write in writes:
        task_id = _text(write[0])
        if task_id != _NO_TASK:
            channels.setdefault(task_id, set()).add(_text(write[1]))
            paths[task_id] = _text(write[4]) if len(write) > 4 else ""
    for task_id, wrote in channels.items():
        yield StoredTask(
            task_id, paths[task_id], waiting="__interrupt__" in wrote and wrote <= _CONTROL
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode()
