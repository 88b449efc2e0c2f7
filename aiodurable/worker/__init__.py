"""Workers: claim accepted runs, execute them, and go on with those of dead processes."""

from aiodurable.worker.health import WorkerHealth
from aiodurable.worker.worker import Worker

__all__ = ["Worker", "WorkerHealth"]
