"""Every statement about threads, runs and checkpoints, with arguments that fit the crowd below and
what it has to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiodurable.postgres.sql import load

TABLES = (
    "checkpoints",
    "checkpoint_writes",
    "checkpoint_blobs",
    "aiodurable_runs",
    "aiodurable_fences",
)

CROWD = """
INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT 'thread-' || n, '', id || k, CASE WHEN k > 0 THEN id || k - 1 END,
       jsonb_build_object('v', 4, 'ts', '2026-01-01T00:00:00Z', 'updated_channels', '[]'::jsonb,
                          'channel_versions', jsonb_build_object('xs', id || k)),
       jsonb_build_object('step', k, 'aiodurable_run_id', 'run-' || n || '-' || n %% 2)
FROM generate_series(%(first)s::int, %(last)s::int) n,
     LATERAL (SELECT lpad(to_hex(n), 8, '0') || '-0000-6000-8000-00000000000' AS id) i, generate_series(0, 9) k;

INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob)
SELECT c.thread_id, '', c.checkpoint_id, 'task', i,
       CASE WHEN i = 1 AND c.thread_id LIKE '%%0' THEN '__error__' ELSE 'xs' END, 'msgpack', '\\xa161'
FROM checkpoints c, generate_series(0, 1) i
ON CONFLICT DO NOTHING;

INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT c.thread_id, '', 'xs', c.checkpoint_id, 'msgpack', '\\xa161' FROM checkpoints c
ON CONFLICT DO NOTHING;

INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, fencing_token, seq, status)
SELECT 'run-' || n || '-' || k, 'thread-' || n, n, 1, k, CASE WHEN n %% 10 = 0 AND k = 1 THEN 'failed' ELSE 'complete' END
FROM generate_series(%(first)s::int, %(last)s::int) n, generate_series(0, 1) k;

INSERT INTO aiodurable_fences (thread_id, token) SELECT 'thread-' || n, 1 FROM generate_series(%(first)s::int, %(last)s::int) n;

