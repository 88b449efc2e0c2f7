"""Liveness and readiness, as functions and as ASGI routes. No statement is sent to Postgres, and
nothing secret is in an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from aiodurable.durable import Durable
from aiodurable.errors import ClosedError
from aiodurable.integrations.asgi import App, Receive, Scope, Send, respond, serve_lifespan
from aiodurable.worker import Worker

__all__ = ["Probe", "health_app", "liveness", "readiness"]


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer to a probe.

    Attributes:
        ok: whether all is well.
        details: what was looked at.
    """

    ok: bool
    details: Mapping[str, str | bool | float | int | None]

    def as_json(self) -> str:
        """The same as JSON."""
        return json.dumps({"ok": self.ok, **self.details})


def liveness(durable: Durable, worker: Worker | None = None) -> Probe:
    """Whether the process should live on: its event loop answers (for it answers this), and no part
    of it has ended for good. An outage of Postgres is no reason to restart it.

    Args:
        durable: of this process.
        worker: that of this process, if it has one.
    """
    details: dict[str, str | bool | float | int | None] = {"open": durable.is_open}
    ok = durable.is_open
    if worker is not None:
        health = worker.health()
        details |= {
            "failed": worker.failed,
            "draining": health.draining,
            "loop_lag_s": round(health.loop_lag_s, 3),
        }
        ok = ok and not worker.failed
    return Probe(ok, details)


def readiness(durable: Durable, worker: Worker | None = None) -> Probe:
    """Whether the process can do its work now: its lock sessions are up, Postgres answers, and its
    worker claims runs. A draining worker is not ready.

    Args:
        durable: of this process.
        worker: that of this process, if it has one.
    """
    try:
        health = durable.health()
    except ClosedError:
        return Probe(False, {"open": False})
    details: dict[str, str | bool | float | int | None] = {
        "open": True,
        "locks": health.locks.healthy,
        "leases": health.locks.held,
        "checkpoints": health.checkpoints.healthy,
        "circuit": health.checkpoints.circuit,
        "writes_waiting": health.checkpoints.writes,
    }
    ok = health.healthy
    if worker is not None:
        at_work = worker.health()
        details |= {
            "worker": at_work.healthy,
            "draining": at_work.draining,
            "running": len(at_work.running),
            "capacity": at_work.capacity,
            "loop_lag_s": round(at_work.loop_lag_s, 3),
        }
        ok = ok and at_work.healthy
    return Probe(ok, details)


def health_app(durable: Durable, worker: Worker | None = None) -> App:
    """An ASGI app that answers `/livez` and `/readyz`, below any path: 200 where all is well, else
    503, with JSON that holds no secret.

    Args:
        durable: of this process.
        worker: that of this process, if it has one.
    """
    probes = {"livez": liveness, "readyz": readiness}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await serve_lifespan(receive, send)
        if scope["type"] != "http":
            return None
        probe = probes.get(scope["path"].rstrip("/").rpartition("/")[2])
        if probe is None:
            return await respond(send, scope, 404, b"not found\n")
        if scope["method"] not in ("GET", "HEAD"):
            return await respond(send, scope, 405, b"only GET\n")
        found = probe(durable, worker)
        return await respond(
            send,
            scope,
            200 if found.ok else 503,
            found.as_json().encode(),
            content_type="application/json",
        )

    return app
