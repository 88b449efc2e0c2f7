"""The open questions of a thread, as far as this person may see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langgraph.types import Interrupt

from aiodurable.dashboard.context import Context
from aiodurable.dashboard.state_tree import Branch, Trees, redacted
from aiodurable.models import WorkflowCheckpoint

__all__ = ["Question", "questions_of"]


@dataclass(frozen=True, slots=True)
class Question:
    """An open question.

    Attributes:
        interrupt_id: what an answer names.
        seen: whether this person may see the question.
        tree: the question, redacted at the path `("question", …)`; None: hidden.
        schema: JSON Schema of its answer; None: it has none, or is hidden.
    """

    interrupt_id: str
    seen: bool
    tree: Branch | None = None
    schema: Any = None


async def questions_of(
    context: Context, thread: WorkflowCheckpoint, *, branches: int = 1_500
) -> list[Question]:
    """The questions that a person can answer: not one whose row is damaged, which has no id.

    Args:
        context: the request.
        thread: whose questions.
        branches: how much of all of them is shown.
    """
    seen = await context.allowed("view_state", thread.thread_id)
    asked = [one for one in thread.interrupts if isinstance(one, Interrupt)]
    ids = [str(interrupt.id) for interrupt in asked]
    if not seen:
        return [Question(interrupt_id, seen=False) for interrupt_id in ids]
    redact, path = context.options.redact, ("question",)

    def shown() -> list[Branch]:
        trees = Trees(redact, branches=branches)
        return [trees.of(path, redacted(path, interrupt.value, redact)) for interrupt in asked]

    trees = await context.durable.checkpointer.in_a_thread(shown)
    return [
        Question(interrupt_id, True, tree, getattr(interrupt, "response_schema", None))
        for interrupt_id, tree, interrupt in zip(ids, trees, asked, strict=True)
    ]
