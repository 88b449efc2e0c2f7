"""`crash_everywhere`: kill a run at each of its moments, and see what becomes of it."""

from __future__ import annotations

import asyncio
import pickle
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, Unpack
from uuid import uuid4

from langchain_core.runnables import RunnableConfig

from aiodurable.dsn import parse_dsn
from aiodurable.durable import Durable
from aiodurable.embedded import EmbeddedPostgres
from aiodurable.errors import ConfigurationError, InvalidArgumentError
from aiodurable.settings import Settings
from aiodurable.shield import run_to_completion
from aiodurable.testing.crash_process import Ended, Given, Job
from aiodurable.testing.crash_program import CrashProgram
from aiodurable.testing.crash_report import CrashReport, NodeReport, NodeVerdict, PointReport
from aiodurable.testing.graph_reference import GraphSource, reference_of
from aiodurable.testing.moments import Journal, Moment, different_moments
from aiodurable.thread_id import validate_thread_id

__all__ = ["CrashOptions", "acrash_everywhere", "crash_everywhere"]

Points = Literal["writes+nodes", "writes", "nodes"]
Compare = Callable[[dict[str, Any], dict[str, Any]], bool]

_KINDS: Final = {"writes+nodes": ("write", "node"), "writes": ("write",), "nodes": ("node",)}
_MISSING: Final = object()


class CrashOptions(TypedDict, total=False):
    """The options of `crash_everywhere`."""

    thread_id: str
    """The beginning of the threads' ids: each kill has a thread of its own. Default: "crash"."""
    config: RunnableConfig | None
    context: Any
    """As for `Durable.run`."""
    answers: Sequence[Any] | Callable[[Any], Any]
    """The answers to the graph's questions, in their order; or a function of a module that gets
    what a question shows and returns the answer. Gates are passed without one.
    """
    points: Points
    """Which moments: "writes+nodes" (the default), "writes" or "nodes"."""
    max_points: int
    """Kills, at most; of more moments a sample. Default: 200."""
    seed: int
    """Chooses the sample. Default: 0."""
    compare: Compare | None
    """Whether two final states, by channel, are the same; None: each channel is equal."""
    ignore: Collection[str]
    """Channels that may differ, such as times or random ids."""
    timeout_s: float
    """Seconds that one process may take. Default: 60."""
    dsn: str | None
    """The database, in which the threads are deleted at the end; None: an embedded Postgres (the
    extra `embedded`).
    """


def crash_everywhere(
    graph: GraphSource, input: Any, **options: Unpack[CrashOptions]
) -> CrashReport:
    """Run a graph, kill its process at each moment in turn, go on in another process, and compare
    the final states.

    The processes are real, and die by SIGKILL: before and after each statement that writes, and
    where each node begins and ends. Moments between which nothing happens are one.

    Args:
        graph: `"module:attribute"`, or a graph or a function that another process can import or
            unpickle; the function returns the graph.
        input: the graph's input.
        options: see `CrashOptions`: thread_id, config, context, answers, points, max_points, seed,
            compare, ignore, timeout_s, dsn.

    Returns:
        What each kill did to the final state and to each node.

    Raises:
        InvalidArgumentError: an argument cannot be used, or does not reach another process.
        ConfigurationError: the undisturbed run does not come to its end, or two of them end
            differently; or this was called in an event loop, where `acrash_everywhere` belongs.
    """
    crashes = _Crashes(graph, input, **options)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return crashes.test()
    raise ConfigurationError(
        "cannot block the event loop for a crash test: await acrash_everywhere(…)"
    )


async def acrash_everywhere(
    graph: GraphSource, input: Any, **options: Unpack[CrashOptions]
) -> CrashReport:
    """`crash_everywhere` for async tests: it blocks an OS thread of its own, not the event loop.

    A cancellation ends the processes that it has started.
    """
    crashes = _Crashes(graph, input, **options)
    thread = asyncio.ensure_future(asyncio.to_thread(crashes.test))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        crashes.stop[0] = True
        await run_to_completion(_ended(thread))
        raise


async def _ended(thread: asyncio.Future[CrashReport]) -> None:
    await asyncio.wait([thread])
    if not thread.cancelled():
        thread.exception()  # seen: nobody else reads it