"""
"""Threads of ten checkpoints and two runs, one in ten failed. Of every second one a run of no
checkpoint is the newest.
"""

COMMIT_PARTS = ("lost", "replaced", "consumed")

On = Literal["pool", "link", "search"]


@dataclass(frozen=True)
class Statement:
    """A block of SQL, and arguments for it.

    Attributes:
        name: of the block, and for how many threads.
        sql: with its comment, as it is run.
        values: the arguments.
        rows: of tables and of what is built of them, that it cannot do without.
        on: which connections run it.
        scans: it says itself that it reads all checkpoints.
    """

    name: str
    sql: str
    values: Sequence[Any]
    rows: int
    on: On = "pool"
    scans: bool = False

    @property
    def comment(self) -> str:
        """What the block says of itself, and what the blocks say that are part of it."""
        words = "\n".join(line for line in self.sql.splitlines() if line.lstrip().startswith("--"))
        return words.replace("primary keys", " ".join(f"{table}_pkey" for table in TABLES[:3]))


def _ids(count: int) -> list[str]:
    return [f"thread-{n}" for n in range(1, count + 1)]


def _heads(count: int, last: str = "9") -> list[str]:
    return [f"{n:08x}-0000-6000-8000-00000000000{last}" for n in range(1, count + 1)]


def _runs(count: int) -> list[str]:
    return [f"run-{n}-1" for n in range(1, count + 1)]


def _asked(count: int) -> tuple[Any, ...]:
    return _ids(count), list(range(1, count + 1)), False, None, None, None, None, None


def _started(count: int) -> tuple[Any, ...]:
    def each(value: Any) -> list[Any]:
        return [value] * count

    new = [f"new-{n}" for n in range(count)]
    stored = each(None), each(None), each(None), each(None), each(None), each(None)
    keys = list(range(1, count + 1))
    return (
        new,
        _ids(count),
        keys,
        each("graph"),
        each(1),
        each(0),
        each("host:1"),
        each(1),
        *stored,
        each(None),
        each("superseded"),
    )


def _committed(count: int) -> tuple[Any, ...]:
    def each(value: Any) -> list[Any]:
        return [value] * count

    def write(task: str, channel: str) -> tuple[Any, ...]:
        value = each(channel), each("msgpack"), each(b"\xa1a")
        return _ids(count), each(""), _heads(count), each(task), each("~p"), each(0), *value

    blobs = _ids(count), each(""), each("xs"), _heads(count, "a"), each("msgpack"), each(b"\xa1a")
    heads = _ids(count), each(""), _heads(count, "a"), _heads(count), each("{}"), each("{}")
    proved = _ids(count), each(""), _heads(count), each("task"), each(0), each(None), each(1)
    return (
        _ids(count),
        each(1),
        each(0),
        *blobs,
        *heads,
        *write("other", "xs"),
        *write("task", "__error__"),
        *proved,
        _runs(count),
        _ids(count),
    )


def _all() -> list[Statement]:
    threads, runs, copying = map(load, ("threads", "runs", "copy"))
    checkpoints = load("checkpoints", *COMMIT_PARTS)
    answers = load("answers")
    retention = load("prune")
    one, head = "thread-7", _heads(7)[-1]
    found = [
        Statement("held_keys", threads["held_keys"], (), 3000),
        Statement("held_keys_of_no_run", threads["held_keys_of_no_run"], (), 3000),
        Statement("live_runs", threads["live_runs"], (), 300),
        Statement("history", threads["history"], (one, None, 10), 60),
        Statement("started_nodes", threads["started_nodes"], (one, head), 5),
        Statement("sample", threads["sample"], (5,), 60_000),
        Statement("threads_all", threads["threads_all"], ("", 100), 200, "search"),
        Statement(
            "threads_indexed",
            threads["threads_indexed"],
            ("", 100, ["__error__"], ["failed"]),
            1500,
            "search",
        ),
        Statement("threads_resumable", threads["threads_resumable"], ("", 100), 1500, "search"),
        Statement("lock_empty_thread", copying["lock_empty_thread"], (one,), 4),
        Statement("copy_checkpoint", copying["copy_checkpoint"], (one, "copy", head, True), 100),
        Statement("get", runs["get"], ("run-7-0",), 12),
        Statement("newest", runs["newest"], (one,), 5),
        Statement("retry", runs["retry"], ("run-7-1", 1, 0, "host:1", 2, 20, head), 3),
        Statement("not_started", runs["not_started"], (one, "run-7-1", 1), 2),
        Statement("complete_by_tables", runs["complete_by_tables"], ("run-7-1", 1, 0, None), 2),
        Statement("request_cancel", runs["request_cancel"], (one, "channel"), 1),
        Statement("cancelling", runs["cancelling"], (), 0),
        Statement("at_work", runs["at_work"], ("run-7-1",), 3001),
        Statement("settle_cancelled", runs["settle_cancelled"], ("run-7-1", 1, 0, head), 2),
        Statement(
            "fork",
            runs["fork"],
            ("new", "t", 1, None, 1, "host:1", head, "reason", one, head, True),
            2,
        ),
        Statement("answered", answers["answered"], (one,), 5),
        Statement(
            "answer", answers["answer"], ("run-7-1", 1, 0, ["id"], ["digest"], None, None, []), 2
        ),
        Statement("answers_over", answers["answers_over"], ("run-7-1", 1, 0, []), 2),
        Statement("questions", answers["questions"], (one,), 60),
        Statement("drop_loose", answers["drop_loose"], (one, 1, 0), 40),
        Statement("token", checkpoints["token"], (one,), 1),
        Statement("raise_token", checkpoints["raise_token"], ([one], [7]), 1),
        Statement("copy_thread", checkpoints["copy_thread"], (one, "copy"), 40),
        Statement("has_checkpoints", checkpoints["has_checkpoints"], ("nobody",), 0),
        Statement("repair", checkpoints["repair"], (one, 1, 0), 60),
        Statement("threads_on_pages", retention["threads_on_pages"], (0, 8, head, False), 500),
        Statement("sizes", retention["sizes"], (), 0),
        Statement("finished_runs", retention["finished_runs"], (0, 4, "2999-01-01", None), 2500),
        Statement(
            "threads_without_checkpoint", retention["threads_without_checkpoint"], (0, 4), 500
        ),
        Statement("idle_fences", retention["idle_fences"], (0, 4, 3_600_000, True), 3000),
        Statement(
            "threads_of_runs", checkpoints["threads_of_runs"], (["run-7-1"],), 30_000, scans=True
        ),
    ]
    for n in (1, 100):
        ids, bare = _ids(n), [""] * n
        tasks, heads = ["a:1"] * n, _heads(n)
        fresh = [f"fresh-{k}" for k in range(n)]
        found += [
            Statement(f"classify {n}", threads["classify"], _asked(n), 16 * n),
            Statement(f"classify {n} of a run", threads["classify"], _asked(n), 16 * n, "link"),
            *(
                Statement(f"{name} {n}", threads[name], _asked(n), 17 * n)
                for name in ("classified_heads", "classified_statuses", "classified_counts")
            ),
            Statement(
                f"failed_inside {n}",
                threads["failed_inside"],
                (ids, tasks, ["a"] * n, heads),
                3 * n,
            ),
            Statement(f"start {n}", runs["start"], _started(n), 8 * n, "link"),
            # A hundred runs end at once at most, and are compared with each other.
            Statement(
                f"end {n}",
                runs["end"],
                (*_asked(n), _runs(n), [1] * n, [0] * n, [True] * n),
                19 * n + 2 * n * n,
                "link",
            ),
            Statement(
                f"complete {n}",
                runs["complete"],
                (_runs(n), [1] * n, [0] * n, ids, heads),
                9 * n,
                "link",
            ),
            Statement(
                f"finish {n}",
                runs["finish"],
                (
                    *(_runs(n), [1] * n, [0] * n, ids, ["failed"] * n),
                    *[[None] * n] * 4,
                    *([True] * n, [1.0] * n, [1] * n),
                ),
                3 * n,
                "link",
            ),
            Statement(f"commit {n}", checkpoints["commit"], _committed(n), 10 * n, "link"),
            Statement(
                f"lost_threads {n}",
                checkpoints["lost_threads"],
                _committed(n)[33:40],
                3 * n,
                "link",
            ),
            Statement(
                f"raise_tokens_skip_locked {n}",
                checkpoints["raise_tokens_skip_locked"],
                (ids + fresh, [7] * 2 * n),
                8 * n,
                "link",
            ),
            Statement(f"tokens {n}", checkpoints["tokens"], (ids,), n, "link"),
            Statement(f"hold_fences {n}", checkpoints["hold_fences"], (ids,), n),
            Statement(f"locked {n}", checkpoints["locked"], (list(range(1, n + 1)),), 2 * n),
            Statement(f"latest {n}", checkpoints["latest"], (ids, bare), 20 * n),
            Statement(f"sizes {n}", checkpoints["sizes"], (ids,), 20 * n),
            Statement(f"newest_of {n}", runs["newest_of"], (ids,), 20 * n),
            Statement(f"inner_checkpoints {n}", checkpoints["inner_checkpoints"], (ids,), 20 * n),
            Statement(
                f"insert_missing_fences {n}",
                checkpoints["insert_missing_fences"],
                (ids + fresh,),
                4 * n,
            ),
            Statement(f"delete_unused_fences {n}", checkpoints["delete_unused_fences"], (ids,), n),
            Statement(f"raise_fences {n}", checkpoints["raise_fences"], (ids,), n),
            Statement(f"raise_removed {n}", checkpoints["raise_removed"], (ids,), 3 * n),
            Statement(f"record_consumed {n}", checkpoints["record_consumed"], (ids,), 30 * n),
            Statement(
                f"delete_ledger_of_runs {n}",
                checkpoints["delete_ledger_of_runs"],
                (_runs(n), ids),
                40 * n,
            ),
            Statement(f"delete_threads {n}", checkpoints["delete_threads"], (ids,), 70 * n),
            Statement(f"built_on_runs {n}", checkpoints["built_on_runs"], (_runs(n), ids), 20 * n),
            Statement(f"delete_runs {n}", checkpoints["delete_runs"], (_runs(n), ids), 40 * n),
            Statement(
                f"threads_with_history {n}",
                retention["threads_with_history"],
                (ids, head, False),
                4 * n,
            ),
            Statement(f"tokens {n} to prune", retention["tokens"], (ids,), n),
            Statement(
                f"insert_missing_fences {n} to prune",
                retention["insert_missing_fences"],
                (fresh, [None] * n),
                n,
            ),
            Statement(
                f"prune {n}", retention["prune"], (ids, [1] * n, heads, False, False), 90 * n
            ),
            Statement(
                f"prune {n} whole", retention["prune"], (ids, [1] * n, heads, True, False), 90 * n
            ),
            Statement(
                f"delete_unused_fences {n} to prune", retention["delete_unused_fences"], (ids,), n
            ),
            Statement(
                f"remove_finished_runs {n}",
                retention["remove_finished_runs"],
                (_runs(n), "2999-01-01", False),
                8 * n,
            ),
            Statement(f"hold_idle_fences {n}", retention["hold_idle_fences"], (ids,), n),
            Statement(
                f"remove_idle_fences {n}",
                retention["remove_idle_fences"],
                (ids, list(range(1, n + 1)), 3_600_000),
                8 * n,
            ),
            Statement(f"clear_parents {n}", retention["clear_parents"], (ids, bare, heads), 3 * n),
            Statement(f"orphan_parents {n}", checkpoints["orphan_parents"], (ids,), 20 * n),
            Statement(f"orphan_blobs {n}", checkpoints["orphan_blobs"], (ids,), 30 * n),
        ]
    return found


STATEMENTS = {statement.name: statement for statement in _all()}
