"""What a crash test found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["CrashReport", "NodeReport", "NodeVerdict", "PointReport"]


class NodeVerdict(StrEnum):
    """What crashes do to a node."""

    SAFE = "safe"
    """It never ran again, or had an idempotency key in each run."""
    REPEATS = "repeats"
    """It ran again, and the final state was the same."""
    DIFFERS = "differs"
    """It ran again, and the final state was another one."""


@dataclass(frozen=True, slots=True)
class PointReport:
    """What followed from one kill.

    Attributes:
        point: where the process was killed, such as "after node charge".
        reached: whether the process came to it; one that did not, came to its end.
        repeated: the nodes that ran again, and how often.
        differing: the channels of the final state that differ; "" is the result of a graph without
            channels.
        problem: why the thread did not come to its end; None: it did.
    """

    point: str
    reached: bool
    repeated: Mapping[str, int]
    differing: tuple[str, ...]
    problem: str | None

    @property
    def same_result(self) -> bool:
        """Whether the final state is that of the undisturbed run."""
        return self.problem is None and not self.differing


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What the kills did to one node.

    Attributes:
        verdict: safe, repeats or differs.
        has_key: whether it used an `idempotency_key()` in each run.
        most_repeats: how often it ran again, at most, after one kill.
        points: after which kills it ran again; for "differs" those after which the final state was
            another one.
    """

    verdict: NodeVerdict
    has_key: bool
    most_repeats: int
    points: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CrashReport:
    """What `crash_everywhere` found; `print(report)` shows it as a table.

    Attributes:
        nodes: by name; one in a subgraph is `outer/inner`.
        points: the kills, in the order of the run.
        of_points: how many points the run has.
        seed: chose among them, if there were too many.
        duration_s: how long it took.
    """

    nodes: Mapping[str, NodeReport]
    points: tuple[PointReport, ...]
    of_points: int
    seed: int
    duration_s: float

    @property
    def same_result(self) -> bool:
        """Whether the final state was that of the undisturbed run after every kill."""
        return all(point.same_result for point in self.points)

    def assert_same_result(self) -> None:
        """Raises `AssertionError` if a kill changes the final state, or keeps it from coming."""
        if not self.same_result:
            raise AssertionError(f"a crash changes the final state\n{self}")

    def assert_safe(self, *nodes: str) -> None:
        """Raises `AssertionError` unless these nodes are safe; without any, all of the graph.

        Raises:
            KeyError: the undisturbed run has no such node.
        """
        if missing := sorted(set(nodes) - self.nodes.keys()):
            raise KeyError(
                f"cannot judge {', '.join(missing)}: the run has {', '.join(sorted(self.nodes))}"
            )
        unsafe = [
            name for name in nodes or self.nodes if self.nodes[name].verdict is not NodeVerdict.SAFE
        ]
        if unsafe:
            raise AssertionError(f"not safe in a crash: {', '.join(unsafe)}\n{self}")

    def __str__(self) -> str:
        sampled = "" if len(self.points) == self.of_points else f" (seed {self.seed})"
        head = (
            f"{len(self.points)} of {self.of_points} kills{sampled} in {self.duration_s:.1f} s:"
            f" {'the same final state each time' if self.same_result else 'another final state'}"
        )
        rows = [("node", "verdict", "ran again", "after a kill")]
        for name, node in self.nodes.items():
            again = f"{node.most_repeats}×" if node.most_repeats else "never"
            key = " with its key" if node.has_key and node.most_repeats else ""
            rows.append((name, node.verdict, f"{again}{key}", _few(node.points)))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join([*(row[n].ljust(widths[n]) for n in range(3)), row[3]]).rstrip()
            for row in rows
        ]
        for point in self.points:
            if point.problem is not None:
                lines.append(f"{point.point}: no final state: {point.problem}")
            elif point.differing:
                channels = ", ".join(name or "the result" for name in point.differing)
                lines.append(f"{point.point}: differs in {channels}")
        return "\n".join([head, *lines])


def _few(points: tuple[str, ...]) -> str:
    shown = "; ".join(points[:2])
    return shown if len(points) <= 2 else f"{shown}; and {len(points) - 2} more"
