-- Runs that are not over, among millions that are, by what they wait for: a search for one kind never walks through another.
CREATE INDEX CONCURRENTLY IF NOT EXISTS aiodurable_runs_noted ON aiodurable_runs (status, thread_id)
    WHERE status IN ('queued', 'running', 'failed', 'paused', 'quarantined')
