-- name: depth
-- params: most
-- Of each claim state its own index (aiodurable_runs_claim_idx, _scheduled_idx, _blocked_idx,
-- _limited_idx, _claimed_idx), of the statuses aiodurable_runs_one_running_idx,
-- aiodurable_runs_interrupted_idx and aiodurable_runs_unfinished_status_idx, each up to most
-- entries. What waits and what is at work. The order is that of the index: without it, a bitmap may
-- read all entries before the limit ends it.
SELECT s.state, s.count
FROM (
    SELECT 'ready' AS state, pg_catalog.count(*) AS count
    FROM (SELECT FROM aiodurable_runs r WHERE r.claim_state = 'ready'
          ORDER BY r.queue LIMIT :most::integer) k
    UNION ALL
    SELECT 'scheduled', pg_catalog.count(*)
    FROM (SELECT FROM aiodurable_runs r WHERE r.claim_state = 'scheduled'
          ORDER BY r.scheduled_at LIMIT :most::integer) k
    UNION ALL
    SELECT 'blocked', pg_catalog.count(*)
    FROM (SELECT FROM aiodurable_runs r WHERE r.claim_state = 'blocked'
          ORDER BY r.thread_id, r.position LIMIT :most::integer) k
    UNION ALL
    SELECT 'limited', pg_catalog.count(*)
    FROM (SELECT FROM aiodurable_runs r WHERE r.claim_state = 'limited'
          ORDER BY r.queue, r.concurrency_key LIMIT :most::integer) k
    UNION ALL
    SELECT 'claimed', pg_catalog.count(*)
    FROM (SELECT FROM aiodurable_runs r WHERE r.claim_state = 'claimed'
          ORDER BY r.claimed_by LIMIT :most::integer) k
    UNION ALL
    SELECT 'running', pg_catalog.count(*)
    FROM (SELECT FROM aiodurable_runs r WHERE r.status = 'running'
          ORDER BY r.thread_id LIMIT :most::integer) k
    UNION ALL
    SELECT 'failed', pg_catalog.count(*)
    FROM (SELECT FROM aiodurable_runs r WHERE r.status = 'failed'
          ORDER BY r.thread_id LIMIT :most::integer) k
    UNION ALL
    SELECT 'quarantined', pg_catalog.count(*)
    FROM (SELECT FROM aiodurable_runs r WHERE r.status = 'quarantined'
          ORDER BY r.thread_id LIMIT :most::integer) k
    UNION ALL
    SELECT 'interrupted', pg_catalog.count(*)
    FROM (SELECT FROM aiodurable_runs r WHERE r.status = 'interrupted'
          ORDER BY r.thread_id LIMIT :most::integer) k
) s

-- name: ended
-- params: seconds, most
-- aiodurable_runs_finished_idx backwards, up to most entries. How the newest runs ended.
SELECT k.status, pg_catalog.count(*) AS count,
       pg_catalog.date_part('epoch', pg_catalog.now() - pg_catalog.min(k.finished_at)) AS age_s
FROM (
    SELECT r.status, r.finished_at
    FROM aiodurable_runs r
    WHERE r.finished_at > pg_catalog.now()
                          - pg_catalog.make_interval(secs => :seconds::double precision)
    ORDER BY r.finished_at DESC
    LIMIT :most::integer
) k
GROUP BY k.status

-- name: latencies
-- params: seconds, most
-- aiodurable_runs_finished_idx backwards, up to most entries. A run whose last attempt began
-- elsewhere than at the checkpoint at which it was accepted has been resumed: it waited for
-- something else than its start.
SELECT k.graph, pg_catalog.count(*) AS count,
       pg_catalog.percentile_cont(ARRAY[0.5, 0.95, 0.99]::double precision[])
           WITHIN GROUP (ORDER BY k.wait_s) AS waits_s,
       pg_catalog.percentile_cont(ARRAY[0.5, 0.95, 0.99]::double precision[])
           WITHIN GROUP (ORDER BY k.run_s) AS runs_s
