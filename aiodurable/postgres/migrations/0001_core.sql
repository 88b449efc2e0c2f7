-- One row a thread: the fencing token that every lease of a run raises and every checkpoint write checks.
-- Updated in place often, read by key: room on the page keeps the updates HOT.
CREATE TABLE IF NOT EXISTS aiodurable_fences (
    thread_id text PRIMARY KEY,
    token     bigint NOT NULL
) WITH (fillfactor = 50);

-- Tokens of bare locks, for fencing systems outside Postgres.
CREATE SEQUENCE IF NOT EXISTS aiodurable_lock_tokens AS bigint;

-- The ledger: one row a run, written before its graph starts. lock_key lets SQL join it with pg_locks.
CREATE TABLE IF NOT EXISTS aiodurable_runs (
    run_id        text PRIMARY KEY,
    thread_id     text NOT NULL,
    lock_key      bigint NOT NULL,
    graph         text,
    status        text NOT NULL CHECK (status IN ('queued', 'running', 'complete', 'failed', 'interrupted', 'paused',
                                                  'rejected', 'superseded', 'quarantined')),
    attempts      integer NOT NULL DEFAULT 0,
    token         bigint,
    worker        text,
    input_type    text,
    input         bytea,
    context_type  text,
    context       bytea,
    error         text,
    reason        text,
    base_id       text,  -- the thread's newest checkpoint when the run was accepted: later ones that carry its run_id are its own
    checkpoint_id text,  -- the checkpoint at which it ended
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    finished_at   timestamptz
) WITH (fillfactor = 70);

-- A thread is advanced by one run at a time, whatever the code believes.
CREATE UNIQUE INDEX IF NOT EXISTS aiodurable_runs_one_running ON aiodurable_runs (thread_id) WHERE status = 'running';

-- The newest run of a thread.
CREATE INDEX IF NOT EXISTS aiodurable_runs_by_thread ON aiodurable_runs (thread_id, created_at DESC, run_id DESC);
