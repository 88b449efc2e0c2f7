"""Every statement about threads, runs and checkpoints, with arguments that fit the crowd below and
what it has to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from aiodurable.postgres.sql import load

TABLES = (
    "checkpoints",
    "checkpoint_writes",
    "checkpoint_blobs",
    "aiodurable_runs",
    "aiodurable_fences",
    "aiodurable_effects",
    "aiodurable_signals",
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

INSERT INTO aiodurable_signals (thread_id, name, position, signal_id)
SELECT 'thread-' || n, 'payment', n, 'sent' FROM generate_series(%(first)s::int, %(last)s::int) n;

INSERT INTO aiodurable_fences (thread_id, token) SELECT 'thread-' || n, 1 FROM generate_series(%(first)s::int, %(last)s::int) n;

INSERT INTO aiodurable_effects (thread_id, task, name, state, begin_id, run_id, begun_by, checkpoint_id)
SELECT 'thread-' || n, 'node:' || k, 'charge', 'begun', n, 'run-' || n || '-0', 'host:1',
       lpad(to_hex(n), 8, '0') || '-0000-6000-8000-00000000000' || k
FROM generate_series(%(first)s::int, %(last)s::int) n, generate_series(0, 9) k;

"""
"""Threads of ten checkpoints and two runs, one in ten failed. Of every second one a run of no
checkpoint is the newest.
"""

PARTS = {
    "checkpoints": ("again", "lost", "replaced", "consumed"),
    "busy": ("own_transaction",),
    "queue": ("own_transaction",),
    "signals": ("own_transaction",),
}
"""The parts of the statements that most callers send, by file."""
ENDING_PARTS = ("consumed", "ended")
"""Of a batch in which runs end: in none of these is a commit proved or replaced."""

On = Literal["pool", "link", "search"]


@dataclass(frozen=True)
class Statement:
    """A block of SQL, and arguments for it.

    Attributes:
        name: of the block, and for how many threads.
        sql: with its comment, as it is run.
        values: the arguments, in the order of the parameters.
        rows: of tables and of what is built of them, that it cannot do without (`Budget`).
        on: which connections run it.
        scans: it says itself that it reads all checkpoints.
    """

    name: str
    sql: str
    _: KW_ONLY
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


def _runs(count: int, which: int = 1) -> list[str]:
    return [f"run-{n}-{which}" for n in range(1, count + 1)]


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
        each(None),
        False,
    )


def _committed(count: int) -> tuple[Any, ...]:
    def each(value: Any) -> list[Any]:
        return [value] * count

    place = 1 << 32 | 2

    def write(task: str, channel: str) -> tuple[Any, ...]:
        value = each(channel), each("msgpack"), each(place)
        return _ids(count), each(""), _heads(count), each(task), each("~p"), each(0), *value

    blobs = _ids(count), each(""), each("xs"), _heads(count, "a"), each("msgpack"), each(place)
    heads = _ids(count), each(""), _heads(count, "a"), _heads(count), each("{}"), each("{}")
    proved = _ids(count), each(""), _heads(count), each("task"), each(0), each(None), each(1)
    return (
        _ids(count),
        each(1),
        each(0),
        b"\xa1a",
        *blobs,
        *heads,
        *write("other", "xs"),
        *write("task", "__error__"),
        *proved,
        _runs(count),
        _ids(count),
        _runs(count, 0),
        _ids(count),
        [*range(1, count + 1)],
        _heads(count, "b"),
    )


def _committed_one(*run: str) -> tuple[Any, ...]:
    """Of the thread "thread-7"; `run` and what else is about a run."""
    place, head, new = 1 << 32 | 2, _heads(7)[-1], _heads(7, "a")[-1]
    blobs = [""], ["xs"], [new], ["msgpack"], [place]
    heads = [""], [new], [head], ["{}"], ["{}"]
    writes = [""], [head], ["other"], ["~p"], [0], ["xs"], ["msgpack"], [place]
    return "thread-7", 1, 0, b"\xa1a", *blobs, *heads, *writes, *run


