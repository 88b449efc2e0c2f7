-- name: page
-- params: after, most
-- checkpoints_pkey, checkpoint_writes_pkey, checkpoint_blobs_pkey, aiodurable_effects_pkey and
-- aiodurable_runs_thread_order_idx, each one descent a thread. The next threads of which anything
-- is stored.
WITH RECURSIVE t (thread_id, n) AS (
    SELECT :after::text, 0
    UNION ALL
    SELECT least((SELECT c.thread_id FROM checkpoints c WHERE c.thread_id > t.thread_id
                  ORDER BY c.thread_id LIMIT 1),
                 (SELECT c.thread_id FROM checkpoint_writes c WHERE c.thread_id > t.thread_id
                  ORDER BY c.thread_id LIMIT 1),
                 (SELECT c.thread_id FROM checkpoint_blobs c WHERE c.thread_id > t.thread_id
                  ORDER BY c.thread_id LIMIT 1),
                 (SELECT c.thread_id FROM aiodurable_effects c WHERE c.thread_id > t.thread_id
                  ORDER BY c.thread_id LIMIT 1),
                 (SELECT r.thread_id FROM aiodurable_runs r WHERE r.thread_id > t.thread_id
                  ORDER BY r.thread_id LIMIT 1)),
           t.n + 1
    FROM t
    WHERE t.thread_id IS NOT NULL AND t.n < :most::integer
)
SELECT t.thread_id FROM t WHERE t.n > 0 AND t.thread_id IS NOT NULL ORDER BY t.n

-- name: lines
-- params: thread_ids
-- checkpoints_pkey, once a thread, and for what stands out. One line of checkpoints for each
-- namespace: a parent has one child, but for those that update_state or a fork of LangGraph's made
-- on purpose. A parent that is gone is no finding where prune removed all before it: then the
-- oldest checkpoint names it, and needs nothing of it.
SELECT a.thread_id, x.kind, x.place
FROM pg_catalog.unnest((SELECT :thread_ids::text[])) AS a (thread_id)
CROSS JOIN LATERAL (
    WITH line AS MATERIALIZED (
        SELECT c.checkpoint_ns AS ns, c.checkpoint_id AS id, c.parent_checkpoint_id AS parent_id,
               pg_catalog.min(c.checkpoint_id) OVER w AS oldest_id,
               pg_catalog.max(c.checkpoint_id) OVER w AS newest_id,
               pg_catalog.count(*) OVER (PARTITION BY c.checkpoint_ns, c.parent_checkpoint_id)
                   AS siblings
        FROM checkpoints c
        WHERE c.thread_id = a.thread_id
        WINDOW w AS (PARTITION BY c.checkpoint_ns)
    ),
    ids AS MATERIALIZED (
        SELECT pg_catalog.jsonb_object_agg(l.ns || ' ' || l.id, true) AS known FROM line l
    )
    SELECT 'forked_line' AS kind,
           pg_catalog.concat_ws(' ', nullif(k.ns, ''), 'after', coalesce(k.parent_id, 'nothing'))
               AS place
    FROM (SELECT l.ns, l.parent_id,
                 pg_catalog.count(*) FILTER (
                     WHERE m.source IS NULL OR m.source NOT IN ('update', 'fork')) AS others
          FROM line l
          CROSS JOIN LATERAL (
              SELECT c.metadata ->> 'source'::text AS source
              FROM checkpoints c
              WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = l.ns AND c.checkpoint_id = l.id
          ) m
          WHERE l.siblings > 1
          GROUP BY l.ns, l.parent_id) k
    WHERE k.others > 1
    UNION ALL
    SELECT 'missing_parent', pg_catalog.concat_ws(' ', nullif(l.ns, ''), l.id)
    FROM line l
    CROSS JOIN ids i
    WHERE l.parent_id IS NOT NULL AND NOT i.known ? (l.ns || ' ' || l.parent_id)
      AND (l.id <> l.oldest_id
           OR EXISTS (
               SELECT FROM checkpoints c
               WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = l.ns AND c.checkpoint_id = l.id
                 AND (c.metadata ?| '{counters_since_delta_snapshot,delta_writes_versioned}'::text[]
                      OR substring(c.checkpoint ->> 'v'::text FROM '^[0-9]{1,9}$')::integer < 4)))
    UNION ALL
    SELECT 'out_of_order', pg_catalog.concat_ws(' ', nullif(l.ns, ''), l.id)
    FROM line l
    WHERE l.id <= l.parent_id
    UNION ALL
    SELECT 'unreadable_checkpoint', l.id
    FROM line l
    CROSS JOIN LATERAL (
        SELECT coalesce(
                   pg_catalog.jsonb_typeof(c.metadata -> 'step'::text) = 'number'
                   AND pg_catalog.jsonb_typeof(c.checkpoint -> 'v'::text) = 'number'
                   AND pg_catalog.jsonb_typeof(c.checkpoint -> 'channel_versions'::text) = 'object'
                   AND c.checkpoint ->> 'ts'::text IS NOT NULL, false) AS readable
        FROM checkpoints c
        WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = '' AND c.checkpoint_id = l.id
    ) m
    WHERE l.ns = '' AND l.id = l.newest_id AND NOT m.readable
) x

