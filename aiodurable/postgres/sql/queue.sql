-- name: record
r.run_id, r.thread_id, r.graph, r.status, r.attempts, r.fencing_token, r.attempted_by,
r.created_at, r.started_at, r.finished_at, r.failed_at, r.error, r.status_reason, r.checkpoint_id,
r.traceback, r.earlier_attempts, r.queue, r.claim_state, r.position, r.priority, r.fairness_key,
r.concurrency_key, r.scheduled_at, r.max_attempts, r.timeout_s, r.start_timeout_s, r.dedup_key,
r.cancel_requested_at, r.metadata, r.summary

-- name: create
-- aiodurable_runs_thread_order_idx and aiodurable_runs_queued_idx once a row: whether the thread has
-- a run in front. A run that is due later is in front of nothing. What has its run_id, or is not over
-- and has its dedup_key, stays as it is, and the row is left out; so is one that $22 has rejected.
-- $15 a moment, $16 seconds from now. A worker that sleeps holds a shared lock on the letters aiod,
-- work: only then it is notified. The exclusive one is released at once.
WITH given AS MATERIALIZED (
    SELECT u.run_id, u.thread_id, u.lock_key, u.graph, u.input_type, u.input, u.context_type,
           u.context, u.config_type, u.config, u.queue, u.priority, u.fairness_key,
           u.concurrency_key, d.due, d.later, u.max_attempts, u.retry_policy, u.timeout_s,
           u.start_timeout_s, u.dedup_key, u.on_busy, u.metadata, u.summary, u.n,
           coalesce(pg_catalog.bool_or(NOT d.later)
                    OVER (PARTITION BY u.thread_id ORDER BY u.n
                          ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), false) AS follows
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bytea[],
                $7::text[], $8::bytea[], $9::text[], $10::bytea[], $11::text[], $12::integer[],
                $13::text[], $14::text[], $15::timestamptz[], $16::double precision[],
                $17::integer[], $18::text[], $19::double precision[], $20::double precision[],
                $21::text[], $22::text[], $23::text[], $24::text[])
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
    RETURNING {record}
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
-- No table. Until the end of the transaction: two that reject or interrupt do not pass each other.
SELECT pg_catalog.pg_advisory_xact_lock($1::bigint)

-- name: existing
-- aiodurable_runs_pkey; aiodurable_runs_dedup_idx. The runs that keep $1 run ids and $2 dedup keys
-- from being accepted.
SELECT {record}, r.input_type, r.input, w.n, w.run_id = r.run_id AS named
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (run_id, dedup_key, n)
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
-- aiodurable_runs_pkey.
SELECT {record}
FROM aiodurable_runs r
WHERE r.run_id = $1

-- name: interrupt
-- aiodurable_runs_queued_idx; aiodurable_runs_one_running_idx. What thread $1 had in front of run $2
-- makes way for it: queued runs are given up, the one at work is cancelled ($3 the channel that
-- hurries it). What is due later stays.
WITH given_up AS (
    UPDATE aiodurable_runs r
    SET status = 'superseded', status_reason = 'interrupted', interrupted_by = $2,
        claim_state = NULL, finished_at = pg_catalog.now()
    WHERE r.thread_id = $1 AND r.status = 'queued' AND r.claim_state <> 'scheduled'
      AND r.run_id <> $2
    RETURNING r.run_id
),
cancelled AS (
    UPDATE aiodurable_runs r
    SET cancel_requested_at = coalesce(r.cancel_requested_at, pg_catalog.now()),
        interrupted_by = $2
    WHERE r.thread_id = $1 AND r.status = 'running'
    RETURNING r.run_id
)
SELECT c.run_id, pg_catalog.pg_notify($3::text, c.run_id)
FROM cancelled c
