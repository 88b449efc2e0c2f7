-- Drained runs, which any worker may go on with: found without reading those that wait at gates, however many these are.
CREATE INDEX IF NOT EXISTS aiodurable_runs_drained
    ON aiodurable_runs (thread_id)
    WHERE status = 'paused' AND reason = 'drained';

-- Runs at work whose end somebody asked for: each process looks for its own once a heartbeat.
CREATE INDEX IF NOT EXISTS aiodurable_runs_cancelling
    ON aiodurable_runs (run_id)
    WHERE status = 'running' AND cancel_requested_at IS NOT NULL;

-- The namespace in which the threads of these tables are locked: one row, written by whoever opens them first.
CREATE TABLE IF NOT EXISTS aiodurable_namespace (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    namespace text NOT NULL
);
