-- fragment: record
r.run_id, r.thread_id, r.graph, r.status, r.attempts, r.fencing_token, r.attempted_by,
r.created_at, r.started_at, r.finished_at, r.failed_at, r.error, r.status_reason, r.checkpoint_id,
r.traceback, r.earlier_attempts, r.queue, r.claim_state, r.position, r.priority, r.fairness_key,
r.concurrency_key, r.scheduled_at, r.max_attempts, r.timeout_s, r.start_timeout_s, r.dedup_key,
r.cancel_requested_at, r.metadata, r.summary, r.schedule_id

-- fragment: a_worker_sleeps
-- A worker that sleeps holds a shared lock on the letters aiod, work: only then it is notified. The
-- exclusive one is released at once.
(SELECT CASE WHEN pg_catalog.pg_try_advisory_lock(1634299748, 2003792491)
             THEN NOT pg_catalog.pg_advisory_unlock(1634299748, 2003792491)
             ELSE true END)

-- name: create
-- params: run_ids, thread_ids, lock_keys, graphs, input_types, inputs, context_types, contexts
-- params: config_types, configs, queues, priorities, fairness_keys, concurrency_keys, run_ats
-- params: afters, max_attempts, retry_policies, timeouts, start_timeouts, dedup_keys, on_busy
-- params: metadata, summaries, schedule_ids, traceparents
-- aiodurable_runs_thread_order_idx and aiodurable_runs_queued_idx once a row: whether the thread
-- has a run in front. A run that is due later is in front of nothing. What has its run_id, or is
-- not over and has its dedup_key, stays as it is, and the row is left out; so is one that on_busy
-- rejects. Waits for a transaction that has accepted a run of its run_id or dedup_key and is open.
-- run_ats are moments, afters seconds from now.
WITH given AS MATERIALIZED (
    SELECT u.run_id, u.thread_id, u.lock_key, u.graph, u.input_type, u.input, u.context_type,
           u.context, u.config_type, u.config, u.queue, u.priority, u.fairness_key,
           u.concurrency_key, d.due, d.later, u.max_attempts, u.retry_policy, u.timeout_s,
           u.start_timeout_s, u.dedup_key, u.on_busy, u.metadata, u.summary,
           u.schedule_id, u.traceparent, u.n,
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
                :metadata::text[], :summaries::text[], :schedule_ids::text[],
                :traceparents::text[])
         WITH ORDINALITY
         AS u (run_id, thread_id, lock_key, graph, input_type, input, context_type, context,
               config_type, config, queue, priority, fairness_key, concurrency_key, run_at, after_s,
               max_attempts, retry_policy, timeout_s, start_timeout_s, dedup_key, on_busy, metadata,
               summary, schedule_id, traceparent, n)
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
        dedup_key, metadata, summary, schedule_id, traceparent)
    SELECT s.run_id, s.thread_id, s.lock_key, s.graph, 'queued', s.input_type, s.input,
           s.context_type, s.context, s.config_type, s.config,
           CASE WHEN s.later THEN 'scheduled' WHEN s.behind THEN 'blocked' ELSE 'ready' END,
           pg_catalog.nextval('aiodurable_run_positions'::pg_catalog.regclass), s.on_busy, s.queue,
           s.priority, s.fairness_key, s.concurrency_key, s.due, s.max_attempts,
           s.retry_policy::jsonb, s.timeout_s, s.start_timeout_s, s.dedup_key, s.metadata::jsonb,
           s.summary, s.schedule_id, s.traceparent
    FROM stood s
    WHERE (s.on_busy <> 'reject' OR NOT s.behind)
-- include if own_transaction: runs.short_wait
    ORDER BY s.n
    ON CONFLICT DO NOTHING
    RETURNING
    -- include: record
),
woken AS MATERIALIZED (
    SELECT pg_catalog.count(pg_catalog.pg_notify('aiodurable_queue', q.queue)) AS queues
    FROM (SELECT DISTINCT c.queue FROM created c WHERE c.claim_state = 'ready') q
    WHERE
    -- include: a_worker_sleeps
)
SELECT c.*
FROM created c
CROSS JOIN woken

-- name: alone
-- params: key
-- No table. Until the end of the transaction: two that reject or interrupt do not pass each other.
SELECT pg_catalog.pg_advisory_xact_lock(:key::bigint)
WHERE true
-- include if own_transaction: runs.short_wait

