"""Durable LangGraph workflows on Postgres alone: not lost, not run twice.

async with Durable("postgresql://…", graphs={"report": builder}) as durable:
    async with durable.run(thread_id, "report") as run:
        result = await run.ainvoke({"topic": "tides"})
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Any


def _public() -> dict[str, str]:
    """The public names and the modules that they come from, as the stub beside this file lists
    them.
    """
    stub = Path(__file__).with_suffix(".pyi").read_text("utf-8")
    imports = re.findall(
        r"^from (aiodurable[\w.]*) import (?:\(([^)]*)\)|(.*))$", stub, re.MULTILINE
    )
    return {
        name: module for module, *names in imports for name in re.findall(r"\w+", " ".join(names))
    }


# Loaded when first used (PEP 562): `import aiodurable` costs next to nothing, LangGraph with two
# drivers well over a second.
_MODULES = _public()

__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, *globals()]
