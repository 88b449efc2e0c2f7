"""Settings with their units in their names. Values that break each other are refused together, at
construction.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Self, get_args, get_origin, get_type_hints

from aiodurable.errors import ConfigurationError
from aiodurable.models import Compression

__all__ = ["Settings"]

_NAMESPACE = "aiodurable"
_SCHEMA = re.compile(r"(?!pg_)[A-Za-z_][A-Za-z0-9_]{0,51}")

_LONGEST_S = 2_147_483
"""Postgres counts `idle_session_timeout` in milliseconds, in 31 bits."""


class _DefaultNamespace(str):
    """A namespace that nobody gave: it follows the schema, also through `dataclasses.replace`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """How a `Durable` works. Every field can come from the environment as `AIODURABLE_<FIELD>`
    (`Settings.from_env`).

    A holder trusts its lease until `lease_ttl_s` − `lease_safety_margin_s` after it sent the last
    heartbeat that was answered; the server frees the lease `lease_ttl_s` after it received that
    heartbeat. So `lease_ttl_s` must exceed `lease_safety_margin_s` + 2 × `lease_heartbeat_s` (one
    heartbeat may be late by a whole interval), and all three must be above 0: without a margin the
    holder would stop in the very moment in which another one starts. The arithmetic is in
    `aiodurable.locks.lease_timing`.

    Attributes:
        lock_dsn: where `dsn` goes through a transaction pooler, the direct way, for what needs a
            session of its own: locks, checkpoint writers, migration; None: `dsn`.
        namespace: locks of two namespaces never meet; at most 64 bytes. The same for everybody who
            uses the same tables; one of its own for each schema, where a database has several with
            aiodurable's tables.
        schema: the schema of the tables, LangGraph's and aiodurable's; None: where the search path
            of the role says. With it, `namespace` defaults to `aiodurable:<schema>`.
        auto_migrate: create or migrate the tables when a `Durable` opens; False: refuse a database
            that is not ready.
        lock_allow_proxy: let the locks go through a pooler in session mode, if a probe finds that
            they exclude there.
        lock_connections: dedicated connections on which all leases live; 0: none. Such a `Durable`
            only looks, makes no tables, and may look at a standby.
        checkpoint_connections: dedicated connections that commit checkpoints.
        compression: how the server compresses values of more than about 2 kB, of states and
            inputs: "auto" is lz4, unless the server was built without it, or its configuration, the
            database, the role or the DSN's options choose a method; "lz4" and "pglz" go before
            those. A column with a method of its own keeps it.
        keep_step_writes: keep what each task returned, beside the state that came of it; False:
            where a step ended in one go, only the state: half the WAL of large states, and a
            history without nodes and results.
        pool_min_size: connections the pool keeps open for reads.
        pool_max_size: connections the pool opens at most.
        connect_timeout_s: seconds to reach Postgres before `PostgresUnavailableError`.
        close_timeout_s: seconds that closing may take before connections are cut.
        lease_ttl_s: seconds after which the server frees the locks of a session it has not heard
            from.
        lease_heartbeat_s: seconds between two signs of life of an idle lock session.
        lease_safety_margin_s: seconds before the server's deadline at which a holder stops trusting
            its lease.
        recovery_grace_s: seconds a run may go on while its lost lock is taken again and its token
            compared; 0: strict.
        startup_timeout_s: seconds for which opening a `Durable` is tried again while Postgres is
            not ready; 0: tried once.
        circuit_open_after_s: seconds for which every statement must have failed before further ones
            are refused at once with `CircuitOpenError`; longer than a restart or failover takes. 0:
            each waits for its own `connect_timeout_s`.
        circuit_probe_interval_s: seconds between two tries whether Postgres is back, at most, once
            statements are refused.
        strict_msgpack: of what runs are accepted with (input, context, config, answers), store and
            build only the classes that the graph's schemas name; False: any class that a row names,
            unless LangGraph itself is strict.
        allowed_msgpack_modules: further classes, as LangGraph's serializer takes them:
            `("shop.orders", "Order")` or the class. In the environment:
            `shop.orders.Order,shop.orders.Size`.
    """

    lock_dsn: str | None = field(default=None, repr=False)  # it may hold a password
    namespace: str = _DefaultNamespace(_NAMESPACE)
    schema: str | None = None
    auto_migrate: bool = True
    lock_allow_proxy: bool = False
    lock_connections: int = 2
    checkpoint_connections: int = 2
    compression: Compression = "auto"
    keep_step_writes: bool = True
    pool_min_size: int = 1
    pool_max_size: int = 10
    connect_timeout_s: float = 10.0
    close_timeout_s: float = 5.0
    lease_ttl_s: float = 20.0
    lease_heartbeat_s: float = 5.0
    lease_safety_margin_s: float = 4.0
    recovery_grace_s: float = 10.0
    startup_timeout_s: float = 0.0
    circuit_open_after_s: float = 15.0
    circuit_probe_interval_s: float = 5.0
    strict_msgpack: bool = True
    allowed_msgpack_modules: Sequence[tuple[str, str] | type] = ()

    def __post_init__(self) -> None:
        if isinstance(self.namespace, _DefaultNamespace):
            # locks know the database and not the schema
            name = _NAMESPACE if self.schema is None else f"{_NAMESPACE}:{self.schema}"
            object.__setattr__(self, "namespace", _DefaultNamespace(name))
        wrong = self._of_another_kind() or [*self._out_of_range(), *self._at_odds()]
        if wrong:
            raise ConfigurationError("settings cannot work: " + "; ".join(wrong))
        modules = tuple(self.allowed_msgpack_modules)
        object.__setattr__(self, "allowed_msgpack_modules", modules)

    def _of_another_kind(self) -> list[str]:
        """What the environment cannot give, and a caller without a type checker can. It does not
        show the value, which may be a DSN.
        """
        wrong: list[str] = []
        for each in dataclasses.fields(self):
            value: object = getattr(self, each.name)
            kinds, wanted = _KINDS.get(str(each.type), _CLASSES)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                wrong.append(f"{each.name} must be {wanted}, got {type(value).__name__}")
        return wrong

    def _out_of_range(self) -> list[str]:
        wrong = [
            f"{name} must be at least {least}, got {getattr(self, name)}"
            for name, least in {
                "lock_connections": 0,
                "checkpoint_connections": 1,
                "pool_min_size": 0,
                "pool_max_size": 1,
            }.items()
            if getattr(self, name) < least
        ]
        wrong += [
            f"{each.name} must be seconds, 0 or more, got {getattr(self, each.name)}"
            for each in dataclasses.fields(self)
            # `not >=` also refuses nan
            if each.name.endswith("_s") and not getattr(self, each.name) >= 0
        ]
        wrong += [
            f"{name} must be more than 0 and at most {_LONGEST_S:,} seconds, got"
            f" {getattr(self, name)}"
            for name in ("lease_ttl_s", "lease_heartbeat_s", "lease_safety_margin_s")
            if getattr(self, name) == 0 or getattr(self, name) > _LONGEST_S
        ]
        wrong += [
            'allowed_msgpack_modules must hold classes, or pairs such as ("shop.orders", "Order"),'
            f" got {one!r}"
            for one in self.allowed_msgpack_modules
            if _class_name(one) is None
        ]
        if self.compression not in (known := get_args(Compression)):
            wrong.append(f"compression must be one of {', '.join(known)}, got {self.compression!r}")
        if self.schema is not None and not _SCHEMA.fullmatch(self.schema):
            wrong.append(
                "schema must have 1 to 52 ASCII letters, digits and _, and not begin with pg_ or a"
                f" digit, got {self.schema!r}"
            )
        elif not 0 < (size := len(self.namespace.encode("utf-8", "replace"))) <= 64:
            wrong.append(f"namespace must have 1 to 64 bytes, got {size}")
        elif not self.namespace.isprintable():
            wrong.append(
                "namespace must have printable characters only, which Postgres can store, got"
                f" {self.namespace!r}"
            )
        return wrong

    def _at_odds(self) -> list[str]:
        wrong: list[str] = []
        if self.pool_max_size < self.pool_min_size:
            wrong.append(
                f"pool_max_size ({self.pool_max_size}) must not be below pool_min_size"
                f" ({self.pool_min_size})"
            )
        if self.lease_ttl_s <= self.lease_safety_margin_s + 2 * self.lease_heartbeat_s:
            wrong.append(
                f"lease_ttl_s ({self.lease_ttl_s}) must exceed lease_safety_margin_s + 2 ×"
                f" lease_heartbeat_s ({self.lease_safety_margin_s + 2 * self.lease_heartbeat_s}):"
                " one late heartbeat would lose every lease"
            )
        if self.circuit_probe_interval_s == 0:
            wrong.append(
                "circuit_probe_interval_s must be above 0; to refuse nothing, set"
                " circuit_open_after_s to 0"
            )
        return wrong

    @property
    def allowed_classes(self) -> frozenset[tuple[str, str]]:
        """Module and name of each class in `allowed_msgpack_modules`."""
        return frozenset(name for one in self.allowed_msgpack_modules if (name := _class_name(one)))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Settings from `AIODURABLE_<FIELD>` variables; a field without one keeps its default.

        Raises:
            ConfigurationError: a value is of the wrong type or out of range; the message names the
                variable.
        """
        environ = os.environ if environ is None else environ
        types = get_type_hints(cls)
        found: dict[str, Any] = {}
        for each in dataclasses.fields(cls):
            name = f"AIODURABLE_{each.name.upper()}"
            if (text := environ.get(name)) is not None:
                found[each.name] = _parse(name, text, types[each.name])
        return cls(**found)


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "True or False"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "seconds"),
    "str": ((str,), "text"),
    "Compression": ((str,), "text"),
    "str | None": ((str, NoneType), "text or None"),
}
_CLASSES = (list, tuple, set, frozenset), "a sequence of classes"


def _class_name(given: Any) -> tuple[str, str] | None:
    if isinstance(given, type):
        return given.__module__, given.__name__
    names: tuple[Any, ...] = tuple(given) if isinstance(given, (tuple, list)) else ()  # pyright: ignore[reportUnknownArgumentType]
    return (
        names if len(names) == 2 and all(isinstance(name, str) and name for name in names) else None
    )


def _parse(name: str, text: str, kind: Any) -> Any:
    if get_origin(kind) is Sequence:
        return [
            (module, cls)
            for module, _, cls in (
                one.strip().rpartition(".") for one in text.split(",") if one.strip()
            )
        ]
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ConfigurationError(f"{name} must be true or false, got {text!r}")
    if NoneType in get_args(kind):
        return text or None  # a deployment often leaves a variable empty
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ConfigurationError(f"{name} must be a number, got {text!r}") from None
    return text