-- name: alone_now
-- params: keys
-- No table. As alone, without a wait. Returns the keys that another transaction has.
SELECT k.key
FROM (SELECT u.key, pg_catalog.pg_try_advisory_xact_lock(u.key) AS mine
      FROM pg_catalog.unnest(:keys::bigint[]) AS u (key)) k
WHERE NOT k.mine

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
-- params: run_ids
-- aiodurable_runs_pkey.
SELECT
-- include: record
FROM aiodurable_runs r
WHERE r.run_id = ANY (:run_ids::text[])

-- name: page
-- params: after, rows, statuses, thread_id, graph, queue, claim_states, fairness_key
-- params: concurrency_key, schedule_id, metadata, older_than, newer_than
-- aiodurable_runs_pkey from the run after which the page begins; of runs that are not over
-- aiodurable_runs_unfinished_status_idx, of a thread aiodurable_runs_thread_order_idx,
-- of a schedule aiodurable_runs_schedule_idx.
SELECT
-- include: record
FROM aiodurable_runs r
WHERE r.run_id > :after::text
-- include if statuses: page_statuses
-- include if unfinished: page_unfinished
-- include if thread_id: page_thread_id
-- include if graph: page_graph
-- include if queue: page_queue
-- include if claim_states: page_claim_states
-- include if fairness_key: page_fairness_key
-- include if concurrency_key: page_concurrency_key
-- include if schedule_id: page_schedule_id
-- include if metadata: page_metadata
-- include if older_than: page_older_than
-- include if newer_than: page_newer_than
ORDER BY r.run_id
LIMIT :rows::integer

-- name: newest
-- params: rows, after, oldest, statuses, thread_id, graph, queue, claim_states, fairness_key
-- params: concurrency_key, schedule_id, metadata, older_than, newer_than
-- aiodurable_runs_pkey backwards, down to `oldest`. Where few are read instead and sorted:
-- aiodurable_runs_unfinished_status_idx, the indexes of each claim_state, or
-- aiodurable_runs_thread_order_idx; ordered by an expression, the planner has no other way. Of a
-- schedule aiodurable_runs_schedule_idx backwards.
SELECT
-- include: record
FROM aiodurable_runs r
WHERE r.run_id IS NOT NULL
-- include if after: newest_after
-- include if oldest: newest_oldest
-- include if statuses: page_statuses
-- include if unfinished: page_unfinished
-- include if waiting: newest_waiting
-- include if thread_id: page_thread_id
-- include if graph: page_graph
-- include if queue: page_queue
-- include if claim_states: page_claim_states
-- include if fairness_key: page_fairness_key
-- include if concurrency_key: page_concurrency_key
-- include if schedule_id: page_schedule_id
-- include if metadata: page_metadata
-- include if older_than: page_older_than
-- include if newer_than: page_newer_than
-- include if few: newest_of_few
-- include if walk: newest_in_order
LIMIT :rows::integer

-- fragment: newest_after
  AND r.run_id < :after::text

-- fragment: newest_oldest
  AND r.run_id >= :oldest::text

-- fragment: newest_waiting
  AND (r.claim_state = 'ready' OR r.claim_state = 'scheduled' OR r.claim_state = 'blocked'
       OR r.claim_state = 'limited' OR r.claim_state = 'claimed')

-- fragment: newest_of_few
ORDER BY r.run_id || '' DESC

-- fragment: newest_in_order
ORDER BY r.run_id DESC

-- name: oldest_scanned
-- params: most, after
-- aiodurable_runs_pkey backwards, `most` entries. The run with which a scan of so many ends; none
-- where it reads all that there are.
SELECT r.run_id
FROM aiodurable_runs r
WHERE r.run_id IS NOT NULL
-- include if after: newest_after
ORDER BY r.run_id DESC
OFFSET :most::integer - 1
LIMIT 1

-- name: few_unfinished
-- params: statuses, most
-- aiodurable_runs_unfinished_status_idx, of each status at most so many entries: in its order,
-- they are not all read to be counted.
SELECT pg_catalog.count(*) <= :most::integer AS few
FROM pg_catalog.unnest(:statuses::text[]) AS w (status)
CROSS JOIN LATERAL (
    SELECT r.thread_id
    FROM aiodurable_runs r
    WHERE r.status = w.status
      AND r.status IN ('queued', 'running', 'failed', 'paused', 'quarantined')
    ORDER BY r.thread_id
    LIMIT :most::integer + 1
) k

