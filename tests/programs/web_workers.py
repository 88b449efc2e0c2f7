"""The FastAPI example in two worker processes: `python tests/programs/web_workers.py PORT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvicorn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from fastapi_app import app  # pyright: ignore[reportMissingImports]


async def process() -> int:
    """Which process answers."""
    return os.getpid()


app.add_api_route("/process", process)  # pyright: ignore[reportUnknownMemberType]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    uvicorn.run("web_workers:app", port=int(sys.argv[1]), workers=2)
