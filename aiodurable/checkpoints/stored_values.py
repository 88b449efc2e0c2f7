"""Checks, without building anything, whether this process can rebuild the objects in stored values.

LangGraph's serializer does not raise if a class was moved, deleted or changed, or is not allowed:
it returns the object's arguments, usually a dict, or None. So a resumption checks first.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from importlib import import_module
from importlib.machinery import PathFinder
from typing import Any, NamedTuple, cast

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde import _msgpack  # pyright: ignore[reportPrivateUsage]
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_KW_ARGS,
    EXT_CONSTRUCTOR_POS_ARGS,
    EXT_CONSTRUCTOR_SINGLE_ARG,
    EXT_NUMPY_ARRAY,
    EXT_PYDANTIC_V1,
    EXT_PYDANTIC_V2,
    JsonPlusSerializer,
)

from aiodurable.inert import unpack

__all__ = ["SAFE", "Built", "Undecodable", "ValueReader", "classes_in", "serde_for"]

SAFE: frozenset[tuple[str, ...]] = getattr(_msgpack, "SAFE_MSGPACK_TYPES", frozenset())
"""The classes that LangGraph always rebuilds."""
_JSON_CONSTRUCTOR = 2
"""The version of the envelope in which LangGraph stored objects before it used msgpack."""


class Undecodable(NamedTuple):
    """The class of a stored object that this process cannot rebuild.

    Attributes:
        name: module and class.
        why: the reason, and what to do.
    """

    name: str
    why: str


class Built:
    """The parts of a stored object, which was not built.

    Attributes:
        module, name: its class.
        code: the msgpack extension, which says how LangGraph's serializer would build it.
        made_of: the arguments.
    """

    __slots__ = ("code", "made_of", "module", "name")

    def __init__(self, module: str, name: str, code: int, made_of: Any) -> None:
        self.module = module
        self.name = name
        self.code = code
        self.made_of = made_of

    @property
    def key(self) -> tuple[str, str]:
        """Its class, as in LangGraph's lists of allowed classes."""
        return self.module, self.name

    @property
    def node(self) -> str | None:
        """The target node, if it is a `Send`."""
        sent = self.name == "Send" and isinstance(self.made_of, list | tuple) and self.made_of
        return str(cast("list[Any]", self.made_of)[0]) if sent else None


class ValueReader:
    """Reads the values of one serializer.

    Args:
        serde: the serializer. It checks nothing unless that is LangGraph's own, with or without
            encryption.
        load_modules: whether it may import modules, as LangGraph does when it loads a value.
            Otherwise it only checks that a module exists, and does not know its contents.
    """

    def __init__(self, serde: SerializerProtocol, *, load_modules: bool) -> None:
        self._cipher = None
        if isinstance(serde, EncryptedSerializer):
            self._cipher, serde = serde.cipher, serde.serde
        self._readable = isinstance(serde, JsonPlusSerializer)
        self._allowed: Any = getattr(serde, "_allowed_msgpack_modules", True)
        self._allowed_json: Any = getattr(serde, "_allowed_json_modules", None)
        self._load_modules = load_modules

    def undecodable(self, values: Iterable[tuple[str, bytes | None]]) -> list[Undecodable]:
        """The classes in these values (kind and bytes) that cannot be rebuilt, each once."""
        found: dict[str, Undecodable] = {}
        for kind, blob in values:
            built: list[Built] = []
            try:
                self._read(kind, blob, built)
            except Exception as error:  # a wrong key, damaged bytes, an unknown kind
                problem = Undecodable(
                    f"(stored as {kind})", f"cannot be read: {type(error).__name__}"
                )
                found[problem.name] = problem
            for one in built:
                try:
                    why = self._why_not(one)
                except Exception as error:  # a row can contain an impossible name
                    why = f"cannot be read: {type(error).__name__}"
                if why:
                    name = f"{one.module}.{one.name}"
                    found[name] = Undecodable(name, why)
        return list(found.values())

    def inert(self, kind: str, blob: bytes | None) -> Any:
        """The value with a `Built` in place of each object; None if it cannot be decoded."""
        try:
            return self._read(kind, blob, [])
        except Exception:  # `undecodable` reports it
            return None

    def _read(self, kind: str, blob: bytes | None, built: list[Built]) -> Any:
        if not self._readable:
            return None
        data = blob or b""
        if "+" in kind:
            kind, cipher = kind.split("+", 1)
            if self._cipher is None:
                raise ValueError("encrypted, and this serializer has no key")
            data = self._cipher.decrypt(cipher, data)
        if kind == "msgpack":
            return unpack(data, _Collector(built))
        if kind == "json":
            return json.loads(data, object_hook=lambda value: self._json_object(value, built))
        # null, bytes, and pickles, which raise by themselves if a class is gone
        return None

    def _json_object(self, value: dict[str, Any], built: list[Built]) -> Any:
        if (
            value.get("lc") != _JSON_CONSTRUCTOR
            or value.get("type") != "constructor"
            or not value.get("id")
        ):
            return value
        *module, name = value["id"]
        built.append(Built(".".join(module), name, -1, None))
        return built[-1]

    def _why_not(self, one: Built) -> str | None:
        """Why the object cannot be rebuilt; None if it can."""
        key = one.key
        if key in SAFE:
            return None
        if one.code == -1:
            allowed = self._allowed_json is True or (
                bool(self._allowed_json)
                and (*one.module.split("."), one.name) in self._allowed_json
            )
            path = (*one.module.split("."), one.name)
            setting = f"serde=JsonPlusSerializer(allowed_json_modules=[{path!r}])"
        else:
            allowed = self._allowed is True or (bool(self._allowed) and key in self._allowed)
            setting = f"settings=Settings(allowed_msgpack_modules=[{key!r}])"
        if not allowed:
            return (
                "the serializer does not allow this class: name it in the graph's state, input or"
                f" context schema, or give Durable({setting})"
            )
        found, why = _resolve(one.module, one.name, self._load_modules)
        return why or (None if found is None else _misfit(found, one))


