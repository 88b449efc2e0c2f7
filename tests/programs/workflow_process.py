"""Real processes that run or resume a thread and may be killed at the n-th statement.

This program imports once and forks one process a job, before any event loop or thread exists in it:
jobs come as JSON lines on stdin, `{"dsn", "thread", "shape", "log", "death": ["before" | "after",
n] | null, "kills": "writes" | "all"}`, and each is answered with one line on stdout, `{"code": exit
code or -signal, "result": what the graph returned}`.

Beside the log, in which nodes note themselves, lie `LOG.statement`, the statements that count (of a
process that is to be killed: its last one alone), and `LOG.acknowledged`, the checkpoints and
writes that the saver has acknowledged.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from langgraph.types import Command

from aiodurable import Durable, DurableRun, DurableSaver, ThreadStatus
from aiodurable.checkpoints.write_session import SESSION_KEY
from tests.support import loops
from tests.support.effect_graphs import paying
from tests.support.feature_graphs import FEATURES, answer_to
from tests.support.graphs import asking, fan_out, four_nodes, four_tasks, nested, note, side_by_side
from tests.support.sending import SENDS, text_of
from tests.support.sleeping_graph import SIGNAL, sleeping
from tests.support.waiting import wait_until

SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "linear": (four_nodes, {"words": ["once"], "told": ""}),
    "functional": (four_tasks, {"words": ["once"], "told": ""}),
    "subgraph": (nested, {"words": ["once"], "told": ""}),
    "fan-out": (side_by_side, {"words": ["once"], "told": ""}),
    "send": (fan_out, {"parts": [], "total": 0}),
    "interrupt": (asking, {"words": ["once"], "told": ""}),
    "effects": (paying, {"words": ["once"], "told": ""}),
    "rollback": (four_nodes, {"words": ["once"], "told": ""}),
    "sleeping": (sleeping, {"words": ["once"], "told": ""}),
    **{name: (build, start) for name, (build, start, _) in FEATURES.items()},
}


WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")


class Witness:
    """Sees every statement of this process in the drivers, and kills it with SIGKILL at the n-th,
    from 1.

    The statements that count are those that write, or with `kills="all"` those that read and lock
    as well. Before it is sent, or after it is answered: what Postgres has answered is committed.
    The statement is noted before the end comes.
    """

    def __init__(self, log: Path, when: str = "", nth: int = 0, *, kills: str = "writes") -> None:
        self._log, self._when, self._nth, self._kills = log, when, nth, kills
        self._count = 0
        self._stored: list[list[str]] = []

    def watch(self) -> None:
        for kind, methods in SENDS.items():
            for method in methods:
                setattr(kind, method, self._seen(method, getattr(kind, method)))
        DurableSaver.aput = self._acknowledged(DurableSaver.aput)
        DurableSaver.aput_writes = self._acknowledged(DurableSaver.aput_writes)

    def _seen(self, method: str, original: Any) -> Any:
        async def statement(driver: Any, *args: Any, **kwargs: Any) -> Any:
            text = text_of(driver, method, args)
            counts = self._kills == "all" or WRITES.search(text)
            self._count += bool(counts)
            mine = self._count if counts else 0
            self._end(text, mine, "before")
            result = await original(driver, *args, **kwargs)
            self._end(text, mine, "after")
            return result

        return statement

    def _end(self, text: str, mine: int, when: str) -> None:
        if mine and not self._when:
            self._note("statement", text)
        if mine and (mine, when) == (self._nth, self._when):
            self._note("statement", text)
            os.kill(os.getpid(), signal.SIGKILL)

    def _acknowledged(self, original: Any) -> Any:
        @functools.wraps(original)  # LangGraph looks at the signature before it passes task_path
        async def write(saver: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
            result = await original(saver, config, *args, **kwargs)
            place = (result or config)["configurable"]
            task = [args[1]] if not result else []
            self._stored.append([place["checkpoint_ns"], place["checkpoint_id"], *task])
            # The checkpoint of an input that waits for the next write counts with that one: until
            # then the ledger has the input.
            if getattr(config["configurable"].get(SESSION_KEY), "held", None) is None:
                for each in self._stored:
                    self._note("acknowledged", each)
                self._stored.clear()
            return result

        return write

    def _note(self, what: str, value: Any) -> None:
        note({"configurable": {"log": f"{self._log}.{what}"}}, json.dumps(value))


async def work(job: dict[str, Any]) -> Any:
    """Start or resume the thread, whichever it takes, and answer each question: a second process is
    given the same. What sleeps is gone on with when it is due, and gets its signal.
    """
    build, start = SHAPES[job["shape"]]
    config: Any = {"configurable": {"log": job["log"]}}
    thread: str = job["thread"]
    graph = build(Path(f"{job['log']}.cache")) if job["shape"] == "cached" else build()
    sleeps = job["shape"] == "sleeping"
    on_busy = "rollback" if job["shape"] == "rollback" else "wait"
    async with (
        Durable(job["dsn"], graphs={"sleeping": graph} if sleeps else None) as durable,
        durable.run(
            thread, graph, run_id=f"{thread}-run", on_busy=on_busy, timeout=30, config=config
        ) as run,
    ):
        if sleeps:
            await durable.threads.signal(thread, SIGNAL, "heads", signal_id="once")
        if run.status is ThreadStatus.INTERRUPTED:
            result = await answered(run, job, run.checkpoint.interrupts)
        else:
            result = await run.ainvoke(start)
        while questions := result.get("__interrupt__"):
            if sleeps:
                result = await wait_until(lambda: woken(run), 30)
            else:
                result = await answered(run, job, questions)
        return result


async def woken(run: DurableRun) -> Any:
    result = await run.ainvoke()
    return None if result.get("__interrupt__") else result


async def answered(run: DurableRun, job: dict[str, Any], questions: Any) -> Any:
    answers = {question.id: answer_to(question.value) for question in questions}
    goto = "beside" if job["shape"] == "goto-with-the-answer" else ()
    return await run.ainvoke(Command(resume=answers, goto=goto))


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            Witness(Path(job["log"]), *(job["death"] or ()), kills=job["kills"]).watch()
            os.write(writer, json.dumps(loops.run(work(job))).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            result = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(
            json.dumps({"code": code, "result": json.loads(result) if result else None}), flush=True
        )


if __name__ == "__main__":
    main()
