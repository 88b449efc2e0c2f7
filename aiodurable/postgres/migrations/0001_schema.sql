-- One row a thread: the fencing token that every lease of a run raises and every checkpoint write
-- checks, and a random number drawn for each lease: a token that a crash or a failover gives out
-- twice is no lease of the first holder's. 0 is nobody's. Updated in place often, read by key:
-- space left on the page keeps the updates HOT.
CREATE TABLE IF NOT EXISTS aiodurable_fences (
    thread_id text PRIMARY KEY,
    token     bigint NOT NULL,
    lease_id  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- The ledger: one row a run, written before its graph starts. lock_key lets SQL join it with
-- pg_locks.
CREATE TABLE IF NOT EXISTS aiodurable_runs (
    run_id              text PRIMARY KEY,
    thread_id           text NOT NULL,
    lock_key            bigint NOT NULL,
    graph               text,
    status              text NOT NULL CHECK (status IN ('queued', 'running', 'complete', 'failed',
                                                        'interrupted', 'paused',
                                                        'rejected', 'superseded', 'quarantined')),
    status_reason       text,
    attempts            integer NOT NULL DEFAULT 0,
    fencing_token       bigint,  -- of the lease of its last attempt
    seq                 integer NOT NULL DEFAULT 0,  -- of its last attempt under one token
    attempted_by        text,    -- host and process of its last attempt

    -- What it was accepted with, by LangGraph's serializer. consumed: a checkpoint of the run has
    -- the input, which must never be passed in again.
    input_type          text,
    input               bytea,
    context_type        text,
    context             bytea,
    config_type         text,
    config              bytea,
    consumed            boolean NOT NULL DEFAULT false,

    -- Answers. answered: interrupt id -> {"at", "digest", "token"}. answers: interrupt id ->
    -- answer, those that LangGraph has not stored yet. questions_closed: md5 of each question row
    -- of the root graph that they answer whole.
    answered            jsonb NOT NULL DEFAULT '{}',
    answers_type        text,
    answers             bytea,
    questions_closed    text[],

    -- How its last attempt ended, and one object for each earlier attempt that was tried again:
    -- worker, started, ended, outcome, error, traceback.
    error               text,
    traceback           text,
    earlier_attempts    jsonb[] NOT NULL DEFAULT '{}',

    -- base_checkpoint_id: the thread's newest when the run was accepted; later ones that carry its
    -- run_id are its own.
    base_checkpoint_id  text,
    checkpoint_id       text,  -- the checkpoint at which it ended
    cancel_requested_at timestamptz,
    created_at          timestamptz NOT NULL DEFAULT pg_catalog.now(),
    started_at          timestamptz,
    finished_at         timestamptz,
    failed_at           timestamptz,
    updated_at          timestamptz,

    -- Of runs that wait in a queue, and what their workers go by. claim_state says what a worker
    -- may do with the row; NULL: it is none of a worker's business. position: the order of
    -- acceptance.
    claim_state         text CHECK (claim_state IN ('ready', 'scheduled', 'blocked', 'limited',
                                                    'claimed')),
    claimed_by          text,  -- host and process
    claimed_at          timestamptz,
    position            bigint,
    on_busy             text,
    interrupted_by      text,  -- the run that was accepted to take its place
    roll_back           boolean NOT NULL DEFAULT false,  -- then what it wrote is to be removed
    queue               text,
    priority            integer,
    fairness_key        text,
    concurrency_key     text,
    scheduled_at        timestamptz,
    schedule_id         text,    -- the schedule that made it
    dedup_key           text,
    max_attempts        integer,
    retry_policy        jsonb,
    timeout_s           double precision,
    start_timeout_s     double precision,  -- how long it may wait in the queue
    failures            integer NOT NULL DEFAULT 0,  -- in a row, without progress
    attempt_base_checkpoint_id text,  -- the thread's newest when the last attempt began
    waiting_for         text[],  -- the signals that it waits for; none: it sleeps; NULL: neither
    signalled           boolean NOT NULL DEFAULT false,  -- since its last attempt ended

    -- What the caller and its tools say of the run.
    metadata            jsonb,
    summary             text,
    traceparent         text
) WITH (fillfactor = 70);

-- A thread is advanced by one run at a time, whatever the code believes.
CREATE UNIQUE INDEX IF NOT EXISTS aiodurable_runs_one_running_idx
    ON aiodurable_runs (thread_id)
    WHERE status = 'running';

-- The newest run of a thread. Tokens order them, never a clock; those that never began come last.
CREATE INDEX IF NOT EXISTS aiodurable_runs_thread_order_idx
    ON aiodurable_runs (thread_id, fencing_token DESC NULLS LAST, seq DESC, created_at DESC);

-- Runs that are not over, among millions that are, by what they wait for: a search for one kind
-- reads no other.
CREATE INDEX IF NOT EXISTS aiodurable_runs_unfinished_status_idx
    ON aiodurable_runs (status, thread_id)
    WHERE status IN ('queued', 'running', 'failed', 'paused', 'quarantined');

-- Runs that wait for a person's answer, among millions that are over.
CREATE INDEX IF NOT EXISTS aiodurable_runs_interrupted_idx
    ON aiodurable_runs (thread_id)
    WHERE status = 'interrupted';

-- The newest runs that ended, whatever number there is: how many, and how long they took.
CREATE INDEX IF NOT EXISTS aiodurable_runs_finished_idx
    ON aiodurable_runs (finished_at)
    WHERE finished_at IS NOT NULL;

-- Runs that are not over, by when they changed last: what has happened lately, before the first
-- checkpoint too.
CREATE INDEX IF NOT EXISTS aiodurable_runs_unfinished_updated_idx
    ON aiodurable_runs ((coalesce(finished_at, started_at, created_at)))
    WHERE status IN ('queued', 'running', 'failed', 'paused', 'quarantined');

-- Drained runs, which any worker may go on with: found without reading those that wait at gates,
-- however many these are.
CREATE INDEX IF NOT EXISTS aiodurable_runs_drained_idx
    ON aiodurable_runs (thread_id)
    WHERE status = 'paused' AND status_reason = 'drained';

-- Runs at work that are to be cancelled: each process looks for its own once a heartbeat.
CREATE INDEX IF NOT EXISTS aiodurable_runs_cancelling_idx
    ON aiodurable_runs (run_id)
    WHERE status = 'running' AND cancel_requested_at IS NOT NULL;

-- What a worker may claim: of each queue by priority, and in order of acceptance for each fairness
-- key. Runs that are over stand in none of these indexes, whatever number there is.
CREATE INDEX IF NOT EXISTS aiodurable_runs_claim_idx
    ON aiodurable_runs (queue, priority DESC, fairness_key, position)
    WHERE claim_state = 'ready';

-- The same by concurrency key: what waits with a key that has no capacity left.
CREATE INDEX IF NOT EXISTS aiodurable_runs_ready_key_idx
    ON aiodurable_runs (queue, concurrency_key)
    WHERE claim_state = 'ready' AND concurrency_key IS NOT NULL;

-- What becomes due.
CREATE INDEX IF NOT EXISTS aiodurable_runs_scheduled_idx
    ON aiodurable_runs (scheduled_at)
    WHERE claim_state = 'scheduled';

-- What waits for an earlier run of its thread, in order of acceptance.
CREATE INDEX IF NOT EXISTS aiodurable_runs_blocked_idx
    ON aiodurable_runs (thread_id, position)
    WHERE claim_state = 'blocked';

-- What waits for its queue or its concurrency key.
CREATE INDEX IF NOT EXISTS aiodurable_runs_limited_idx
    ON aiodurable_runs (queue, concurrency_key, position)
    WHERE claim_state = 'limited';

-- What a worker has claimed and not begun, by worker.
CREATE INDEX IF NOT EXISTS aiodurable_runs_claimed_idx
    ON aiodurable_runs (claimed_by)
    WHERE claim_state = 'claimed';

-- What was accepted and never began: of each thread, in order of acceptance.
CREATE INDEX IF NOT EXISTS aiodurable_runs_queued_idx
    ON aiodurable_runs (thread_id, position)
    WHERE status = 'queued';

-- Of each queue and concurrency key, what is at work: for their limits.
CREATE INDEX IF NOT EXISTS aiodurable_runs_queue_running_idx
    ON aiodurable_runs (queue, concurrency_key)
    WHERE queue IS NOT NULL AND (status = 'running' OR claim_state = 'claimed');

-- The runs of a schedule, by their slots: slots' run_ids begin with their time. Runs of no schedule
-- are not in it.
CREATE INDEX IF NOT EXISTS aiodurable_runs_schedule_idx
    ON aiodurable_runs (schedule_id, run_id)
    WHERE schedule_id IS NOT NULL;

-- One run that is not over for each deduplication key.
CREATE UNIQUE INDEX IF NOT EXISTS aiodurable_runs_dedup_idx
    ON aiodurable_runs (dedup_key)
    WHERE dedup_key IS NOT NULL
      AND status IN ('queued', 'running', 'failed', 'paused', 'interrupted', 'quarantined');

-- The order in which runs and signals are accepted, and audit records are written.
CREATE SEQUENCE IF NOT EXISTS aiodurable_run_positions AS bigint;

-- One row a queue that somebody has limited or paused: a queue without a row has no limits. Read by
-- each claim, changed by hand at any time.
CREATE TABLE IF NOT EXISTS aiodurable_queues (
    name                text PRIMARY KEY,
    paused              boolean NOT NULL DEFAULT false,
    max_running         integer CHECK (max_running >= 0),
    max_running_per_key integer CHECK (max_running_per_key >= 0),
    rate                double precision CHECK (rate > 0),   -- a second; burst at once
    burst               integer CHECK (burst >= 1),
    tokens              double precision,
    refilled_at         timestamptz,
    updated_at          timestamptz NOT NULL DEFAULT pg_catalog.now()
) WITH (fillfactor = 50);

-- Side effects of nodes: one row for each effect(name) of a task, written under the fence before
-- the side effect, and with its result after it. A row that stays at 'begun' says that nobody knows
-- whether it happened. The rows of a task are read again only until its step is over.
CREATE TABLE IF NOT EXISTS aiodurable_effects (
    thread_id     text NOT NULL,
    task          text NOT NULL,  -- checkpoint_ns of the task
    name          text NOT NULL,
    state         text NOT NULL CHECK (state IN ('begun', 'done', 'not_done')),
    begin_id      bigint NOT NULL,  -- a random number, drawn for each time it begins
    run_id        text NOT NULL,
    begun_by      text NOT NULL,  -- host and process
    checkpoint_id text NOT NULL,  -- of the root graph: the step that the task belongs to
    answers       integer NOT NULL DEFAULT 0,  -- what people have said of it so far
    result_type   text,  -- NULL of one that is done: its result is not stored
    result        bytea,
    begun_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    ended_at      timestamptz,
    PRIMARY KEY (thread_id, task, name)
) WITH (fillfactor = 70);

-- One row a schedule: when it fires, what each of its runs is accepted with, and where it stands.
-- Its row moves to the next slot in the transaction that accepts the run of this one.
CREATE TABLE IF NOT EXISTS aiodurable_schedules (
    schedule_id      text PRIMARY KEY,
    graph            text NOT NULL,
    thread_id        text,  -- NULL: each slot has a thread of its own

    -- When: one of cron, every_s and once_at.
    cron             text,
    time_zone        text NOT NULL,
    every_s          double precision,
    once_at          timestamptz,
    anchor_at        timestamptz NOT NULL,  -- what intervals are aligned to
    starts_at        timestamptz,
    ends_at          timestamptz,
    jitter_s         double precision NOT NULL,
    catch_up_s       double precision NOT NULL,
    catch_up_all     boolean NOT NULL,

    -- What a run is accepted with; see aiodurable_runs.
    input_type       text,
    input            bytea,
    context_type     text,
    context          bytea,
    config_type      text,
    config           bytea,
    on_busy          text NOT NULL,
    queue            text NOT NULL,
    priority         integer NOT NULL,
    fairness_key     text NOT NULL,
    concurrency_key  text,
    max_attempts     integer,
    retry_policy     jsonb,
    timeout_s        double precision,
    start_timeout_s  double precision,
    metadata         jsonb,
    summary          text,

    -- Where it stands. next_at: when the next slot is due, which is later than the slot by its
    -- jitter; NULL: it has ended.
    pause_on_failure integer CHECK (pause_on_failure >= 1),
    paused_at        timestamptz,
    resumed_at       timestamptz,
    note             text,  -- why it was paused or resumed
    next_slot_at     timestamptz,
    next_at          timestamptz,
    last_slot_at     timestamptz,
    failures         integer NOT NULL DEFAULT 0,  -- in a row, where it pauses on failure
    fired            bigint NOT NULL DEFAULT 0,
    skipped          bigint NOT NULL DEFAULT 0,
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
    updated_at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CHECK (pg_catalog.num_nonnulls(cron, every_s, once_at) = 1)
) WITH (fillfactor = 70);

-- What is due next.
CREATE INDEX IF NOT EXISTS aiodurable_schedules_next_idx
    ON aiodurable_schedules (next_at)
    WHERE paused_at IS NULL AND next_at IS NOT NULL;

-- The mailbox of each thread: one row a signal, first in, first out for each name. One that a run
-- has taken is removed; one with a signal_id stays without its value, so that it comes once. That
-- is every one that was sent outside of a transaction of its sender's.
CREATE TABLE IF NOT EXISTS aiodurable_signals (
    thread_id   text NOT NULL,
    name        text NOT NULL,
    position    bigint NOT NULL,
    signal_id   text,
    value_type  text,
    value       bytea,
    created_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    taken_at    timestamptz,
    PRIMARY KEY (thread_id, name, position)
);

-- What no run has taken: of each name, in order; and the newest of all. The second one is for
-- nothing but a search by time: not NULL is what only such a search implies.
CREATE INDEX IF NOT EXISTS aiodurable_signals_open_idx
    ON aiodurable_signals (thread_id, name, position)
    WHERE taken_at IS NULL;

CREATE INDEX IF NOT EXISTS aiodurable_signals_created_idx
    ON aiodurable_signals (created_at)
    WHERE taken_at IS NULL AND created_at IS NOT NULL;

-- Who sends a signal twice sends it once.
CREATE UNIQUE INDEX IF NOT EXISTS aiodurable_signals_once_idx
    ON aiodurable_signals (thread_id, signal_id)
    WHERE signal_id IS NOT NULL;

-- One row a worker: what it says of itself each ten seconds. It removes its row at its end; the row
-- of one that died stays for some minutes.
CREATE TABLE IF NOT EXISTS aiodurable_workers (
    worker         text PRIMARY KEY,  -- host, process and number, as in claimed_by
    hostname       text NOT NULL,
    pid            integer NOT NULL,
    version        text NOT NULL,
    queues         text[] NOT NULL,
    graphs         text[] NOT NULL,
    concurrency    integer NOT NULL,
    running        integer NOT NULL,
    loop_lag_s     double precision NOT NULL,
    loop_lag_max_s double precision NOT NULL,
    draining       boolean NOT NULL,
    started_at     timestamptz NOT NULL,
    seen_at        timestamptz NOT NULL DEFAULT pg_catalog.now()
) WITH (fillfactor = 50);

-- One row each five minutes of the last day, written by the worker that is first: how many threads
-- and runs there were. Numbers by their names, as JSON objects. NULL: not counted yet.
CREATE TABLE IF NOT EXISTS aiodurable_status_history (
    at        timestamptz PRIMARY KEY,  -- the begin of the five minutes
    taken_at  timestamptz,
    by_status jsonb,  -- threads by status
    estimated text[],  -- the statuses that were estimated
    queued    jsonb,  -- runs in queues by claim_state
    ended     jsonb,  -- runs that ended in the ended_s seconds before, by status
    ended_s   double precision
);

-- What people did by the dashboard and the command line. It has no foreign key: it says who deleted
-- a thread, too.
CREATE TABLE IF NOT EXISTS aiodurable_audit (
    id        bigint PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    actor     text NOT NULL,
    action    text NOT NULL,
    thread_id text,
    run_id    text,
    details   jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX IF NOT EXISTS aiodurable_audit_thread_idx
    ON aiodurable_audit (thread_id, id)
    WHERE thread_id IS NOT NULL;

-- The namespace in which the threads of these tables are locked: one row, written by the process
-- that opens them first.
CREATE TABLE IF NOT EXISTS aiodurable_namespace (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    namespace text NOT NULL
);

-- Tokens of locks without a thread, for fencing systems outside Postgres.
CREATE SEQUENCE IF NOT EXISTS aiodurable_lock_tokens AS bigint;

-- Every lease of this database: the key, and the backend that holds it. Advisory locks on one
-- bigint (objsubid 1; classid and objid are its halves).
CREATE OR REPLACE VIEW aiodurable_leases AS
SELECT l.classid::bigint << 32 | l.objid::bigint AS key, l.pid
FROM pg_catalog.pg_locks l
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ExclusiveLock' AND l.granted
  AND l.database
      = (SELECT d.oid FROM pg_catalog.pg_database d
         WHERE d.datname = pg_catalog.current_database());
