-- fragment: record
r.run_id, r.thread_id, r.graph, r.status, r.attempts, r.fencing_token, r.attempted_by,
r.created_at, r.started_at, r.finished_at, r.failed_at, r.error, r.status_reason, r.checkpoint_id,
r.traceback, r.earlier_attempts, r.queue, r.claim_state, r.position, r.priority, r.fairness_key,
r.concurrency_key, r.scheduled_at, r.max_attempts, r.timeout_s, r.start_timeout_s, r.dedup_key,
r.cancel_requested_at, r.metadata, r.summary

-- name: create
-- params: run_ids, thread_ids, lock_keys, graphs, input_types, inputs, context_types, contexts
-- params: config_types, configs, queues, priorities, fairness_keys, concurrency_keys, run_ats
-- params: afters, max_attempts, retry_policies, timeouts, start_timeouts, dedup_keys, on_busy
-- params: metadata, summaries
-- aiodurable_runs_thread_order_idx and aiodurable_runs_queued_idx once a row: whether the thread
-- has a run in front. A run that is due later is in front of nothing. What has its run_id, or is
-- not over and has its dedup_key, stays as it is, and the row is left out; so is one that on_busy
-- rejects.
-- run_ats are moments, afters seconds from now. A worker that sleeps holds a shared lock on the
-- letters aiod, work: only then it is notified. The exclusive one is released at once.
WITH given AS MATERIALIZED (
    SELECT u.run_id, u.thread_id, u.lock_key, u.graph, u.input_type, u.input, u.context_type,
           u.context, u.config_type, u.config, u.queue, u.priority, u.fairness_key,
           u.concurrency_key, d.due, d.later, u.max_attempts, u.retry_policy, u.timeout_s,
           u.start_timeout_s, u.dedup_key, u.on_busy, u.metadata, u.summary, u.n,
           coalesce(pg_catalog.bool_or(NOT d.later)
                    OVER (PARTITION BY u.thread_id ORDER BY u.n
                          ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), false) AS follows
    FROM unnest(:run_ids::text[], :thread_ids::text[], :lock_keys::bigint[], :graphs::text[],
                :input_types::text[], :inputs::bytea[], :context_types::text[],
                :contexts::bytea[], :config_types::text[], :configs::bytea[], :queues::text[],
                :priorities::integer[], :fairness_keys::text[], :concurrency_keys::text[],
                :run_ats::timestamptz[], :afters::double precision[], :max_attempts::integer[],
                :retry_policies::text[], :timeouts::double precision[],
                :start_timeouts::double precision[], :dedup_keys::text[], :on_busy::text[],
                :metadata::text[], :summaries::text[])
         WITH ORDINALITY
         AS u (run_id, thread_id, lock_key, graph, input_type, input, context_type, context,
               config_type, config, queue, priority, fairness_key, concurrency_key, run_at, after_s,
               max_attempts, retry_policy, timeout_s, start_timeout_s, dedup_key, on_busy, metadata,
               summary, n)
    CROSS JOIN LATERAL (
        SELECT t.due, coalesce(t.due > pg_catalog.clock_timestamp(), false) AS later
        FROM (SELECT CASE WHEN u.after_s IS NULL THEN u.run_at
                          ELSE pg_catalog.clock_timestamp()
                               + pg_catalog.make_interval(secs => u.after_s) END AS due) t
    ) d
),
stood AS (
    SELECT g.*, g.follows OR f.unfinished IS NOT NULL OR q.waits IS NOT NULL AS behind
    FROM given g
    LEFT JOIN LATERAL (
        SELECT nullif(k.status, 'complete') AS unfinished
        FROM aiodurable_runs k
        WHERE k.thread_id = g.thread_id AND k.fencing_token IS NOT NULL
          AND k.status NOT IN ('rejected', 'superseded')
        ORDER BY k.fencing_token DESC NULLS LAST, k.seq DESC, k.created_at DESC
        LIMIT 1
    ) f ON true
    LEFT JOIN LATERAL (
        SELECT true AS waits
        FROM aiodurable_runs k
        WHERE k.thread_id = g.thread_id AND k.status = 'queued' AND k.claim_state <> 'scheduled'
        LIMIT 1
    ) q ON true
),
created AS (
    INSERT INTO aiodurable_runs AS r (
        run_id, thread_id, lock_key, graph, status, input_type, input, context_type, context,
        config_type, config, claim_state, position, on_busy, queue, priority, fairness_key,
        concurrency_key, scheduled_at, max_attempts, retry_policy, timeout_s, start_timeout_s,
        dedup_key, metadata, summary)
    SELECT s.run_id, s.thread_id, s.lock_key, s.graph, 'queued', s.input_type, s.input,
           s.context_type, s.context, s.config_type, s.config,
           CASE WHEN s.later THEN 'scheduled' WHEN s.behind THEN 'blocked' ELSE 'ready' END,
           pg_catalog.nextval('aiodurable_run_positions'::pg_catalog.regclass), s.on_busy, s.queue,
           s.priority, s.fairness_key, s.concurrency_key, s.due, s.max_attempts,
           s.retry_policy::jsonb, s.timeout_s, s.start_timeout_s, s.dedup_key, s.metadata::jsonb,
           s.summary
    FROM stood s
    WHERE s.on_busy <> 'reject' OR NOT s.behind
    ORDER BY s.n
    ON CONFLICT DO NOTHING
    RETURNING
    -- include: record
),
woken AS MATERIALIZED (
    SELECT pg_catalog.count(pg_catalog.pg_notify('aiodurable_queue', q.queue)) AS queues
    FROM (SELECT DISTINCT c.queue FROM created c WHERE c.claim_state = 'ready') q
    WHERE (SELECT CASE WHEN pg_catalog.pg_try_advisory_lock(1634299748, 2003792491)
                       THEN NOT pg_catalog.pg_advisory_unlock(1634299748, 2003792491)
                       ELSE true END)
)
SELECT c.*
FROM created c
CROSS JOIN woken