-- name: few_waiting
-- params: most
-- The index of each claim_state: aiodurable_runs_claim_idx, aiodurable_runs_scheduled_idx,
-- aiodurable_runs_blocked_idx, aiodurable_runs_limited_idx, aiodurable_runs_claimed_idx; of all
-- together at most so many entries.
SELECT pg_catalog.count(*) <= :most::integer AS few
FROM (SELECT w.claim_state
      FROM (SELECT r.claim_state FROM aiodurable_runs r WHERE r.claim_state = 'ready'
            UNION ALL
            SELECT r.claim_state FROM aiodurable_runs r WHERE r.claim_state = 'scheduled'
            UNION ALL
            SELECT r.claim_state FROM aiodurable_runs r WHERE r.claim_state = 'blocked'
            UNION ALL
            SELECT r.claim_state FROM aiodurable_runs r WHERE r.claim_state = 'limited'
            UNION ALL
            SELECT r.claim_state FROM aiodurable_runs r WHERE r.claim_state = 'claimed') w
      LIMIT :most::integer + 1) k

-- fragment: page_statuses
  AND r.status = ANY (:statuses::text[])

-- fragment: page_unfinished
  AND r.status IN ('queued', 'running', 'failed', 'paused', 'quarantined')

-- fragment: page_thread_id
  AND r.thread_id = :thread_id::text

-- fragment: page_graph
  AND r.graph = :graph::text

-- fragment: page_queue
  AND r.queue = :queue::text

-- fragment: page_claim_states
  AND r.claim_state = ANY (:claim_states::text[])

-- fragment: page_fairness_key
  AND r.fairness_key = :fairness_key::text

-- fragment: page_concurrency_key
  AND r.concurrency_key = :concurrency_key::text

-- fragment: page_schedule_id
  AND r.schedule_id = :schedule_id::text

-- fragment: page_metadata
  AND r.metadata OPERATOR(pg_catalog.@>) :metadata::jsonb

-- fragment: page_older_than
  AND r.created_at <= :older_than::timestamptz

-- fragment: page_newer_than
  AND r.created_at >= :newer_than::timestamptz

-- name: cancel
-- params: run_ids, channel
-- aiodurable_runs_pkey. A run that never began is given up; one that waits for another attempt
-- stops where it is, for a person to go on with; one at work is to end: its process is notified
-- on the channel. What is over, or waits for a person, stays as it is; of what sleeps beside a
-- question only the question stays. The rows are locked before their statuses are read: one that is
-- begun, or ends, at this moment is not missed.
WITH found AS MATERIALIZED (
    SELECT k.run_id, k.status, k.claim_state,
           k.claim_state IS NOT NULL
           OR k.graph IS NULL AND k.waiting_for IS NOT NULL AND k.cancel_requested_at IS NULL
               AS goes_on
    FROM aiodurable_runs k
    WHERE k.run_id = ANY (:run_ids::text[])
-- include: runs.short_wait
    ORDER BY k.run_id
    FOR UPDATE OF k
),
given_up AS (
    UPDATE aiodurable_runs r
    SET status = 'superseded', status_reason = 'cancelled', claim_state = NULL,
        cancel_requested_at = coalesce(r.cancel_requested_at, pg_catalog.now()),
        finished_at = pg_catalog.now()
    FROM found k
    WHERE r.run_id = k.run_id AND k.status = 'queued'
    RETURNING r.run_id, r.thread_id
),
stopped AS (
    UPDATE aiodurable_runs r
    SET status = CASE WHEN k.status = 'interrupted' THEN k.status ELSE 'paused' END,
        status_reason = 'cancelled', claim_state = NULL,
        cancel_requested_at = coalesce(r.cancel_requested_at, pg_catalog.now()),
        finished_at = coalesce(r.finished_at, pg_catalog.now())
    FROM found k
    WHERE r.run_id = k.run_id AND k.status IN ('failed', 'paused', 'interrupted') AND k.goes_on
    RETURNING r.run_id, r.thread_id
),
ending AS (
    UPDATE aiodurable_runs r
    SET cancel_requested_at = coalesce(r.cancel_requested_at, pg_catalog.now()), claim_state = NULL
    FROM found k
    WHERE r.run_id = k.run_id AND k.status = 'running'
    RETURNING r.run_id, r.thread_id
)
SELECT g.run_id, g.thread_id, false AS at_work FROM given_up g
UNION ALL
SELECT s.run_id, s.thread_id, false FROM stopped s
UNION ALL
SELECT e.run_id, e.thread_id, n.sent IS NOT NULL
FROM ending e
CROSS JOIN LATERAL (SELECT pg_catalog.pg_notify(:channel::text, e.run_id)::text AS sent) n

