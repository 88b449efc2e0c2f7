"""An example that writes reports, whose writing takes until a file is there instead of a second:
`held_report.py FILE PROGRAM PORT`.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.waiting import wait_until

if __name__ == "__main__":
    file, program, port = sys.argv[1:]
    sys.path.insert(0, str(Path(program).parent))
    import reports  # pyright: ignore[reportMissingImports]

    async def held(_: float) -> None:
        await wait_until(Path(file).exists, what="the test to let the report be written")

    reports.asyncio = SimpleNamespace(sleep=held)
    sys.argv[:] = [program, port]
    runpy.run_path(program, run_name="__main__")