-- name: values
-- params: thread_ids
-- checkpoints_pkey and checkpoint_blobs_pkey, once a channel of each newest checkpoint; of those
-- without a value checkpoint_writes_pkey. A value that is gone: a task wrote the channel in the
-- step that made this version, and neither the checkpoint nor a blob has it. Channels of
-- LangGraph's own are emptied silently, and those of a DeltaChannel have a value now and then.
SELECT a.thread_id, 'missing_value' AS kind,
       pg_catalog.concat_ws(' ', nullif(h.checkpoint_ns, ''), h.checkpoint_id, v.channel) AS place
FROM pg_catalog.unnest((SELECT :thread_ids::text[])) AS a (thread_id)
CROSS JOIN LATERAL (
    SELECT DISTINCT ON (c.checkpoint_ns) c.checkpoint_ns, c.checkpoint_id
    FROM checkpoints c
    WHERE c.thread_id = a.thread_id
    ORDER BY c.checkpoint_ns, c.checkpoint_id DESC
) h
CROSS JOIN LATERAL (
    SELECT CASE WHEN pg_catalog.jsonb_typeof(c.checkpoint -> 'channel_versions'::text) = 'object'
                THEN c.checkpoint -> 'channel_versions'::text ELSE '{}' END AS versions,
           coalesce(c.checkpoint -> 'channel_values'::text, '{}') AS inline
    FROM checkpoints c
    WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = h.checkpoint_ns
      AND c.checkpoint_id = h.checkpoint_id
      AND NOT c.metadata ?| '{counters_since_delta_snapshot,delta_writes_versioned}'::text[]
    LIMIT 1
) m
CROSS JOIN LATERAL pg_catalog.jsonb_each_text(m.versions) AS v (channel, version)
WHERE NOT m.inline ? v.channel
  AND v.channel NOT LIKE '\_\_%' AND v.channel NOT LIKE 'branch:%' AND v.channel NOT LIKE 'join:%'
  AND v.channel NOT LIKE 'start:%'
  AND (SELECT true
       FROM checkpoint_blobs b
       WHERE b.thread_id = a.thread_id AND b.checkpoint_ns = h.checkpoint_ns
         AND b.channel = v.channel AND b.version = v.version
       LIMIT 1) IS NULL
  AND (SELECT true
       FROM (
           SELECT o.parent_checkpoint_id
           FROM checkpoints o
           WHERE o.thread_id = a.thread_id AND o.checkpoint_ns = h.checkpoint_ns
             AND o.checkpoint -> 'channel_versions'::text ->> v.channel = v.version
           ORDER BY o.checkpoint_id
           LIMIT 1
       ) f
       JOIN checkpoint_writes w
         ON w.thread_id = a.thread_id AND w.checkpoint_ns = h.checkpoint_ns
        AND w.checkpoint_id = f.parent_checkpoint_id AND w.channel = v.channel
       LIMIT 1) IS NOT NULL