-- name: retry
-- params: run_id
-- aiodurable_runs_pkey; aiodurable_runs_dedup_idx. A run that failed, was set aside, was cancelled
-- or was stopped may be begun by a worker again, with all the attempts it may have. One that never
-- began goes to the end of its queue, and may wait there as long as it takes. What became of a
-- thread of its own accord, or another run that is not over and has its dedup key, stands against
-- it.
UPDATE aiodurable_runs r
SET status = CASE WHEN r.fencing_token IS NULL THEN 'queued'
                  WHEN r.status = 'paused' THEN 'paused' ELSE 'failed' END,
    status_reason = CASE WHEN r.status = 'paused' THEN 'drained' END,
    claim_state = CASE WHEN r.fencing_token IS NULL AND f.behind THEN 'blocked' ELSE 'ready' END,
    position = pg_catalog.nextval('aiodurable_run_positions'::pg_catalog.regclass),
    queue = coalesce(r.queue, 'default'), priority = coalesce(r.priority, 0),
    fairness_key = coalesce(r.fairness_key, ''), scheduled_at = NULL, cancel_requested_at = NULL,
    interrupted_by = NULL, roll_back = false,
    earlier_attempts = CASE WHEN r.status IN ('failed', 'quarantined') AND r.attempts > 0
                            THEN f.earlier ELSE r.earlier_attempts END,
    attempts = CASE WHEN r.status IN ('failed', 'quarantined') THEN 0 ELSE r.attempts END,
    failures = 0,
    start_timeout_s = CASE WHEN r.fencing_token IS NOT NULL THEN r.start_timeout_s END,
    error = CASE WHEN r.fencing_token IS NOT NULL THEN r.error END,
    traceback = CASE WHEN r.fencing_token IS NOT NULL THEN r.traceback END,
    finished_at = CASE WHEN r.fencing_token IS NULL THEN NULL ELSE r.finished_at END
FROM (
    SELECT k.run_id,
           (SELECT true
            FROM aiodurable_runs o
            WHERE o.thread_id = k.thread_id AND o.run_id <> k.run_id
              AND o.status IN ('queued', 'running', 'failed', 'paused', 'quarantined')
            LIMIT 1) IS NOT NULL AS behind,
           pg_catalog.array_append(k.earlier_attempts, pg_catalog.jsonb_build_object(
               'worker', k.attempted_by, 'started', k.started_at, 'ended', k.finished_at,
               'outcome', k.status, 'error', k.error, 'traceback', k.traceback)) AS earlier
    FROM aiodurable_runs k
    WHERE k.run_id = :run_id
) f
WHERE r.run_id = f.run_id
  AND (r.fencing_token IS NULL AND r.status IN ('superseded', 'rejected', 'quarantined')
       OR r.fencing_token IS NOT NULL AND r.status IN ('failed', 'quarantined', 'paused'))
  AND r.graph IS NOT NULL
-- include: runs.short_wait
  AND (SELECT true
       FROM aiodurable_runs o
       WHERE o.dedup_key = r.dedup_key AND o.run_id <> r.run_id
         AND o.status IN ('queued', 'running', 'failed', 'paused', 'interrupted', 'quarantined')
       LIMIT 1) IS NULL
RETURNING
-- include: record

-- name: wake
-- params: queues
-- No table. Of these queues the workers that sleep.
SELECT w.queues
FROM (
    SELECT pg_catalog.count(pg_catalog.pg_notify('aiodurable_queue', q.queue)) AS queues
    FROM pg_catalog.unnest(:queues::text[]) AS q (queue)
    WHERE
    -- include: a_worker_sleeps
) w

