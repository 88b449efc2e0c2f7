"""How much a plan may read, and what to say when it reads more."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.explain import nodes, rows, rows_of


@dataclass(frozen=True)
class Budget:
    """What a statement may read.

    Attributes:
        rows: of tables, and pairs of rows that are compared.
        pages: of 8 KiB, of tables and indexes.
        indexes: the ones that its comment names; None: any.
        scanned: the tables that it scans from end to end.
    """

    rows: int
    pages: int
    indexes: Collection[str] | None = None
    scanned: Collection[str] = field(default=())

    @classmethod
    def for_rows(
        cls, rows: int, indexes: Collection[str] | None = None, scanned: Collection[str] = ()
    ) -> Budget:
        """The budget of a statement that cannot do without `rows` rows.

        Three times as many: an index leads to the versions that earlier statements left when they
        were undone, too. Each row costs a few pages of its index and one of its table.
        """
        return cls(rows * 3 + 20, rows * 8 + 50, indexes, scanned)


def overruns(plan: dict[str, Any], budget: Budget, tables: Collection[str]) -> list[str]:
    """Where a plan, explained with ANALYZE and BUFFERS, reads more of `tables` than its budget."""
    return list(_overruns(plan, budget, tables))


def _overruns(plan: dict[str, Any], budget: Budget, tables: Collection[str]) -> Iterator[str]:
    scans = [
        node
        for node in nodes(plan)
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in tables
    ]
    for node in scans:
        if node["Relation Name"] not in budget.scanned:
            yield f"{described(node)}: scans the whole table; budget: an index"
    for table in sorted(set(budget.scanned) - {node["Relation Name"] for node in scans}):
        yield f"no scan of {table}; budget: one, which can go"
    if (found := rows(plan)) > budget.rows:
        most = max(nodes(plan), key=rows_of)
        yield f"{described(most)}: the plan reads {found:.0f} rows; budget: {budget.rows}"
    if (found := _pages(plan)) > budget.pages:
        # A node's count includes those of the nodes below it.
        most = max(nodes(plan), key=lambda node: _pages(node) - sum(map(_pages, _below(node))))
        yield f"{described(most)}: the plan reads {found} pages; budget: {budget.pages}"
    for node in _indexed(plan):
        if budget.indexes is not None and _of_the_thread(node["Index Name"]) not in budget.indexes:
            known = ", ".join(sorted(budget.indexes)) or "none"
            yield f"{described(node)}: not an index that the comment names; budget: {known}"


def described(node: dict[str, Any]) -> str:
    """A node of a plan, as a reader of EXPLAIN knows it, and the rows that it read."""
    index = f" using {node['Index Name']}" if "Index Name" in node else ""
    table = f" on {node['Relation Name']}" if "Relation Name" in node else ""
    return f"{node['Node Type']}{index}{table} ({rows_of(node):.0f} rows)"


def _below(node: dict[str, Any]) -> list[dict[str, Any]]:
    return node.get("Plans", [])


def _pages(node: dict[str, Any]) -> int:
    return node["Shared Hit Blocks"] + node["Shared Read Blocks"]


def _indexed(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes that read an index of our tables.

    What has the alias `own` (`own_1` …) is a thread's own few rows: any index on it will do.
    """
    if node.get("Alias", "").startswith("own"):
        return
    if "Index Name" in node and not node["Index Name"].startswith("pg_"):
        yield node
    for below in _below(node):
        yield from _indexed(below)


def _of_the_thread(index: str) -> str:
    """LangGraph's own index on thread_id alone is as good for few rows of one thread, and for the
    next thread.
    """
    return f"{table}_pkey" if (table := index.removesuffix("_thread_id_idx")) != index else index