-- name: rows
-- params: thread_ids
-- checkpoint_writes_pkey, checkpoints_pkey, checkpoint_blobs_pkey, aiodurable_effects_pkey and
-- aiodurable_runs_thread_order_idx. Rows that belong to nothing.
SELECT a.thread_id, x.kind, x.place
FROM pg_catalog.unnest((SELECT :thread_ids::text[])) AS a (thread_id)
CROSS JOIN LATERAL (
    SELECT EXISTS (SELECT FROM checkpoints c WHERE c.thread_id = a.thread_id)
           OR EXISTS (SELECT FROM aiodurable_runs r WHERE r.thread_id = a.thread_id) AS known
) s
CROSS JOIN LATERAL (
    SELECT 'writes_of_no_checkpoint' AS kind,
           pg_catalog.concat_ws(' ', nullif(w.checkpoint_ns, ''), w.checkpoint_id) AS place
    FROM (SELECT DISTINCT w.checkpoint_ns, w.checkpoint_id
          FROM checkpoint_writes w
          WHERE w.thread_id = a.thread_id) w
    WHERE (SELECT true
           FROM checkpoints c
           WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = w.checkpoint_ns
             AND c.checkpoint_id = w.checkpoint_id
           LIMIT 1) IS NULL
    UNION ALL
    SELECT 'rows_of_no_thread', 'checkpoint_blobs'
    WHERE NOT s.known AND EXISTS (SELECT FROM checkpoint_blobs b WHERE b.thread_id = a.thread_id)
    UNION ALL
    SELECT 'rows_of_no_thread', 'aiodurable_effects'
    WHERE NOT s.known AND EXISTS (SELECT FROM aiodurable_effects e WHERE e.thread_id = a.thread_id)
) x

-- name: ledger
-- params: thread_ids
-- aiodurable_fences_pkey and aiodurable_runs_thread_order_idx, once a thread; checkpoints_pkey once
-- a run; aiodurable_runs_dedup_idx for runs with a deduplication key. What the ledger says, and the
-- tables do not.
SELECT a.thread_id, x.kind, x.place
FROM pg_catalog.unnest((SELECT :thread_ids::text[])) AS a (thread_id)
LEFT JOIN aiodurable_fences f ON f.thread_id = a.thread_id
LEFT JOIN LATERAL (
    SELECT c.checkpoint_id AS oldest_id
    FROM checkpoints c
    WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = ''
    ORDER BY c.checkpoint_id
    LIMIT 1
) o ON true
CROSS JOIN LATERAL (
    SELECT r.*, pg_catalog.count(*) FILTER (WHERE r.status = 'running') OVER () AS running,
           pg_catalog.count(*) OVER (PARTITION BY r.fencing_token, r.seq) AS tied
    FROM aiodurable_runs r
    WHERE r.thread_id = a.thread_id
) r
CROSS JOIN LATERAL (
    SELECT 'token_beyond_fence' AS kind, r.run_id AS place
    WHERE r.fencing_token > coalesce(f.token, 0)
    UNION ALL
    SELECT 'runs_tied', r.run_id
    WHERE r.fencing_token IS NOT NULL AND r.tied > 1
    UNION ALL
    SELECT 'two_running', r.run_id
    WHERE r.status = 'running' AND r.running > 1
    UNION ALL
    SELECT 'running_without_token', r.run_id
    WHERE r.status = 'running' AND r.fencing_token IS NULL
    UNION ALL
    -- What is older than the oldest checkpoint was pruned.
    SELECT 'missing_result', r.run_id
    WHERE r.status = 'complete' AND r.checkpoint_id IS NOT NULL
      AND (o.oldest_id IS NULL OR o.oldest_id < r.checkpoint_id)
      AND (SELECT true
           FROM checkpoints c
           WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = ''
             AND c.checkpoint_id = r.checkpoint_id
           LIMIT 1) IS NULL
    UNION ALL
    SELECT 'input_not_used', r.run_id
    WHERE r.status = 'complete' AND r.input_type IS NOT NULL AND NOT r.consumed
      AND (r.base_checkpoint_id IS NULL OR o.oldest_id <= r.base_checkpoint_id)
      AND (SELECT true
           FROM checkpoints c
           WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = ''
             AND c.checkpoint_id > coalesce(r.base_checkpoint_id, '')
             AND c.metadata ->> 'aiodurable_run_id'::text = r.run_id
           LIMIT 1) IS NULL
    UNION ALL
    SELECT 'dedup_twice', r.run_id
    WHERE r.dedup_key IS NOT NULL
      AND r.status IN ('queued', 'running', 'failed', 'paused', 'interrupted', 'quarantined')
      AND (SELECT true
           FROM aiodurable_runs k
           WHERE k.dedup_key = r.dedup_key AND k.run_id <> r.run_id
             AND k.status IN ('queued', 'running', 'failed', 'paused', 'interrupted',
                              'quarantined')
           LIMIT 1) IS NOT NULL
) x

