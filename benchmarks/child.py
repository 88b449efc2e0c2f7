"""A process of a benchmark that does as it is asked: a line of JSON in, a line of JSON out."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

Answer = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class Child:
    """The parent's end. One request at a time."""

    def __init__(self, process: asyncio.subprocess.Process, what: str) -> None:
        self._process, self._what = process, what

    async def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, and wait for its answer.

        Raises:
            SystemExit: the process ended instead; what it wrote to stderr is on ours.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            code = await self._process.wait()
            raise SystemExit(
                f"cannot measure {self._what}: its process ended with exit code {code};"
                " see above for its error"
            )
        return json.loads(line)


@asynccontextmanager
async def child(module: str, what: str, *, cwd: Path | None = None) -> AsyncGenerator[Child, None]:
    """`python -m module`, for the body. `what` names it in an error."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, cwd=cwd, stdin=pipe, stdout=pipe, limit=2**24
    )
    try:
        yield Child(process, what)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 15)
        except TimeoutError:
            process.kill()
            await process.wait()


async def serve(answer: Answer) -> None:
    """The child's end: answer each request until there are no more."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await answer(json.loads(line))), flush=True)
