"""Opens the services of a `Durable`, in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.checkpoints import AsyncCheckpointerPool
from aiodurable.dsn import Dsn, direct_dsn
from aiodurable.events import Observer
from aiodurable.locks import PostgresLockManager
from aiodurable.postgres import schema
from aiodurable.postgres.connect import process_name
from aiodurable.postgres.namespace import agree_on_namespace
from aiodurable.postgres.notifier import Notifier
from aiodurable.runs.cancellation import CHANNEL, Cancellations
from aiodurable.runs.graphs import Graph, Graphs
from aiodurable.runs.ledger import Ledger
from aiodurable.runs.retry_policy import RetryPolicy
from aiodurable.runs.services import Services
from aiodurable.settings import Settings
from aiodurable.threads import ThreadReader

__all__ = ["open_services"]


async def open_services(
    stack: AsyncExitStack,
    dsn: Dsn,
    settings: Settings,
    *,
    graphs: Mapping[str, Graph],
    observers: Sequence[Observer],
    serde: SerializerProtocol | None,
    renamed: Mapping[str, Any],
    retry_policies: Mapping[str, RetryPolicy],
    repair_tool_calls: frozenset[str],
) -> Services:
    """Check or migrate the tables, then open the services.

    Args:
        stack: closes them, the last one first; also those that were opened before one that fails.
        dsn: where Postgres is.
        settings: the settings.
        graphs: the graphs by name.
        observers: called with every event.
        serde: the serializer of states; None: that of LangGraph's savers.
        renamed: renamed nodes.
        retry_policies: by graph.
        repair_tool_calls: names of graphs.

    Raises: what opening a `Durable` raises.
    """
    lock_dsn = direct_dsn(dsn, settings.lock_dsn)
    await (schema.migrate if settings.auto_migrate and settings.lock_connections else schema.check)(
        lock_dsn
    )
    checkpoints = await stack.enter_async_context(
        AsyncCheckpointerPool(
            dsn.conninfo,
            password=dsn.password,
            min_size=settings.pool_min_size,
            max_size=settings.pool_max_size,
            checkpoint_connections=settings.checkpoint_connections,
            serde=serde,
            settings=settings,
            observers=observers,
        )
    )
    cancellations = Cancellations(checkpoints.database, every_s=settings.lease_heartbeat_s)
    stack.push_async_callback(cancellations.aclose)
    notifier = Notifier()
    notifier.subscribe(CHANNEL, cancellations.hurry)
    locks = await stack.enter_async_context(
        PostgresLockManager(
            lock_dsn.conninfo,
            password=lock_dsn.password,
            sessions=settings.lock_connections,
            namespace=settings.namespace,
            settings=settings,
            observers=observers,
            allow_proxy=settings.lock_allow_proxy,
            notifier=notifier,
            raises_tokens=True,
        )
    )
    stack.push_async_callback(cancellations.stop, settings.close_timeout_s)
    # After the locks, which refuse a standby for what it is: this one writes.
    await agree_on_namespace(
        checkpoints.database, settings.namespace, declare=bool(settings.lock_connections)
    )
    saver = checkpoints.get_checkpointer()
    database, direct = checkpoints.database, checkpoints.direct
    threads = ThreadReader(database, namespace=settings.namespace, serde=saver.serde, direct=direct)
    return Services(
        locks=locks,
        checkpoints=checkpoints,
        threads=threads,
        ledger=Ledger(
            database,
            direct,
            threads.classifier,
            serde=saver.serde,
            namespace=settings.namespace,
            worker=process_name(),
            threads=checkpoints.serialisers,
        ),
        cancellations=cancellations,
        graphs=Graphs(
            graphs,
            saver,
            renamed=renamed,
            settings=settings,
        ),
        recovery_grace_s=settings.recovery_grace_s,
        observers=observers,
        retry_policies=retry_policies,
        repair_tool_calls=repair_tool_calls,
    )
