-- name: runs
-- params: thread_id, grace_s, most_s, most
-- aiodurable_runs_thread_order_idx for the newest runs that began, aiodurable_runs_queued_idx for
-- the first that wait, aiodurable_runs_pkey for the rows; pg_stat_activity once a row. What the
-- ledger says of a thread, and what a worker would see of it: the conditions are those of
-- worker.sql. process_left: by orphans, its process may have the run again. claim_void: by
-- abandoned. free: by promote.
SELECT r.run_id, r.graph, r.status, r.status_reason, r.attempts, r.failures, r.max_attempts,
       r.fencing_token, r.attempted_by, r.created_at, r.started_at, r.finished_at, r.failed_at,
       r.checkpoint_id, r.cancel_requested_at, r.claim_state, r.claimed_by, r.claimed_at, r.queue,
       r.priority, r.fairness_key, r.concurrency_key, r.scheduled_at, r.schedule_id, r.on_busy,
       r.interrupted_by, r.waiting_for, r.start_timeout_s,
       coalesce(r.status_reason = 'graph changed' OR r.error LIKE 'GraphChangedError(%', false)
           AS graph_changed,
       r.start_timeout_s IS NOT NULL
           AND r.created_at + pg_catalog.make_interval(secs => r.start_timeout_s)
               < pg_catalog.clock_timestamp() AS too_late,
       pg_catalog.pg_is_in_recovery() OR EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity s
           WHERE pg_catalog.split_part(s.application_name, '@', 2) = r.attempted_by)
           AS process_seen,
       (
-- include: worker.may_live
       ) AS process_left,
       (
-- include: worker.claim_is_void
       ) AND NOT pg_catalog.pg_is_in_recovery() AS claim_void,
       f.run_id AS last_run_id, f.status AS last_status,
       (
-- include: worker.nothing_in_front
       ) AS free,
       (SELECT b.run_id
        FROM aiodurable_runs b
        WHERE b.thread_id = a.thread_id AND b.status = 'queued' AND b.run_id <> r.run_id
          AND b.claim_state <> 'scheduled' AND b.position < r.position
        ORDER BY b.position
        LIMIT 1) AS earlier_run_id
FROM (SELECT :thread_id::text AS thread_id) a
JOIN aiodurable_runs r ON r.run_id = ANY (ARRAY (
    SELECT n.run_id
    FROM (
        (SELECT k.run_id
         FROM aiodurable_runs k
         WHERE k.thread_id = a.thread_id AND k.fencing_token IS NOT NULL
         ORDER BY k.fencing_token DESC NULLS LAST, k.seq DESC, k.created_at DESC
         LIMIT :most::integer)
        UNION
        (SELECT k.run_id
         FROM aiodurable_runs k
         WHERE k.thread_id = a.thread_id AND k.status = 'queued'
         ORDER BY k.position
         LIMIT :most::integer)
        UNION
        -- set aside or given up before it began: the index has them last
        (SELECT k.run_id
         FROM aiodurable_runs k
         WHERE k.thread_id = a.thread_id AND k.fencing_token IS NULL AND k.status <> 'queued'
         ORDER BY k.seq DESC, k.created_at DESC
         LIMIT :most::integer)
    ) n))
LEFT JOIN LATERAL (
-- include: worker.last_begun
) f ON true
ORDER BY r.fencing_token DESC NULLS LAST, r.seq DESC, r.position

-- name: queues
-- params: names, keys
-- aiodurable_queues_pkey; aiodurable_runs_queue_running_idx, as at_work_of of worker.sql, with
-- the same limit. The limits of queues as a claim would find them, and what is at work; of the
-- concurrency key too.
SELECT w.name, w.key, coalesce(q.paused, false) AS paused, q.max_running, q.max_running_per_key,
       q.rate,
-- include: worker.refilled
       AS tokens,
       (SELECT pg_catalog.count(*)
        FROM (
            SELECT
            FROM aiodurable_runs r
            WHERE r.queue = w.name AND (r.status = 'running' OR r.claim_state = 'claimed')
              AND coalesce(r.claim_state, 'claimed') = 'claimed'
            LIMIT 10000
        ) u) AS at_work,
       (SELECT pg_catalog.count(*)
        FROM (
            SELECT
            FROM aiodurable_runs r
            WHERE r.queue = w.name AND r.concurrency_key = w.key
              AND (r.status = 'running' OR r.claim_state = 'claimed')
              AND coalesce(r.claim_state, 'claimed') = 'claimed'
            LIMIT 10000
        ) u) AS at_work_of_key,
       (SELECT pg_catalog.min(r.started_at)
        FROM aiodurable_runs r
        WHERE r.queue = w.name AND r.concurrency_key = w.key
          AND (r.status = 'running' OR r.claim_state = 'claimed')
          AND coalesce(r.claim_state, 'claimed') = 'claimed') AS oldest_of_key
FROM unnest(:names::text[], :keys::text[]) AS w (name, key)
LEFT JOIN aiodurable_queues q ON q.name = w.name

-- name: thread
-- params: thread_id
-- aiodurable_fences_pkey; aiodurable_signals_open_idx and aiodurable_effects_pkey, a hundred rows
-- at most; aiodurable_workers_pkey, a row a worker, and pg_stat_activity. The time, the fence, the
-- mailbox, side effects of which nobody knows whether they happened, and the workers that live, or
-- that a standby has seen within a minute.
SELECT pg_catalog.clock_timestamp() AS at, pg_catalog.pg_is_in_recovery() AS standby,
       f.token, f.lease_id,
       ARRAY (
           SELECT DISTINCT s.name
           FROM (
               SELECT k.name
               FROM aiodurable_signals k
               WHERE k.thread_id = a.thread_id AND k.taken_at IS NULL
               ORDER BY k.name, k.position
               LIMIT 100
           ) s) AS signals,
       ARRAY (
           SELECT e.name
           FROM aiodurable_effects e
           WHERE e.thread_id = a.thread_id AND e.state = 'begun'
           ORDER BY e.task, e.name
           LIMIT 100) AS effects,
       (SELECT pg_catalog.count(DISTINCT w.worker)
        FROM aiodurable_workers w
        LEFT JOIN pg_catalog.pg_stat_activity s
          ON pg_catalog.split_part(s.application_name, '@', 2)
             = pg_catalog.split_part(w.worker, '#', 1)
         AND s.datname = pg_catalog.current_database()
        WHERE s.pid IS NOT NULL
           OR pg_catalog.pg_is_in_recovery()
              AND w.seen_at > pg_catalog.clock_timestamp()
                              - pg_catalog.make_interval(mins => 1)) AS workers
FROM (SELECT :thread_id::text AS thread_id) a
LEFT JOIN aiodurable_fences f ON f.thread_id = a.thread_id

-- name: schedules
-- params: schedule_ids
-- aiodurable_schedules_pkey. When the schedules of the thread's runs fire next.
SELECT s.schedule_id, s.next_at, s.paused_at, s.thread_id
FROM aiodurable_schedules s
WHERE s.schedule_id = ANY (:schedule_ids::text[])