FROM (
    SELECT r.graph,
           CASE WHEN r.attempts <= 1
                     AND coalesce(r.attempt_base_checkpoint_id, r.base_checkpoint_id)
                         IS NOT DISTINCT FROM r.base_checkpoint_id
                THEN pg_catalog.date_part(
                         'epoch', r.started_at - greatest(r.created_at, r.scheduled_at)) END
           AS wait_s,
           pg_catalog.date_part('epoch', r.finished_at - r.started_at) AS run_s
    FROM aiodurable_runs r
    WHERE r.finished_at > pg_catalog.now()
                          - pg_catalog.make_interval(secs => :seconds::double precision)
    ORDER BY r.finished_at DESC
    LIMIT :most::integer
) k
WHERE k.run_s >= 0::double precision
GROUP BY k.graph
ORDER BY 1

-- name: queue_names
-- params: most
-- aiodurable_runs_claim_idx, _limited_idx and _queue_running_idx, one look a queue;
-- aiodurable_queues_pkey; up to most entries of _scheduled_idx and _blocked_idx, which are not by
-- queue. The queues that have runs or limits, and what is scheduled or blocked in them.
WITH RECURSIVE ready AS (
    (SELECT r.queue, 1 AS n
     FROM aiodurable_runs r
     WHERE r.claim_state = 'ready'
     ORDER BY r.queue
     LIMIT 1)
    UNION ALL
    SELECT f.queue, w.n + 1
    FROM ready w
    CROSS JOIN LATERAL (
        SELECT r.queue
        FROM aiodurable_runs r
        WHERE r.claim_state = 'ready' AND r.queue > w.queue
        ORDER BY r.queue
        LIMIT 1
    ) f
    WHERE w.n < 1000
),
limited AS (
    (SELECT r.queue, 1 AS n
     FROM aiodurable_runs r
     WHERE r.claim_state = 'limited'
     ORDER BY r.queue
     LIMIT 1)
    UNION ALL
    SELECT f.queue, w.n + 1
    FROM limited w
    CROSS JOIN LATERAL (
        SELECT r.queue
        FROM aiodurable_runs r
        WHERE r.claim_state = 'limited' AND r.queue > w.queue
        ORDER BY r.queue
        LIMIT 1
    ) f
    WHERE w.n < 1000
),
at_work AS (
    (SELECT r.queue, 1 AS n
     FROM aiodurable_runs r
     WHERE r.queue IS NOT NULL AND (r.status = 'running' OR r.claim_state = 'claimed')
     ORDER BY r.queue
     LIMIT 1)
    UNION ALL
    SELECT f.queue, w.n + 1
    FROM at_work w
    CROSS JOIN LATERAL (
        SELECT r.queue
        FROM aiodurable_runs r
        WHERE r.queue IS NOT NULL AND (r.status = 'running' OR r.claim_state = 'claimed')
          AND r.queue > w.queue
        ORDER BY r.queue
        LIMIT 1
    ) f
    WHERE w.n < 1000
),
scheduled AS (
    SELECT k.queue, pg_catalog.count(*) AS count
    FROM (SELECT r.queue FROM aiodurable_runs r WHERE r.claim_state = 'scheduled'
          ORDER BY r.scheduled_at LIMIT :most::integer) k
    GROUP BY k.queue
),
blocked AS (
    SELECT k.queue, pg_catalog.count(*) AS count
    FROM (SELECT r.queue FROM aiodurable_runs r WHERE r.claim_state = 'blocked'
          ORDER BY r.thread_id, r.position LIMIT :most::integer) k
    GROUP BY k.queue
)
SELECT n.queue AS name, coalesce(q.paused, false) AS paused, q.max_running, q.max_running_per_key,
       q.rate, q.burst, coalesce(s.count, 0) AS scheduled, coalesce(b.count, 0) AS blocked,
       coalesce((SELECT pg_catalog.sum(a.count) FROM scheduled a) >= :most::integer::numeric
                OR (SELECT pg_catalog.sum(a.count) FROM blocked a) >= :most::integer::numeric,
                false)
       AS capped
FROM (
    SELECT w.queue FROM ready w
    UNION
    SELECT w.queue FROM limited w
    UNION
    SELECT w.queue FROM at_work w
    UNION
    SELECT w.queue FROM scheduled w WHERE w.queue IS NOT NULL
    UNION
    SELECT w.queue FROM blocked w WHERE w.queue IS NOT NULL
    UNION
    SELECT q.name FROM aiodurable_queues q
) n
LEFT JOIN aiodurable_queues q ON q.name = n.queue
LEFT JOIN scheduled s ON s.queue = n.queue
LEFT JOIN blocked b ON b.queue = n.queue
ORDER BY 1

