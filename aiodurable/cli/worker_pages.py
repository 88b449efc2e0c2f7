"""What a worker serves beside its work: metrics for Prometheus, and probes."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiodurable.durable import Durable
    from aiodurable.integrations.asgi import App
    from aiodurable.integrations.prometheus import PrometheusObserver
    from aiodurable.worker import Worker

__all__ = ["Pages"]


class Pages:
    """The pages of one worker.

    Args:
        host: where they are served.
        metrics_port, health_port: on which ports; None: not at all.
    """

    def __init__(self, host: str, metrics_port: int | None, health_port: int | None) -> None:
        self._host = host
        self._metrics_port = metrics_port
        self._health_port = health_port
        self._observer: PrometheusObserver | None = None

    def observe(self, durable: Durable) -> None:
        """Count what the worker's `Durable` does, before it is open."""
        if self._metrics_port is None:
            return
        try:
            from aiodurable.integrations.prometheus import PrometheusObserver  # noqa: PLC0415
        except ImportError as error:
            raise click.UsageError(
                "cannot serve metrics: install aiodurable[prometheus], or leave --metrics-port out"
            ) from error
        self._observer = PrometheusObserver()
        durable.observe(self._observer)

    @asynccontextmanager
    async def served(self, durable: Durable, worker: Worker) -> AsyncIterator[None]:
        """Serve them for the body."""
        from aiodurable.integrations.health import health_app  # noqa: PLC0415 - loads LangGraph
        from aiodurable.integrations.small_server import serving  # noqa: PLC0415

        ports: dict[int, dict[str, App]] = {}
        if self._observer is not None and self._metrics_port is not None:
            from aiodurable.integrations.prometheus import metrics_app  # noqa: PLC0415

            app = metrics_app(durable, observer=self._observer)
            ports.setdefault(self._metrics_port, {})["/metrics"] = app
        if self._health_port is not None:
            app = health_app(durable, worker)
            ports.setdefault(self._health_port, {}).update({"/livez": app, "/readyz": app})
        async with AsyncExitStack() as stack:
            for port, apps in ports.items():
                at = await stack.enter_async_context(serving(apps, host=self._host, port=port))
                for path in apps:
                    click.echo(f"serving http://{self._host}:{at}{path}", err=True)
            yield
