"""Where the time of a durable run goes: the time line of a lone one, and the CPU of fifty at once
by part.

What is measured is the client. A statement's time is from its being sent to its answer: the wire,
the server, the disk, and the driver. The CPU is sampled, a stack each millisecond of it, and
counted for the innermost frame that is of a part.
"""

from __future__ import annotations

import functools
import signal
import statistics
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from aiodurable.checkpoints.encoding import COMMITS
from aiodurable.postgres.sql import load
from aiodurable.postgres.text_columns import over_texts
from aiodurable.runs.ledger_writes import END
from tests.support.sending import SENDS, text_of

from .contenders import CONTENDERS, OURS, Run
from .report import Row
from .runs import crowd

RUNS = 200
FILES = ("checkpoints", "runs", "threads", "locks")
NAMES: Mapping[str, str] = {
    **{text: f"{file}: {name}" for file in FILES for name, text in load(file).items()},
    **{over_texts(text)[0]: "checkpoints: commit" for text in COMMITS},
    over_texts(load("runs")["start"])[0]: "runs: start",
    END: "runs: end",
}
PARTS = ("aiodurable", "asyncpg", "langgraph", "langchain_core", "asyncio")
TIMELINE_HEADS = {
    "statement": "statement",
    "before_ms": "Python before, ms",
    "took_ms": "until its answer, ms",
}
CPU_HEADS = {"part": "part", "cpu_ms": "CPU ms a run", "share": "share"}


async def profile(dsn: str) -> tuple[list[Row], list[Row]]:
    """The rows of both tables, of the contender that is ours with a small state."""
    async with CONTENDERS[OURS](dsn, 0) as run:
        await crowd(run, 100, 50)
        return await _timeline(run), await _cpu(run)


async def _timeline(run: Run) -> list[Row]:
    """Medians over runs that asked for the same statements in the same order."""
    seen: dict[tuple[str, ...], list[list[float]]] = defaultdict(list)
    with _statements() as asked:
        for _ in range(RUNS):
            asked.clear()
            began = last = time.perf_counter()
            await run(uuid.uuid4().hex)
            ended = time.perf_counter()
            times: list[float] = []
            for _, sent, answered in asked:
                times += [sent - last, answered - sent]
                last = answered
            seen[tuple(name for name, *_ in asked)].append([*times, ended - last, ended - began])
    names, runs = max(seen.items(), key=lambda item: len(item[1]))
    *times, after, whole = (statistics.median(column) * 1000 for column in zip(*runs, strict=True))
    rows: list[Row] = [
        {"statement": name, "before_ms": before, "took_ms": took}
        for name, before, took in zip(names, times[::2], times[1::2], strict=True)
    ]
    rows.append({"statement": "(until it returns)", "before_ms": after, "took_ms": None})
    rows.append(
        {
            "statement": f"whole run, {whole:.2f} ms",
            "before_ms": sum(times[::2]) + after,
            "took_ms": sum(times[1::2]),
        }
    )
    return rows


@contextmanager
def _statements() -> Iterator[list[tuple[str, float, float]]]:
    """Each statement of this process as name, sent, answered: seen at the driver, in the order of
    their answers.
    """
    asked: list[tuple[str, float, float]] = []

    def seen(method: str, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def statement(driver: Any, *args: Any, **kwargs: Any) -> Any:
            text = text_of(driver, method, args)
            sent = time.perf_counter()
            try:
                return await original(driver, *args, **kwargs)
            finally:
                asked.append(
                    (NAMES.get(text, " ".join(text.split())[:40]), sent, time.perf_counter())
                )

        return statement

    methods = [(kind, name) for kind, names in SENDS.items() for name in names]
    originals = [getattr(kind, name) for kind, name in methods]
    for (kind, name), original in zip(methods, originals, strict=True):
        setattr(kind, name, seen(name, original))
    try:
        yield asked
    finally:
        for (kind, name), original in zip(methods, originals, strict=True):
            setattr(kind, name, original)


async def _cpu(run: Run) -> list[Row]:
    runs = 10 * RUNS
    parts: Counter[str] = Counter()

    def sample(number: int, frame: FrameType | None) -> None:
        del number
        parts[_part(frame)] += 1

    before = signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    began = time.process_time()
    try:
        await crowd(run, runs, 50)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    each, samples = (time.process_time() - began) * 1000 / runs, sum(parts.values())
    return [
        {"part": part, "cpu_ms": each * count / samples, "share": count / samples}
        for part, count in parts.most_common()
    ]


def _part(frame: FrameType | None) -> str:
    """The innermost part on the stack; for aiodurable, its package. asyncio only if no other part
    is on it.
    """
    while frame is not None:
        module: str = frame.f_globals.get("__name__", "")
        top, _, rest = module.partition(".")
        if top in PARTS:
            return f"{top}.{rest.partition('.')[0]}" if top == "aiodurable" and rest else top
        frame = frame.f_back
    return "else"
