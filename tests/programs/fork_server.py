"""Runs Python programs in forks of an interpreter that has imported what they use: `fork_server.py
SOCKET`. The client is `tests.support.forked`.

A connection to the socket is one process. It gives the three standard streams as file descriptors,
then a line of JSON, `{"arguments": those of `python`, "env", "cwd", "new_session"}`, and gets two
lines: the process id and, when the process is over, its exit code or minus the signal that ended it.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

REST = sys.path[1:]
sys.path.insert(0, str(Path(__file__).parents[2]))

USED = (
    *("asyncpg", "psycopg", "psycopg_pool", "langgraph.checkpoint.postgres.aio"),
    *("langgraph.func", "langgraph.graph.message", "langgraph.pregel", "aiodurable.cli.commands"),
    *("aiodurable.integrations.fastapi", "aiodurable.embedded", "uvicorn", "hypothesis"),
)


def serve(path: str) -> dict[str, Any] | None:
    """Fork until stdin ends, and return None; in a fork, return what it is to run."""
    children: dict[int, socket.socket] = {}
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as selector:
        listening.bind(path)
        listening.listen(64)
        for each in (listening, woken, sys.stdin.fileno()):
            selector.register(each, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if sys.stdin.fileno() in ready:
                return None
            if woken in ready:
                os.read(woken, 4096)
                reap(children)
            if listening.fileno() in ready:
                connection = listening.accept()[0]
                _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                with connection.makefile() as file:
                    job = json.loads(file.readline())
                if (pid := os.fork()) == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                    for other in (connection, *children.values()):
                        other.close()
                    for descriptor in (woken, wakes, *streams):
                        os.close(descriptor)
                    return job
                for stream in streams:
                    os.close(stream)
                children[pid] = connection
                connection.sendall(f"{pid}\n".encode())


def reap(children: dict[int, socket.socket]) -> None:
    """Tell the clients of those that are over."""
    for pid in list(children):
        over, status = os.waitpid(pid, os.WNOHANG)
        if over:
            with children.pop(pid) as connection:
                with suppress(BrokenPipeError):  # nobody waits for it any more
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def run(job: dict[str, Any]) -> None:
    """What `python ARGUMENTS` does, in this process."""
    if job["new_session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    first, *others = job["arguments"]
    added = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.path[:] = ["", *added, *REST]
    match first:
        case "-m":
            sys.argv[:] = others
            sys.path[0] = str(Path.cwd())
            runpy.run_module(others[0], run_name="__main__", alter_sys=True)
        case "-c":
            sys.argv[:] = ["-c", *others[1:]]
            exec(compile(others[0], "<string>", "exec"), {"__name__": "__main__"})
        case _:
            sys.argv[:] = job["arguments"]
            sys.path[0] = str(Path(first).resolve().parent)
            runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    for name in USED:
        importlib.import_module(name)
    import aiodurable

    for name in aiodurable.__all__:
        getattr(aiodurable, name)
    assert threading.active_count() == 1, "a fork has only the thread that forks"
    if (job := serve(sys.argv[1])) is not None:
        run(job)
    else:
        shutil.rmtree(Path(sys.argv[1]).parent)
