"""The FastAPI example in two worker processes: `python tests/programs/web_workers.py PORT`."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

if __name__ == "__main__":
    examples = Path(__file__).parents[2] / "examples"
    uvicorn.run("fastapi_app:app", port=int(sys.argv[1]), workers=2, app_dir=str(examples))
