"""How a graph reaches another process: by the name of a module's attribute, or pickled."""

from __future__ import annotations

import inspect
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any

from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from aiodurable.errors import ConfigurationError, InvalidArgumentError

__all__ = ["GraphReference", "GraphSource", "load_graph", "reference_of"]

GraphSource = str | StateGraph[Any, Any, Any, Any] | Pregel[Any, Any, Any, Any] | Callable[[], Any]
"""`"module:attribute"`, a graph, or a function of a module that returns one."""


@dataclass(frozen=True, slots=True)
class GraphReference:
    """Where another process finds the graph.

    Attributes:
        module: the module that has it; None: it is pickled.
        file: the module's file, where its name alone does not import it.
        attribute: its name in the module, with dots.
        pickled: the graph itself.
    """

    module: str | None
    file: str | None = None
    attribute: str = ""
    pickled: bytes = b""


def reference_of(graph: GraphSource) -> GraphReference:
    """How another process finds `graph`.

    Raises:
        InvalidArgumentError: it cannot.
    """
    if isinstance(graph, str):
        module, _, attribute = graph.partition(":")
        if not module or not attribute:
            raise InvalidArgumentError(
                f"cannot find graph {graph!r}: name it as 'module:attribute', such as"
                " 'my.service:report'",
                argument="graph",
            )
        return GraphReference(module, attribute=attribute)
    if not isinstance(graph, StateGraph | Pregel):
        return _of_function(graph)
    for name, module in list(sys.modules.items()):
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is graph:
                return GraphReference(name, _file_of(module), attribute)
    try:
        return GraphReference(None, pickled=pickle.dumps(graph))
    except Exception as error:  # whatever a part of the graph raises
        raise InvalidArgumentError(
            f"cannot run this graph in another process: it does not pickle"
            f" ({type(error).__name__}); keep it in a module's variable, name it as"
            " 'module:attribute', or pass a function of a module that returns it",
            argument="graph",
        ) from error


def _of_function(function: Any) -> GraphReference:
    name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", "")
    if not callable(function) or not name or not module:
        raise InvalidArgumentError(
            f"cannot run a {type(function).__name__} in another process: pass a graph, a function"
            " of a module that returns one, or its name as 'module:attribute'",
            argument="graph",
        )
    if "<" in name:
        raise InvalidArgumentError(
            f"cannot run {name} in another process: it is inside of another function; move it to"
            " the module",
            argument="graph",
        )
    return GraphReference(module, _file_of(sys.modules.get(module)), name)


def _file_of(module: ModuleType | None) -> str | None:
    file = getattr(module, "__file__", None)
    return None if file is None else os.path.abspath(file)  # noqa: PTH100 - sys.modules has strings


def load_module(reference: GraphReference) -> ModuleType | None:
    """Import the module of the graph; None: it has none."""
    if reference.module is None:
        return None
    if reference.module == "__main__" and reference.file is not None:
        # As multiprocessing does: `if __name__ == "__main__"` is not for this process.
        module = _from_file("__mp_main__", reference.file)
        sys.modules["__main__"] = module
        return module
    try:
        return import_module(reference.module)
    except ModuleNotFoundError as error:
        missing = error.name is None or f"{reference.module}.".startswith(f"{error.name}.")
        if not missing or reference.file is None:
            raise
    return _from_file(reference.module, reference.file)


def _from_file(name: str, file: str) -> ModuleType:
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def load_graph(reference: GraphReference) -> Any:
    """The graph, in this process.

    Raises:
        ConfigurationError: what is there is no graph.
    """
    module = load_module(reference)
    if module is None:
        return pickle.loads(reference.pickled)  # noqa: S301 - our own process pickled it
    found: Any = module
    where = f"{reference.module}:{reference.attribute}"
    for part in reference.attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(
                f"cannot load {where}: {reference.module} has no attribute {reference.attribute!r}"
            )
        found = getattr(found, part)
    if callable(found) and not isinstance(found, StateGraph | Pregel):
        found = found()
        found = await found if inspect.isawaitable(found) else found
    if not isinstance(found, StateGraph | Pregel):
        raise ConfigurationError(
            f"cannot run {where}: it is a {type(found).__name__}; name a graph, or a function that"
            " returns one"
        )
    return found