-- name: pressure
-- params: queues, most, most_keys
-- aiodurable_runs_claim_idx, _limited_idx and _queue_running_idx, up to most entries of each queue.
-- The order is that of the index, as in depth. What is ready, limited and at work in each queue, by
-- state and by key. What a dead process has left and any worker may claim is ready, and not at
-- work.
WITH rows AS MATERIALIZED (
    SELECT w.queue, k.state, k.fairness_key, k.concurrency_key
    FROM pg_catalog.unnest(:queues::text[]) AS w (queue)
    CROSS JOIN LATERAL (
        (SELECT 'ready' AS state, r.fairness_key, r.concurrency_key
         FROM aiodurable_runs r
         WHERE r.claim_state = 'ready' AND r.queue = w.queue
         ORDER BY r.priority DESC, r.fairness_key, r.position
         LIMIT :most::integer)
        UNION ALL
        (SELECT 'limited', r.fairness_key, r.concurrency_key
         FROM aiodurable_runs r
         WHERE r.claim_state = 'limited' AND r.queue = w.queue
         ORDER BY r.concurrency_key, r.position
         LIMIT :most::integer)
        UNION ALL
        SELECT coalesce(o.claim_state, 'running'), o.fairness_key, o.concurrency_key
        FROM (SELECT r.claim_state, r.fairness_key, r.concurrency_key
              FROM aiodurable_runs r
              WHERE r.queue = w.queue AND (r.status = 'running' OR r.claim_state = 'claimed')
              ORDER BY r.concurrency_key
              LIMIT :most::integer) o
        WHERE coalesce(o.claim_state, 'claimed') = 'claimed'
    ) k
),
keys AS (
    SELECT p.queue, p.kind, p.key,
           pg_catalog.count(*) FILTER (WHERE p.state IN ('ready', 'limited')) AS waiting,
           pg_catalog.count(*) FILTER (WHERE p.state IN ('running', 'claimed')) AS running
    FROM (
        SELECT r.queue, 'fairness' AS kind, r.fairness_key AS key, r.state
        FROM rows r
        WHERE r.fairness_key <> ''
        UNION ALL
        SELECT r.queue, 'concurrency', r.concurrency_key, r.state
        FROM rows r
        WHERE r.concurrency_key IS NOT NULL
    ) p
    GROUP BY p.queue, p.kind, p.key
),
ranked AS (
    SELECT k.*, pg_catalog.row_number() OVER (PARTITION BY k.queue
                                              ORDER BY k.waiting DESC, k.running DESC, k.key) AS n
    FROM keys k
)
SELECT r.queue, 'state' AS kind, r.state AS key, pg_catalog.count(*) AS waiting, 0 AS running
FROM rows r
GROUP BY r.queue, r.state
UNION ALL
(SELECT k.queue, k.kind, k.key, k.waiting, k.running
 FROM ranked k
 WHERE k.n <= :most_keys::integer
 ORDER BY k.n)

-- name: oldest_ready
-- params: queues, most
-- aiodurable_runs_claim_idx, one look a group of one priority and fairness key, up to most groups a
-- queue. The first of each group in order of acceptance stands for it; one that was accepted for
-- later, or is tried again, has waited since it was due.
WITH RECURSIVE walk AS (
    SELECT w.queue, h.priority, h.fairness_key, h.since, 1 AS n
    FROM pg_catalog.unnest(:queues::text[]) AS w (queue)
    CROSS JOIN LATERAL (
        SELECT r.priority, r.fairness_key, greatest(r.created_at, r.scheduled_at) AS since
        FROM aiodurable_runs r
        WHERE r.claim_state = 'ready' AND r.queue = w.queue
        ORDER BY r.priority DESC, r.fairness_key, r.position
        LIMIT 1
    ) h
    UNION ALL
    SELECT w.queue, h.priority, h.fairness_key, h.since, w.n + 1
    FROM walk w
    CROSS JOIN LATERAL (
        (SELECT r.priority, r.fairness_key, greatest(r.created_at, r.scheduled_at) AS since
         FROM aiodurable_runs r
         WHERE r.claim_state = 'ready' AND r.queue = w.queue AND r.priority = w.priority
           AND r.fairness_key > w.fairness_key
         ORDER BY r.fairness_key, r.position
         LIMIT 1)
        UNION ALL
        (SELECT r.priority, r.fairness_key, greatest(r.created_at, r.scheduled_at) AS since
         FROM aiodurable_runs r
         WHERE r.claim_state = 'ready' AND r.queue = w.queue AND r.priority < w.priority
         ORDER BY r.priority DESC, r.fairness_key, r.position
         LIMIT 1)
        LIMIT 1
    ) h
    WHERE w.n < :most::integer
)
SELECT w.queue,
       greatest(0, pg_catalog.date_part(
           'epoch', pg_catalog.clock_timestamp() - pg_catalog.min(w.since))) AS age_s
