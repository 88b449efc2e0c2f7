-- Runs that are not over, among millions that are: what a search for failed, paused or waiting threads begins with.
CREATE INDEX IF NOT EXISTS aiodurable_runs_open ON aiodurable_runs (thread_id)
    WHERE status IN ('queued', 'running', 'failed', 'paused', 'quarantined');
