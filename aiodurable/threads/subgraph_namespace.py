"""Parses the `checkpoint_ns` of a subgraph: `outer:TASK|inner:TASK`, the outermost first.

A task that calls a subgraph again adds the call's number: `outer:TASK|1`. A subgraph with a memory
(`checkpointer=True`) has no task ids in its namespace, nor in what is before it: `outer|inner`.
"""

from __future__ import annotations

__all__ = ["nodes_in", "without_tasks"]


def nodes_in(namespace: str) -> tuple[str, ...]:
    """The nodes in a namespace; none for the root graph. Numbers of calls are left out where the
    namespace shows that they are no nodes: after a task id. `outer|1` can be either.
    """
    nodes = list[str]()
    in_a_call = False
    for part in namespace.split("|") if namespace else ():
        node, colon, _ = part.partition(":")
        if colon or not (in_a_call and node.isdigit()):
            nodes.append(node)
        in_a_call = in_a_call or bool(colon)
    return tuple(nodes)


def without_tasks(namespace: str) -> str:
    """The namespace that a subgraph with a memory has there."""
    return "|".join(part.partition(":")[0] for part in namespace.split("|"))