FROM walk w
GROUP BY w.queue

-- name: workers
-- params: most
-- aiodurable_workers_pkey; pg_stat_activity. A standby does not know the connections of the
-- primary.
WITH processes AS MATERIALIZED (
    SELECT DISTINCT pg_catalog.split_part(s.application_name, '@', 2) AS process
    FROM pg_catalog.pg_stat_activity s
    WHERE s.application_name LIKE 'aiodurable:%'
)
SELECT w.worker, w.hostname, w.pid, w.version, w.queues, w.graphs, w.concurrency, w.running,
       w.loop_lag_s, w.loop_lag_max_s, w.draining, w.started_at, w.seen_at,
       greatest(0, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - w.seen_at))
       AS age_s,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN pg_catalog.split_part(w.worker, '#', 1) IN (SELECT p.process FROM processes p) END
       AS alive
FROM aiodurable_workers w
ORDER BY w.worker
LIMIT :most::integer

-- name: leases_held
-- pg_locks and pg_stat_activity. Leases of lock sessions; NULL on a standby, which has none.
SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN (SELECT pg_catalog.count(*)
                  FROM aiodurable_leases l
                  JOIN pg_catalog.pg_stat_activity s ON s.pid = l.pid
                  WHERE s.application_name LIKE 'aiodurable:lock@%') END AS leases,
       pg_catalog.clock_timestamp() AS at

-- name: lock_sessions
-- params: most
-- pg_stat_activity and pg_locks. The lock sessions of this database, with what they hold.
SELECT k.pid, k.application, k.client, k.since, k.role, k.authorized, k.leases
FROM (
    SELECT s.pid, coalesce(h.leases, 0) AS leases,
-- include: holders.session_columns
    FROM pg_catalog.pg_stat_activity s
    LEFT JOIN (SELECT l.pid, pg_catalog.count(*) AS leases
               FROM aiodurable_leases l
               GROUP BY l.pid) h ON h.pid = s.pid
    WHERE s.application_name LIKE 'aiodurable:lock@%'
      AND s.datname = pg_catalog.current_database()
) k
ORDER BY k.leases DESC, k.pid
LIMIT :most::integer

-- name: schedules
-- params: after, most
-- aiodurable_schedules_pkey.
SELECT pg_catalog.now() AS now,
-- include: schedules.record
FROM aiodurable_schedules s
WHERE s.schedule_id > :after
ORDER BY s.schedule_id
LIMIT :most::integer

-- name: last_slots
-- params: schedule_ids, most
-- aiodurable_runs_schedule_idx backwards, once a schedule.
SELECT k.schedule_id, k.run_id, k.thread_id, k.status, k.created_at, k.started_at, k.finished_at
FROM pg_catalog.unnest(:schedule_ids::text[]) AS w (schedule_id)
CROSS JOIN LATERAL (
    SELECT r.schedule_id, r.run_id, r.thread_id, r.status, r.created_at, r.started_at,
           r.finished_at
    FROM aiodurable_runs r
    WHERE r.schedule_id = w.schedule_id
    ORDER BY r.run_id DESC
    LIMIT :most::integer
) k

-- name: tables
-- Catalogue and statistics only: the sizes of LangGraph's and our own tables.
SELECT c.relname::text AS name,
       pg_catalog.pg_table_size(c.oid::pg_catalog.regclass) AS bytes,
       pg_catalog.pg_indexes_size(c.oid::pg_catalog.regclass) AS index_bytes,
       coalesce(s.n_live_tup, greatest(c.reltuples, 0)::bigint) AS live_rows,
       coalesce(s.n_dead_tup, 0) AS dead_rows,
       greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at,
       greatest(s.last_analyze, s.last_autoanalyze) AS analyzed_at
