"""A pseudo-terminal, for what a program writes to a person."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress


def written_to_a_terminal(
    command: Sequence[str], environment: Mapping[str, str], *, longest_s: float = 100
) -> str:
    """What the command writes to a terminal, its errors too. It is killed after `longest_s` seconds:
    a thread that waits for it would keep an event loop from ending.
    """
    ours, theirs = pty.openpty()
    written = bytearray()

    def read() -> None:
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 65536):
                written.extend(chunk)

    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            process.wait(longest_s)
        finally:
            process.kill()
            reader.join()
            os.close(ours)
    return written.decode()