-- name: alone
-- params: key
-- No table. Until the end of the transaction: two that reject or interrupt do not pass each other.
SELECT pg_catalog.pg_advisory_xact_lock(:key::bigint)

-- name: existing
-- params: run_ids, dedup_keys
-- aiodurable_runs_pkey; aiodurable_runs_dedup_idx. The runs that keep these run ids and dedup
-- keys from being accepted.
SELECT r.input_type, r.input, w.n, w.run_id = r.run_id AS named,
-- include: record
FROM unnest(:run_ids::text[], :dedup_keys::text[]) WITH ORDINALITY AS w (run_id, dedup_key, n)
CROSS JOIN LATERAL (
    SELECT k.run_id
    FROM aiodurable_runs k
    WHERE k.run_id = w.run_id
    UNION ALL
    SELECT k.run_id
    FROM aiodurable_runs k
    WHERE k.dedup_key = w.dedup_key
      AND k.status IN ('queued', 'running', 'failed', 'paused', 'interrupted', 'quarantined')
    LIMIT 1
) f
JOIN aiodurable_runs r ON r.run_id = f.run_id

-- name: get
-- params: run_id
-- aiodurable_runs_pkey.
SELECT
-- include: record
FROM aiodurable_runs r
WHERE r.run_id = :run_id

-- name: interrupt
-- params: thread_id, run_id, channel
-- aiodurable_runs_queued_idx; aiodurable_runs_one_running_idx. What the thread had in front of the
-- run makes way for it: queued runs are given up, the one at work is cancelled (the channel hurries
-- it). What is due later stays.
WITH given_up AS (
    UPDATE aiodurable_runs r
    SET status = 'superseded', status_reason = 'interrupted', interrupted_by = :run_id,
        claim_state = NULL, finished_at = pg_catalog.now()
    WHERE r.thread_id = :thread_id AND r.status = 'queued' AND r.claim_state <> 'scheduled'
      AND r.run_id <> :run_id
    RETURNING r.run_id
),
cancelled AS (
    UPDATE aiodurable_runs r
    SET cancel_requested_at = coalesce(r.cancel_requested_at, pg_catalog.now()),
        interrupted_by = :run_id
    WHERE r.thread_id = :thread_id AND r.status = 'running'
    RETURNING r.run_id
)
SELECT c.run_id, pg_catalog.pg_notify(:channel::text, c.run_id)
FROM cancelled c