FROM pg_catalog.pg_class c
LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'p')
  AND c.oid = ANY (ARRAY(
      SELECT pg_catalog.to_regclass(n.name)::oid
      FROM pg_catalog.unnest(ARRAY[
          'checkpoints', 'checkpoint_blobs', 'checkpoint_writes', 'aiodurable_runs',
          'aiodurable_fences', 'aiodurable_effects', 'aiodurable_signals', 'aiodurable_schedules',
          'aiodurable_queues', 'aiodurable_workers', 'aiodurable_status_history',
          'aiodurable_audit']) AS n (name)))
ORDER BY 2 DESC, 1

-- name: server
-- No table. The database as a whole.
SELECT pg_catalog.pg_database_size(pg_catalog.current_database()) AS bytes,
       pg_catalog.pg_is_in_recovery() AS standby,
       pg_catalog.current_setting('max_connections')::integer AS max_connections,
       (SELECT pg_catalog.count(*)
        FROM pg_catalog.pg_stat_activity s
        WHERE s.datname = pg_catalog.current_database()) AS connections,
       (SELECT pg_catalog.date_part('epoch',
                                    pg_catalog.clock_timestamp() - pg_catalog.min(s.xact_start))
        FROM pg_catalog.pg_stat_activity s
        WHERE s.datname = pg_catalog.current_database() AND s.pid <> pg_catalog.pg_backend_pid()
       ) AS oldest_transaction_s

-- name: prunable
-- params: percent, before
-- Some pages of checkpoints, chosen at random; checkpoints_pkey, one look a thread on them. What is
-- older than an id, and whether a later checkpoint follows it: only the last one of a thread can be
-- its newest.
SELECT coalesce(pg_catalog.sum(k.checkpoints - k.newest::integer), 0)::bigint AS checkpoints,
       pg_catalog.count(*) FILTER (WHERE k.newest AND k.checkpoint_ns = '') AS threads
FROM (
    SELECT s.checkpoint_ns, s.checkpoints,
           (SELECT true
            FROM checkpoints n
            WHERE n.thread_id = s.thread_id AND n.checkpoint_ns = s.checkpoint_ns
              AND n.checkpoint_id > s.last
            LIMIT 1) IS NULL AS newest
    FROM (
        SELECT c.thread_id, c.checkpoint_ns, pg_catalog.count(*) AS checkpoints,
               pg_catalog.max(c.checkpoint_id) AS last
        FROM checkpoints c TABLESAMPLE SYSTEM (:percent::real)
        WHERE c.checkpoint_id < :before
        GROUP BY c.thread_id, c.checkpoint_ns
    ) s
) k

-- name: register
-- params: worker, hostname, pid, version, queues, graphs, concurrency, running, loop_lag_s
-- params: loop_lag_max_s, draining, age_s, unseen_s
-- aiodurable_workers_pkey; the table, whose rows are workers. What a worker says of itself; how
-- many others have its queues and graphs, and how many of these come before it by name.
INSERT INTO aiodurable_workers AS w (
    worker, hostname, pid, version, queues, graphs, concurrency, running, loop_lag_s,
    loop_lag_max_s, draining, started_at)
VALUES (:worker, :hostname, :pid::integer, :version, :queues::text[], :graphs::text[],
        :concurrency::integer, :running::integer, :loop_lag_s::double precision,
        :loop_lag_max_s::double precision, :draining::boolean,
        pg_catalog.now() - pg_catalog.make_interval(secs => :age_s::double precision))
ON CONFLICT (worker) DO UPDATE
SET hostname = excluded.hostname, pid = excluded.pid, version = excluded.version,
    queues = excluded.queues, graphs = excluded.graphs, concurrency = excluded.concurrency,
    running = excluded.running, loop_lag_s = excluded.loop_lag_s,
    loop_lag_max_s = excluded.loop_lag_max_s, draining = excluded.draining,
    started_at = excluded.started_at, seen_at = pg_catalog.now()
RETURNING (SELECT ARRAY[pg_catalog.count(*) FILTER (WHERE o.worker < w.worker),
                        pg_catalog.count(*)]
           FROM aiodurable_workers o
           WHERE o.worker <> w.worker
             AND pg_catalog.to_jsonb(o.queues) = pg_catalog.to_jsonb(w.queues)
             AND pg_catalog.to_jsonb(o.graphs) = pg_catalog.to_jsonb(w.graphs)
             AND NOT o.draining
             AND o.seen_at > pg_catalog.now()
                             - pg_catalog.make_interval(secs => :unseen_s::double precision)
          ) AS others