-- name: queues
-- No index but for counts: aiodurable_runs_claim_idx, aiodurable_runs_scheduled_idx,
-- aiodurable_runs_blocked_idx, aiodurable_runs_limited_idx and aiodurable_runs_queue_running_idx,
-- whole: what waits and what is at work; what is over stands in none of them.
SELECT coalesce(n.queue, q.name) AS name, coalesce(q.paused, false) AS paused, q.max_running,
       q.max_running_per_key, q.rate, q.burst, coalesce(n.ready, 0) AS ready,
       coalesce(n.scheduled, 0) AS scheduled, coalesce(n.blocked, 0) AS blocked,
       coalesce(n.limited, 0) AS limited, coalesce(n.running, 0) AS running, n.oldest_ready_at
FROM aiodurable_queues q
FULL JOIN (
    SELECT w.queue, pg_catalog.sum(w.ready)::bigint AS ready,
           pg_catalog.sum(w.scheduled)::bigint AS scheduled,
           pg_catalog.sum(w.blocked)::bigint AS blocked,
           pg_catalog.sum(w.limited)::bigint AS limited,
           pg_catalog.sum(w.running)::bigint AS running,
           pg_catalog.min(w.oldest_ready_at) AS oldest_ready_at
    FROM (
        SELECT r.queue, pg_catalog.count(*) AS ready, 0 AS scheduled, 0 AS blocked, 0 AS limited,
               0 AS running, pg_catalog.min(r.created_at) AS oldest_ready_at
        FROM aiodurable_runs r
        WHERE r.claim_state = 'ready'
        GROUP BY r.queue
        UNION ALL
        SELECT r.queue, 0, pg_catalog.count(*), 0, 0, 0, NULL
        FROM aiodurable_runs r
        WHERE r.claim_state = 'scheduled'
        GROUP BY r.queue
        UNION ALL
        SELECT r.queue, 0, 0, pg_catalog.count(*), 0, 0, NULL
        FROM aiodurable_runs r
        WHERE r.claim_state = 'blocked'
        GROUP BY r.queue
        UNION ALL
        SELECT r.queue, 0, 0, 0, pg_catalog.count(*), 0, NULL
        FROM aiodurable_runs r
        WHERE r.claim_state = 'limited'
        GROUP BY r.queue
        UNION ALL
        SELECT r.queue, 0, 0, 0, 0, pg_catalog.count(*), NULL
        FROM aiodurable_runs r
        WHERE r.queue IS NOT NULL AND (r.status = 'running' OR r.claim_state = 'claimed')
          AND coalesce(r.claim_state, 'claimed') = 'claimed'
        GROUP BY r.queue
    ) w
    WHERE w.queue IS NOT NULL
    GROUP BY w.queue
) n ON n.queue = q.name
ORDER BY 1

-- name: pause
-- params: name, paused
-- aiodurable_queues_pkey.
INSERT INTO aiodurable_queues AS q (name, paused)
SELECT :name, :paused::boolean
WHERE true
-- include: runs.short_wait
ON CONFLICT (name) DO UPDATE SET paused = excluded.paused, updated_at = pg_catalog.now()

-- name: scale
-- params: name, max_running, max_running_per_key, rate, burst
-- aiodurable_queues_pkey. All limits are those given; NULL: none. A new rate begins with a full
-- bucket.
INSERT INTO aiodurable_queues AS q (name, max_running, max_running_per_key, rate, burst)
SELECT :name, :max_running::integer, :max_running_per_key::integer,
       :rate::double precision, :burst::integer
WHERE true
-- include: runs.short_wait
ON CONFLICT (name) DO UPDATE
SET max_running = excluded.max_running, max_running_per_key = excluded.max_running_per_key,
    rate = excluded.rate, burst = excluded.burst, tokens = NULL, refilled_at = NULL,
    updated_at = pg_catalog.now()

-- name: unlimit
-- params: name
-- aiodurable_runs_limited_idx. What waited for a limit that has changed may be claimed: the next
-- claim compares with the limits of today. A row that another transaction has locked comes later,
-- by promote_limited of worker.sql.
WITH found AS MATERIALIZED (
    SELECT k.run_id
    FROM aiodurable_runs k
    WHERE k.claim_state = 'limited' AND k.queue = :name
    FOR UPDATE OF k SKIP LOCKED
)
UPDATE aiodurable_runs r
SET claim_state = 'ready'
FROM found f
WHERE r.run_id = f.run_id AND r.claim_state = 'limited'
