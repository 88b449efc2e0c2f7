-- One row a thread: the fencing token that every lease of a run raises and every checkpoint write checks, and a random number
-- drawn for each lease: a token that a crash or a failover gives out twice is no lease of the first holder's. 0 is nobody's.
-- Updated in place often, read by key: space left on the page keeps the updates HOT.
CREATE TABLE IF NOT EXISTS aiodurable_fences (
    thread_id text PRIMARY KEY,
    token     bigint NOT NULL,
    lease_id  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- The ledger: one row a run, written before its graph starts. lock_key lets SQL join it with pg_locks.
CREATE TABLE IF NOT EXISTS aiodurable_runs (
    run_id              text PRIMARY KEY,
    thread_id           text NOT NULL,
    lock_key            bigint NOT NULL,
    graph               text,
    status              text NOT NULL CHECK (status IN ('queued', 'running', 'complete', 'failed', 'interrupted', 'paused',
                                                        'rejected', 'superseded', 'quarantined')),
    status_reason       text,
    attempts            integer NOT NULL DEFAULT 0,
    fencing_token       bigint,  -- of the lease of its last attempt
    seq                 integer NOT NULL DEFAULT 0,  -- of its last attempt among those under one token
    attempted_by        text,    -- host and process of its last attempt

    -- What it was accepted with, by LangGraph's serializer. consumed: a checkpoint of the run has the input, which must
    -- never be passed in again.
    input_type          text,
    input               bytea,
    context_type        text,
    context             bytea,
    config_type         text,
    config              bytea,
    consumed            boolean NOT NULL DEFAULT false,

    -- Answers. answered: interrupt id -> {"at", "digest", "token"}. answers: interrupt id -> answer, those that LangGraph has
    -- not stored yet. questions_closed: md5 of each question row of the root graph that they answer whole.
    answered            jsonb NOT NULL DEFAULT '{}',
    answers_type        text,
    answers             bytea,
    questions_closed    text[],

    -- How its last attempt ended, and one object for each earlier attempt that was tried again: worker, started, ended,
    -- outcome, error, traceback.
    error               text,
    traceback           text,
    earlier_attempts    jsonb[] NOT NULL DEFAULT '{}',

    base_checkpoint_id  text,  -- the thread's newest when the run was accepted: later ones that carry its run_id are its own
    checkpoint_id       text,  -- the checkpoint at which it ended
    cancel_requested_at timestamptz,
    created_at          timestamptz NOT NULL DEFAULT pg_catalog.now(),
    started_at          timestamptz,
    finished_at         timestamptz,
    failed_at           timestamptz,
    updated_at          timestamptz,

    -- Of runs that wait in a queue, and what their workers go by.
    queue               text,
    priority            integer,
    fairness_key        text,
    concurrency_key     text,
    scheduled_at        timestamptz,
    schedule_id         text,
    dedup_key           text,
    max_attempts        integer,
    retry_policy        jsonb,
    timeout_s           double precision,

    -- What the caller and its tools say of the run.
    metadata            jsonb,
    summary             text,
    traceparent         text
) WITH (fillfactor = 70);

-- A thread is advanced by one run at a time, whatever the code believes.
CREATE UNIQUE INDEX IF NOT EXISTS aiodurable_runs_one_running_idx
    ON aiodurable_runs (thread_id)
    WHERE status = 'running';

-- The newest run of a thread. Tokens order them, never a clock.
CREATE INDEX IF NOT EXISTS aiodurable_runs_thread_order_idx
    ON aiodurable_runs (thread_id, fencing_token DESC, seq DESC, created_at DESC);

-- Runs that are not over, among millions that are, by what they wait for: a search for one kind reads no other.
CREATE INDEX IF NOT EXISTS aiodurable_runs_unfinished_status_idx
    ON aiodurable_runs (status, thread_id)
    WHERE status IN ('queued', 'running', 'failed', 'paused', 'quarantined');

-- Runs that are not over, by when they changed last: what has happened lately, before the first checkpoint too.
CREATE INDEX IF NOT EXISTS aiodurable_runs_unfinished_updated_idx
    ON aiodurable_runs ((coalesce(finished_at, started_at, created_at)))
    WHERE status IN ('queued', 'running', 'failed', 'paused', 'quarantined');

-- Drained runs, which any worker may go on with: found without reading those that wait at gates, however many these are.
CREATE INDEX IF NOT EXISTS aiodurable_runs_drained_idx
    ON aiodurable_runs (thread_id)
    WHERE status = 'paused' AND status_reason = 'drained';

-- Runs at work that are to be cancelled: each process looks for its own once a heartbeat.
CREATE INDEX IF NOT EXISTS aiodurable_runs_cancelling_idx
    ON aiodurable_runs (run_id)
    WHERE status = 'running' AND cancel_requested_at IS NOT NULL;

-- The namespace in which the threads of these tables are locked: one row, written by the process that opens them first.
CREATE TABLE IF NOT EXISTS aiodurable_namespace (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    namespace text NOT NULL
);

-- Tokens of locks without a thread, for fencing systems outside Postgres.
CREATE SEQUENCE IF NOT EXISTS aiodurable_lock_tokens AS bigint;

-- Every lease of this database: the key, and the backend that holds it. Advisory locks on one bigint (objsubid 1; classid
-- and objid are its halves).
CREATE OR REPLACE VIEW aiodurable_leases AS
SELECT l.classid::bigint << 32 | l.objid::bigint AS key, l.pid
FROM pg_catalog.pg_locks l
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ExclusiveLock' AND l.granted
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database());