def serde_for(graph: Any, saver: BaseCheckpointSaver[Any]) -> SerializerProtocol:
    """The serializer with which a graph decodes the values of `saver`: the saver's own, which with
    strict msgpack also allows the graph's types.

    LangGraph derives these from the schemas when it compiles a graph, and passes them to the saver
    in each call.
    """
    allowing = getattr(graph, "_apply_checkpointer_allowlist", None)
    return (saver if allowing is None else allowing(saver)).serde


def classes_in(data: bytes) -> list[Built]:
    """The objects in a value that LangGraph's serializer stored as msgpack."""
    built: list[Built] = []
    unpack(data, _Collector(built))
    return built


class _Collector:
    """Collects the objects in a value, and leaves a `Built` in the place of each."""

    def __init__(self, built: list[Built]) -> None:
        self._built = built

    def made(self, code: int, module: Any, name: Any, made_of: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("no object of LangGraph's")
        self._built.append(Built(module, name, code, made_of))
        return self._built[-1]

    def other(self, code: int, data: bytes, unpack_inside: Callable[[bytes], Any]) -> Any:
        # Whatever else it is, an object in it counts.
        return None if code == EXT_NUMPY_ARRAY else unpack_inside(data)

    def unreadable(self, data: bytes, error: Exception) -> Any:  # noqa: ARG002
        raise error


@lru_cache(maxsize=4096)
def _resolve(module: str, name: str, load: bool) -> tuple[Any, str | None]:
    """The class, or why it does not exist. Neither, if its module exists but is not imported."""
    found = sys.modules.get(module)
    if found is None and not load:
        return None, None if _is_there(module) else f"there is no module {module!r} here"
    if found is None:
        try:
            found = import_module(module)
        except Exception as error:  # a module may raise anything
            return None, f"module {module!r} cannot be imported: {type(error).__name__}"
    cls = getattr(found, name, None)
    if cls is None:
        return (
            None,
            (
                f"module {module!r} has no {name!r} any more: keep that name where it was, for"
                " example as an alias"
            ),
        )
    return cls, None


def _is_there(module: str) -> bool:
    """Whether a module exists. Imports no parent package, unlike `importlib.util.find_spec`."""
    path: Any = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        if (known := sys.modules.get(name)) is not None:
            path = getattr(known, "__path__", None)
            continue
        if (spec := PathFinder.find_spec(name, path)) is None:
            return False
        path = spec.submodule_search_locations
    return True


def _misfit(cls: Any, one: Built) -> str | None:
    """Why the class does not accept the stored arguments, as far as is known without a call."""
    if one.code == EXT_PYDANTIC_V2:
        return (
            None
            if hasattr(cls, "model_construct")
            else "it was a pydantic model, and is none any more"
        )
    if one.code == EXT_PYDANTIC_V1:
        return (
            None if hasattr(cls, "construct") else "it was a pydantic model, and is none any more"
        )
    if isinstance(cls, type) and issubclass(cls, Enum):
        if one.code != EXT_CONSTRUCTOR_SINGLE_ARG or isinstance(one.made_of, (Built, list, dict)):
            return None
        members: Mapping[Any, Any] = cls._value2member_map_
        return (
            None
            if one.made_of in members
            else f"it has no member with the value {one.made_of!r} any more"
        )
    args: Iterator[Any] | None = None
    if one.code == EXT_CONSTRUCTOR_POS_ARGS and isinstance(one.made_of, (list, tuple)):
        args = iter(cast("list[Any]", one.made_of))
    if args is None and (one.code != EXT_CONSTRUCTOR_KW_ARGS or not isinstance(one.made_of, dict)):
        return None
    if (signature := _signature(cls)) is None:
        return None
    try:
        if args is not None:
            signature.bind(*args)
        else:
            signature.bind(**cast("dict[str, Any]", one.made_of))
    except TypeError as error:
        return f"it does not accept the stored arguments: {error}"
    return None


@lru_cache(maxsize=4096)
def _signature(cls: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(cls)
    except (TypeError, ValueError):  # a class written in C
        return None
