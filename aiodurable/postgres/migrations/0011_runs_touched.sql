-- Runs that are not over, by when they were touched last: what has happened lately, before the first checkpoint too.
CREATE INDEX CONCURRENTLY IF NOT EXISTS aiodurable_runs_touched
    ON aiodurable_runs ((coalesce(finished_at, started_at, created_at)))
    WHERE status IN ('queued', 'running', 'failed', 'paused', 'quarantined')