def _all() -> list[Statement]:
    threads, runs, copying = map(load, ("threads", "runs", "copy"))
    checkpoints = load("checkpoints", *PARTS["checkpoints"])
    ending = load("checkpoints", *ENDING_PARTS)
    answers, busy = load("answers"), load("busy", *PARTS["busy"])
    retention, effects = load("prune"), load("effects")
    signals = load("signals", *PARTS["signals"])
    why, verify = load("why"), load("verify")
    one, head = "thread-7", _heads(7)[-1]
    found = [
        Statement(
            "commit_one",
            checkpoints["commit_one"],
            values=_committed_one("run-7-1"),
            rows=10,
            on="link",
        ),
        Statement(
            "commit_one that ends a run",
            load("checkpoints", "ended")["commit_one"],
            values=_committed_one("run-7-0", _heads(7, "b")[-1]),
            rows=10,
            on="link",
        ),
        Statement("held_keys", threads["held_keys"], values=(), rows=3000),
        Statement("held_keys_of_no_run", threads["held_keys_of_no_run"], values=(), rows=3000),
        Statement("live_runs", threads["live_runs"], values=(), rows=300),
        Statement("history", threads["history"], values=(one, None, 10), rows=60),
        Statement("inner_progress", checkpoints["inner_progress"], values=(one, [], 1000), rows=10),
        Statement("verify page", verify["page"], values=("", 100), rows=600),
        Statement("verify lines", verify["lines"], values=(_ids(100),), rows=12_000),
        Statement("verify values", verify["values"], values=(_ids(100),), rows=5_000),
        Statement("verify rows", verify["rows"], values=(_ids(100),), rows=6_000),
        Statement("verify ledger", verify["ledger"], values=(_ids(100),), rows=2_500),
        Statement("verify stuck", verify["stuck"], values=(_ids(100), 60.0, 60.0), rows=500),
        Statement("why thread", why["thread"], values=(one,), rows=60),
        Statement("why runs", why["runs"], values=(one, 10.0, 60.0, 10), rows=120),
        Statement("started_nodes", threads["started_nodes"], values=(one, head), rows=5),
        Statement("sample", threads["sample"], values=(5,), rows=60_000),
        Statement("threads_all", threads["threads_all"], values=("", 100), rows=200, on="search"),
        Statement(
            "threads_indexed",
            threads["threads_indexed"],
            values=("", 100, ["__error__"], ["failed"]),
            rows=1500,
            on="search",
        ),
        Statement(
            "threads_resumable",
            threads["threads_resumable"],
            values=("", 100),
            rows=1500,
            on="search",
        ),
        Statement("lock_empty_thread", copying["lock_empty_thread"], values=(one,), rows=4),
        Statement(
            "copy_checkpoint",
            copying["copy_checkpoint"],
            values=(one, "copy", head, True),
            rows=100,
        ),
        Statement("get", runs["get"], values=(["run-7-0"],), rows=12),
        # Of a thread that no other statement writes to: how many versions of its runs those left
        # when they were undone depends on their order.
        Statement("newest", runs["newest"], values=("thread-2500",), rows=5),
        Statement(
            "retry", runs["retry"], values=("run-7-1", 1, 0, "host:1", 2, 20, head, None), rows=3
        ),
        Statement("not_started", runs["not_started"], values=(one, "run-7-1", 1), rows=2),
        Statement(
            "complete_by_tables", runs["complete_by_tables"], values=("run-7-1", 1, 0, None), rows=2
        ),
        Statement("request_cancel", runs["request_cancel"], values=(one, "channel"), rows=1),
        Statement("cancelling", runs["cancelling"], values=(), rows=0),
        Statement("at_work", runs["at_work"], values=("run-7-1",), rows=3001),
        Statement(
            "settle_cancelled", runs["settle_cancelled"], values=("run-7-1", 1, 0, head), rows=2
        ),
        Statement(
            "fork",
            runs["fork"],
            values=("new", "t", 1, None, 1, "host:1", head, "reason", one, head, True),
            rows=2,
        ),
        Statement(
            "interrupt", busy["interrupt"], values=([one], ["new"], [True], [], "channel"), rows=8
        ),
        Statement(
            "interrupt 20",
            busy["interrupt"],
            values=(_ids(20), [f"new-{n}" for n in range(20)], [False] * 20, [], "channel"),
            rows=160,
        ),
        Statement("locked_threads", busy["locked_threads"], values=(_ids(20),), rows=160),
        Statement(
            "interrupt_again",
            busy["interrupt_again"],
            values=(one, "new", 1, 0, "channel", True),
            rows=1,
        ),
        Statement("left", busy["left"], values=(one, "run-7-1"), rows=3),
        Statement("place", busy["place"], values=(one, "run-7-1"), rows=2),
        Statement("waits_before", busy["waits_before"], values=(one, 7, "run-7-1"), rows=1),
        Statement("off_the_line", busy["off_the_line"], values=(one, _heads(7, "4")[-1]), rows=10),
        Statement("keep", busy["keep"], values=("run-7-1",), rows=1),
        Statement(
            "roll_back", busy["roll_back"], values=(one, "run-7-1", _heads(7, "4")[-1]), rows=120
        ),
        Statement("answered", answers["answered"], values=(one,), rows=5),
        Statement(
            "answer",
            answers["answer"],
            values=("run-7-1", 1, 0, ["id"], ["digest"], None, None, []),
            rows=2,
        ),
        Statement(
            "answer_with_signals",
            answers["answer_with_signals"],
            values=(
                *("run-7-1", 1, 0, ["id"], ["digest"], None, None, []),
                *(one, ["payment"], [7], [False]),
            ),
            rows=4,
        ),
        Statement(
            "send",
            signals["send"],
            values=(one, "payment", "once", None, None, False),
            rows=4,
            on="link",
        ),
        Statement("mailbox", signals["mailbox"], values=(one, ["payment"]), rows=2, on="link"),
        Statement(
            "sleep_on",
            signals["sleep_on"],
            values=("run-7-1", 1, 0, "paused", "waiting", head, "payment", None, "host:1"),
            rows=4,
            on="link",
        ),
        Statement("stop", signals["stop"], values=(one,), rows=2, on="link"),
        Statement("unheard", signals["unheard"], values=(600.0, 20), rows=80, on="link"),
        Statement(
            "answers_over",
            answers["answers_over"],
            values=("run-7-1", 1, 0, [], None, None),
            rows=2,
        ),
        Statement("questions", answers["questions"], values=(one,), rows=60),
        Statement("drop_stray_answer", answers["drop_stray_answer"], values=(one, 1, 0), rows=40),
        Statement("token", checkpoints["token"], values=(one,), rows=1),
        Statement("raise_token", checkpoints["raise_token"], values=([one], [7]), rows=1),
        Statement(
            "token_on_disk", checkpoints["token_on_disk"], values=(one, 1, 7), rows=1, on="link"
        ),
        Statement("copy_thread", checkpoints["copy_thread"], values=(one, "copy"), rows=40),
        Statement(
            "remove_past_effects", checkpoints["remove_past_effects"], values=(one,), rows=40
        ),
        Statement("has_checkpoints", checkpoints["has_checkpoints"], values=("nobody",), rows=0),
        Statement("repair", checkpoints["repair"], values=(one, 1, 0), rows=60),
        Statement(
            "threads_on_pages", retention["threads_on_pages"], values=(0, 8, head, False), rows=500
        ),
        Statement("sizes", retention["sizes"], values=(), rows=0),
        Statement(
            "finished_runs",
            retention["finished_runs"],
            values=(0, 4, "2999-01-01", None),
            rows=2500,
        ),
        Statement(
            "threads_without_checkpoint",
            retention["threads_without_checkpoint"],
            values=(0, 4),
            rows=500,
        ),
        Statement(
            "stray_signals", retention["stray_signals"], values=(0, 4, "2999-01-01"), rows=1500
        ),
        Statement(
            "idle_fences", retention["idle_fences"], values=(0, 4, 3_600_000, True), rows=3000
        ),
        Statement(
            "threads_of_runs",
            checkpoints["threads_of_runs"],
            values=(["run-7-1"],),
            rows=30_000,
            scans=True,
        ),
    ]
    for n in (1, 100):
        ids, bare = _ids(n), [""] * n
        tasks, heads = ["a:1"] * n, _heads(n)
        fresh = [f"fresh-{k}" for k in range(n)]
        found += [
            Statement(f"classify {n}", threads["classify"], values=_asked(n), rows=16 * n),
            Statement(
                f"classify {n} of a run",
                threads["classify"],
                values=_asked(n),
                rows=16 * n,
                on="link",
            ),
            *(
                Statement(f"{name} {n}", threads[name], values=_asked(n), rows=17 * n)
                for name in ("classified_heads", "classified_statuses", "classified_counts")
            ),
            Statement(
                f"failed_inside {n}",
                threads["failed_inside"],
                values=(ids, tasks, ["a"] * n, heads),
                rows=3 * n,
            ),
            Statement(f"start {n}", runs["start"], values=_started(n), rows=8 * n, on="link"),
            # A hundred runs end at once at most, and are compared with each other.
            Statement(
                f"end {n}",
                runs["end"],
                values=(*_asked(n), _runs(n), [1] * n, [0] * n, [True] * n),
                rows=19 * n + 2 * n * n,
                on="link",
            ),
            Statement(
                f"complete {n}",
                runs["complete"],
                values=(_runs(n), [1] * n, [0] * n, ids, heads),
                rows=9 * n,
                on="link",
            ),
            Statement(
                f"finish {n}",
                runs["finish"],
                values=(
                    *(_runs(n), [1] * n, [0] * n, ids, ["failed"] * n),
                    *[[None] * n] * 4,
                    *([True] * n, [1.0] * n, [1] * n, [None] * n, [None] * n),
                ),
                rows=3 * n,
                on="link",
            ),
            Statement(
                f"unfinished {n}",
                runs["unfinished"],
                values=(_runs(n), [1] * n, [0] * n, heads),
                rows=3 * n,
                on="link",
            ),
            Statement(
                f"finish {n} asleep",
                runs["finish"],
                values=(
                    *(_runs(n), [1] * n, [0] * n, ids, ["paused"] * n),
                    *[[None] * n] * 4,
                    *([True] * n, [None] * n, [None] * n, ["payment"] * n, [None] * n),
                ),
                rows=4 * n,
                on="link",
            ),
            Statement(
                f"effects of a thread {n}", effects["of_thread"], values=(ids[-1], 10), rows=30
            ),
            Statement(
                f"begin {n} effects",
                effects["begin"],
                values=(
                    *(ids, [1] * n, [0] * n, ["node:1"] * n, ["charge"] * n),
                    *(list(range(1, n + 1)), [None] * n, [None] * n, _runs(n), ["host:1"] * n),
                    heads,
                ),
                rows=6 * n + 2 * n * n,
                on="link",
            ),
            Statement(
                f"finish {n} effects",
                effects["finish"],
                values=(
                    *(ids, [1] * n, [0] * n, ["node:1"] * n, ["charge"] * n),
                    *(list(range(1, n + 1)), ["done"] * n, [None] * n),
                    *(["msgpack"] * n, [b"\xa1a"] * n),
                ),
                rows=4 * n,
                on="link",
            ),
            Statement(
                f"commit {n}",
                checkpoints["commit"],
                values=_committed(n)[:-4],
                rows=10 * n,
                on="link",
            ),
            Statement(
                f"commit {n} that ends runs",
                ending["commit"],
                values=_committed(n)[:25] + _committed(n)[41:],
                rows=10 * n,
                on="link",
            ),
            Statement(
                f"lost_threads {n}",
                checkpoints["lost_threads"],
                values=_committed(n)[34:41],
                rows=3 * n,
                on="link",
            ),
            Statement(
                f"raise_free {n}",
                checkpoints["raise_free"],
                values=(ids + fresh, [7] * 2 * n),
                rows=4 * n,
                on="link",
            ),
            Statement(
                f"make_missing {n}",
                checkpoints["make_missing"],
                values=(ids + fresh, [7] * 2 * n),
                rows=6 * n,
                on="link",
            ),
            Statement(f"tokens {n}", checkpoints["tokens"], values=(ids,), rows=n, on="link"),
            Statement(f"hold_fences {n}", checkpoints["hold_fences"], values=(ids,), rows=n),
            Statement(
                f"locked {n}", checkpoints["locked"], values=(list(range(1, n + 1)),), rows=2 * n
            ),
            Statement(f"latest {n}", checkpoints["latest"], values=(ids, bare), rows=20 * n),
            Statement(f"sizes {n}", checkpoints["sizes"], values=(ids,), rows=20 * n),
            Statement(f"newest_of {n}", runs["newest_of"], values=(ids,), rows=20 * n),
            Statement(
                f"inner_checkpoints {n}",
                checkpoints["inner_checkpoints"],
                values=(ids,),
                rows=20 * n,
            ),
            Statement(
                f"insert_missing_fences {n}",
                checkpoints["insert_missing_fences"],
                values=(ids + fresh,),
                rows=4 * n,
            ),
            Statement(
                f"remove_stray_signals {n}",
                retention["remove_stray_signals"],
                values=(ids, "2999-01-01"),
                rows=4 * n,
            ),
            Statement(
                f"delete_unused_fences {n}",
                checkpoints["delete_unused_fences"],
                values=(ids,),
                rows=n,
            ),
            Statement(f"raise_fences {n}", checkpoints["raise_fences"], values=(ids,), rows=n),
            Statement(
                f"raise_removed {n}", checkpoints["raise_removed"], values=(ids,), rows=3 * n
            ),
            Statement(
                f"record_consumed {n}", checkpoints["record_consumed"], values=(ids,), rows=30 * n
            ),
            Statement(
                f"delete_ledger_of_runs {n}",
                checkpoints["delete_ledger_of_runs"],
                values=(_runs(n), ids),
                rows=40 * n,
            ),
            Statement(
                f"delete_effects_of_runs {n}",
                checkpoints["delete_effects_of_runs"],
                values=(_runs(n), ids),
                rows=20 * n,
            ),
            Statement(
                f"delete_threads {n}", checkpoints["delete_threads"], values=(ids,), rows=70 * n
            ),
            Statement(
                f"built_on_runs {n}",
                checkpoints["built_on_runs"],
                values=(_runs(n), ids),
                rows=20 * n,
            ),
            Statement(
                f"delete_runs {n}", checkpoints["delete_runs"], values=(_runs(n), ids), rows=40 * n
            ),
            Statement(
                f"threads_with_history {n}",
                retention["threads_with_history"],
                values=(ids, head, False, 0, 2**32 - 1),
                rows=4 * n,
            ),
            Statement(f"tokens {n} to prune", retention["tokens"], values=(ids,), rows=n),
            Statement(
                f"insert_missing_fences {n} to prune",
                retention["insert_missing_fences"],
                values=(fresh,),
                rows=n,
            ),
            Statement(
                f"prune {n}",
                retention["prune"],
                values=(ids, [1] * n, [0] * n, heads, False, False, 1000),
                rows=90 * n,
            ),
            Statement(
                f"prune {n} whole",
                retention["prune"],
                values=(ids, [1] * n, [0] * n, heads, True, False, 1000),
                rows=90 * n,
            ),
            Statement(
                f"delete_unused_fences {n} to prune",
                retention["delete_unused_fences"],
                values=(ids,),
                rows=n,
            ),
            Statement(
                f"remove_finished_runs {n}",
                retention["remove_finished_runs"],
                values=(_runs(n), "2999-01-01", False),
                rows=8 * n,
            ),
            Statement(
                f"hold_idle_fences {n}", retention["hold_idle_fences"], values=(ids,), rows=n
            ),
            Statement(
                f"remove_idle_fences {n}",
                retention["remove_idle_fences"],
                values=(ids, list(range(1, n + 1)), 3_600_000),
                rows=8 * n,
            ),
            Statement(
                f"clear_parents {n}",
                retention["clear_parents"],
                values=(ids, bare, heads),
                rows=3 * n,
            ),
            Statement(
                f"orphan_parents {n}", checkpoints["orphan_parents"], values=(ids,), rows=20 * n
            ),
            Statement(f"orphan_blobs {n}", checkpoints["orphan_blobs"], values=(ids,), rows=30 * n),
        ]
    return found


STATEMENTS = {statement.name: statement for statement in _all()}
