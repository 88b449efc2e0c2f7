"""Workers: claim accepted runs, execute them, and go on with those of dead processes.

`worker` looks for work, as often as `pace` says. `claims` takes ready runs, `rescuer` those whose
process died, `suspects` those that may have killed it; `runs_at_work` has each executed by
`executor`. `scheduler` fires the schedules, and `history` samples the statuses. `registration` is
the worker's own row.
"""

from aiodurable.worker.health import WorkerHealth
from aiodurable.worker.worker import Worker

__all__ = ["Worker", "WorkerHealth"]