class _Crashes:
    """One crash test."""

    def __init__(
        self,
        graph: GraphSource,
        input: Any,
        *,
        thread_id: str = "crash",
        config: RunnableConfig | None = None,
        context: Any = None,
        answers: Sequence[Any] | Callable[[Any], Any] = (),
        points: Points = "writes+nodes",
        max_points: int = 200,
        seed: int = 0,
        compare: Compare | None = None,
        ignore: Collection[str] = (),
        timeout_s: float = 60.0,
        dsn: str | None = None,
    ) -> None:
        validate_thread_id(f"{thread_id}-{uuid4()}-undisturbed")
        if points not in _KINDS:
            raise InvalidArgumentError(
                f"cannot kill at points={points!r}: choose from {', '.join(_KINDS)}",
                argument="points",
            )
        for name, value in (("max_points", max_points), ("timeout_s", timeout_s)):
            if not value > 0:
                raise InvalidArgumentError(
                    f"cannot test crashes with {name}={value!r}: it must be greater than 0",
                    argument=name,
                )
        self._graph = reference_of(graph)
        try:
            self._given = pickle.dumps(
                Given(input, config, context, answers if callable(answers) else list(answers))
            )
        except Exception as error:  # whatever a value raises
            raise InvalidArgumentError(
                "cannot pass input, config, context and answers to another process: one of them"
                f" does not pickle ({type(error).__name__}); a function must be one of a module"
            ) from error
        self._prefix = f"{thread_id}-{uuid4().hex[:8]}"
        self._kinds = _KINDS[points]
        self._max_points, self._seed = max_points, seed
        self._compare = compare
        self._ignore = frozenset([ignore] if isinstance(ignore, str) else ignore)
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._threads = list[str]()
        self.stop = [False]

    def test(self) -> CrashReport:
        """Run it; blocks."""
        began = time.monotonic()
        with (
            _database(self._dsn) as url,
            tempfile.TemporaryDirectory(prefix="aiodurable-crash-") as folder,
            CrashProgram(self._graph, self.stop, self._timeout_s) as program,
        ):
            asyncio.run(_migrate(url))
            start = partial(self._run, program, url, Path(folder))
            try:
                report = self._kill_everywhere(start)
            finally:
                if self._dsn is not None and not self.stop[0]:
                    asyncio.run(_delete(url, self._threads))
        return replace(report, duration_s=time.monotonic() - began)

    def _kill_everywhere(self, start: Callable[..., tuple[Ended, Journal]]) -> CrashReport:
        expected, undisturbed = _ended_well(*start("undisturbed"))
        again, _ = _ended_well(*start("undisturbed-again"))
        if differing := self._differing(expected, again):
            raise ConfigurationError(
                "cannot compare final states: two undisturbed runs differ in"
                f" {', '.join(name or 'the result' for name in differing)}; name these channels in"
                " ignore=, or pass compare="
            )
        moments = [
            moment
            for moment in different_moments(undisturbed.moments())
            if moment.kind in self._kinds
        ]
        chosen = range(len(moments))
        if len(moments) > self._max_points:
            chosen = sorted(random.Random(self._seed).sample(chosen, self._max_points))
        points = [
            self._kill(start, number, moments[number], expected, undisturbed) for number in chosen
        ]
        return CrashReport(
            nodes=_nodes(undisturbed, points),
            points=tuple(points),
            of_points=len(moments),
            seed=self._seed,
            duration_s=0.0,
        )

    def _kill(
        self,
        start: Callable[..., tuple[Ended, Journal]],
        number: int,
        moment: Moment,
        expected: dict[str, Any],
        undisturbed: Journal,
    ) -> PointReport:
        ended, journal = start(str(number), moment)
        reached = ended.killed
        if reached:
            ended, journal = start(str(number))
        problem = "its second process was killed" if ended.killed else ended.problem
        differing = ()
        if problem is None:
            assert ended.values is not None
            differing = self._differing(expected, pickle.loads(ended.values))  # noqa: S301 - ours
        repeated = journal.runs() - undisturbed.runs()
        return PointReport(str(moment), reached, dict(repeated), differing, problem)

    def _run(
        self,
        program: CrashProgram,
        url: str,
        folder: Path,
        name: str,
        death: Moment | None = None,
    ) -> tuple[Ended, Journal]:
        thread_id = f"{self._prefix}-{name}"
        if thread_id not in self._threads:
            self._threads.append(thread_id)
        path = folder / f"{name}.jsonl"
        job = Job(url, thread_id, str(path), death, self._timeout_s, self._given)
        return program.do(job), Journal(path)

    def _differing(self, expected: dict[str, Any], found: dict[str, Any]) -> tuple[str, ...]:
        """The channels that differ."""
        one, other = (
            {name: value for name, value in values.items() if name not in self._ignore}
            for values in (expected, found)
        )
        differing = tuple(
            name
            for name in {**one, **other}
            if not _equal(one.get(name, _MISSING), other.get(name, _MISSING))
        )
        if self._compare is None:
            return differing
        return () if self._compare(one, other) else differing or tuple(one)


def _equal(one: Any, other: Any) -> bool:
    """Also of objects that do not say when they are equal."""
    with suppress(Exception):  # an array's comparison is no bool
        if bool(one == other):
            return True
    return (
        one is not _MISSING and other is not _MISSING and pickle.dumps(one) == pickle.dumps(other)
    )


def _ended_well(ended: Ended, journal: Journal) -> tuple[dict[str, Any], Journal]:
    if ended.values is None:
        raise ConfigurationError(
            f"cannot test crashes: the undisturbed run does not come to its end: {ended.problem};"
            " its traceback is in the standard error output"
        )
    return pickle.loads(ended.values), journal  # noqa: S301 - our own process pickled it


def _nodes(undisturbed: Journal, points: Sequence[PointReport]) -> dict[str, NodeReport]:
    without_key = undisturbed.without_key()
    runs: Counter[str] = undisturbed.runs()
    for point in points:
        runs.update(dict.fromkeys(point.repeated, 0))  # a node that runs only after a crash
    return {name: _node(name, name not in without_key, points) for name in runs}


def _node(name: str, has_key: bool, points: Sequence[PointReport]) -> NodeReport:
    again = [point for point in points if name in point.repeated]
    bad = [point for point in again if not point.same_result]
    if bad:
        verdict = NodeVerdict.DIFFERS
    elif again and not has_key:
        verdict = NodeVerdict.REPEATS
    else:
        verdict = NodeVerdict.SAFE
    return NodeReport(
        verdict,
        has_key,
        max((point.repeated[name] for point in again), default=0),
        tuple(point.point for point in bad or again),
    )


@contextmanager
def _database(dsn: str | None) -> Generator[str, None, None]:
    if dsn is not None:
        yield parse_dsn(dsn).conninfo
        return
    with EmbeddedPostgres(durable=False) as url:
        yield url


async def _migrate(url: str) -> None:
    async with Durable(url, settings=Settings()):
        pass


async def _delete(url: str, threads: Sequence[str]) -> None:
    async with Durable(url, settings=Settings()) as durable:
        for thread_id in threads:
            await durable.threads.delete(thread_id)
