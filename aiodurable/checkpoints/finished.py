"""Whether a checkpoint shows by itself that no work is left after it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata

__all__ = ["STARTS_A_NODE", "Finished", "as_finished"]

_OF_A_STATE_GRAPH = ("__start__", "branch:to:")
STARTS_A_NODE = (*_OF_A_STATE_GRAPH, "join:", "__pregel_tasks")
"""Prefixes of the channels that trigger the next step."""


class Finished(NamedTuple):
    """A checkpoint of the root graph whose own row shows that no work is left after it."""

    checkpoint_id: str
    step: int
    written_at: datetime


def as_finished(checkpoint: Checkpoint, metadata: CheckpointMetadata) -> Finished | None:
    """The checkpoint, if `classify` in sql/threads.sql calls a thread certainly complete that has
    it as its head without writes.
    """
    updated = checkpoint.get("updated_channels")
    if updated is None:
        return None
    for channel in updated:  # no generators: each step of each run passes here
        if channel.startswith(STARTS_A_NODE):
            return None
    for channel in checkpoint["channel_versions"]:
        if channel.startswith(_OF_A_STATE_GRAPH):
            break
    else:
        return None
    return Finished(
        checkpoint["id"], metadata.get("step", 0), datetime.fromisoformat(checkpoint["ts"])
    )
