-- What the ledger records beside a run's status.
--   consumed             a checkpoint of the run has taken its input: it must never be passed in again
--   config_type, config  what of the caller's config goes with the run to another process
--   seq                  the number of its last attempt among those under one token: with it, runs have an order
--   earlier_attempts     one object an attempt that was tried again: worker, started, ended, outcome, error, traceback
--   traceback, failed_at of its last attempt, where that failed
--   answered             interrupt id -> {"at", "digest"} of the answer that was given to it
--   cancel_requested_at  when somebody asked for its end
ALTER TABLE aiodurable_runs
    ADD COLUMN IF NOT EXISTS seq                 integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS consumed            boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS config_type         text,
    ADD COLUMN IF NOT EXISTS config              bytea,
    ADD COLUMN IF NOT EXISTS traceback           text,
    ADD COLUMN IF NOT EXISTS failed_at           timestamptz,
    ADD COLUMN IF NOT EXISTS earlier_attempts    jsonb[] NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS answered            jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS cancel_requested_at timestamptz;

-- The newest run of a thread. Tokens order them, never a clock; created_at only runs of before this column.
CREATE INDEX IF NOT EXISTS aiodurable_runs_in_order
    ON aiodurable_runs (thread_id, token DESC, seq DESC, created_at DESC);
DROP INDEX IF EXISTS aiodurable_runs_by_thread;