-- name: unregister
-- params: worker
-- aiodurable_workers_pkey.
DELETE FROM aiodurable_workers w
WHERE w.worker = :worker

-- name: take_slot
-- params: every_s, kept_s
-- aiodurable_status_history_pkey. One worker of all takes the sample of this interval: the one
-- whose row is there first. Rows that are too old go with it.
WITH gone AS (
    DELETE FROM aiodurable_status_history h
    WHERE h.at < pg_catalog.now() - pg_catalog.make_interval(secs => :kept_s::double precision)
)
INSERT INTO aiodurable_status_history AS h (at)
VALUES (pg_catalog.date_bin(
    pg_catalog.make_interval(secs => :every_s::double precision), pg_catalog.now(),
    pg_catalog.to_timestamp(0::double precision)))
ON CONFLICT (at) DO NOTHING
RETURNING h.at,
          (SELECT pg_catalog.date_part('epoch', pg_catalog.now() - o.taken_at)
           FROM aiodurable_status_history o
           WHERE o.taken_at IS NOT NULL
           ORDER BY o.at DESC
           LIMIT 1) AS last_s

-- name: write_sample
-- params: at, by_status, estimated, queued, ended, ended_s
-- aiodurable_status_history_pkey.
UPDATE aiodurable_status_history h
SET taken_at = pg_catalog.now(), by_status = :by_status::text::jsonb,
    estimated = :estimated::text[], queued = :queued::text::jsonb, ended = :ended::text::jsonb,
    ended_s = :ended_s::double precision
WHERE h.at = :at

-- name: history
-- params: seconds
-- aiodurable_status_history_pkey. What was taken since then; a slot whose worker died before it
-- had counted is left out.
SELECT h.taken_at AS at, h.by_status::text AS by_status, h.estimated, h.queued::text AS queued,
       h.ended::text AS ended, h.ended_s
FROM aiodurable_status_history h
WHERE h.at > pg_catalog.now() - pg_catalog.make_interval(secs => :seconds::double precision)
  AND h.taken_at IS NOT NULL
ORDER BY h.at

-- name: tidy
-- params: unseen_s, audit_s, most
-- aiodurable_workers whole, a row a worker; the first entries of aiodurable_audit_pkey, at most
-- `most`. Workers that were not seen and whose process has no connection, and audit records that
-- are too old.
WITH dead AS (
    DELETE FROM aiodurable_workers w
    WHERE w.seen_at < pg_catalog.now()
                      - pg_catalog.make_interval(secs => :unseen_s::double precision)
      AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_stat_activity s
          WHERE pg_catalog.split_part(s.application_name, '@', 2)
                = pg_catalog.split_part(w.worker, '#', 1))
)
DELETE FROM aiodurable_audit a
USING (SELECT f.id FROM aiodurable_audit f ORDER BY f.id LIMIT :most::integer) f
WHERE a.id = f.id
  AND a.at < pg_catalog.now() - pg_catalog.make_interval(secs => :audit_s::double precision)

-- name: record
-- params: actor, action, thread_id, run_id, details
-- aiodurable_audit_pkey. Ids come from the sequence of the order of acceptance.
INSERT INTO aiodurable_audit AS a (id, actor, action, thread_id, run_id, details)
VALUES (pg_catalog.nextval('aiodurable_run_positions'::pg_catalog.regclass), :actor, :action,
        :thread_id, :run_id, :details::text::jsonb)
RETURNING a.id, a.at, a.actor, a.action, a.thread_id, a.run_id, a.details::text AS details

-- name: audit
-- params: before, thread_id, most
-- aiodurable_audit_pkey backwards; aiodurable_audit_thread_idx where a thread is given.
SELECT a.id, a.at, a.actor, a.action, a.thread_id, a.run_id, a.details::text AS details
FROM aiodurable_audit a
WHERE a.id < coalesce(:before::bigint, 9223372036854775807)
  AND (:thread_id::text IS NULL OR a.thread_id = :thread_id)
ORDER BY a.id DESC
LIMIT :most::integer