-- name: stuck
-- params: thread_ids, most_s, late_s
-- aiodurable_runs_thread_order_idx, once a thread, and for runs that wait aiodurable_queues_pkey,
-- aiodurable_runs_queued_idx, aiodurable_runs_queue_running_idx and aiodurable_runs_ready_key_idx;
-- aiodurable_workers_pkey and pg_stat_activity. What a worker should have changed, and none has, by
-- the conditions of worker.sql. Without a worker nothing is stuck: it waits for one.
SELECT a.thread_id, x.kind, r.run_id AS place
FROM pg_catalog.unnest((SELECT :thread_ids::text[])) AS a (thread_id)
CROSS JOIN LATERAL (
    SELECT k.*
    FROM aiodurable_runs k
    WHERE k.thread_id = a.thread_id AND k.claim_state IS NOT NULL AND k.claim_state <> 'ready'
) r
LEFT JOIN LATERAL (
-- include: worker.last_begun
) f ON true
CROSS JOIN LATERAL (
    SELECT 'claim_stuck' AS kind
    WHERE r.claim_state = 'claimed' AND (
-- include: worker.claim_is_void
    )
    UNION ALL
    SELECT 'blocked_stuck'
    WHERE r.claim_state = 'blocked' AND (
-- include: worker.nothing_in_front
    )
    UNION ALL
    SELECT 'limited_stuck'
    WHERE r.claim_state = 'limited' AND coalesce((
        SELECT (SELECT pg_catalog.count(*)
                FROM (
-- include: worker.begun_of_key
                ) u) < q.max_running_per_key
        FROM (SELECT r.queue, r.concurrency_key) w
        JOIN aiodurable_queues q ON q.name = w.queue
        WHERE q.max_running_per_key IS NOT NULL), true)
    UNION ALL
    SELECT 'scheduled_stuck'
    WHERE r.claim_state = 'scheduled'
      AND r.scheduled_at < pg_catalog.now()
                           - pg_catalog.make_interval(secs => :late_s::double precision)
) x
WHERE
-- include: a_worker_lives

-- fragment: a_worker_lives
      -- Another schema of the database has workers of its own. A standby sees no connection.
      (SELECT true
       FROM aiodurable_workers w
       JOIN pg_catalog.pg_stat_activity s
         ON pg_catalog.split_part(s.application_name, '@', 2)
            = pg_catalog.split_part(w.worker, '#', 1)
        AND s.datname = pg_catalog.current_database()
       LIMIT 1)

-- name: schedules
-- params: after, most, late_s
-- aiodurable_schedules_pkey from a cursor; aiodurable_workers and pg_stat_activity. Schedules that
-- will never fire again although they have not ended, and those that should have fired.
SELECT s.schedule_id,
       CASE WHEN s.paused_at IS NOT NULL THEN NULL
            WHEN s.next_at IS NULL AND s.ends_at IS NULL AND s.once_at IS NULL
            THEN 'schedule_without_next'
            WHEN s.next_at < pg_catalog.now()
                             - pg_catalog.make_interval(secs => :late_s::double precision)
                 AND
-- include: a_worker_lives
            THEN 'schedule_stuck' END AS kind
FROM aiodurable_schedules s
WHERE s.schedule_id > :after::text
ORDER BY s.schedule_id
LIMIT :most::integer
