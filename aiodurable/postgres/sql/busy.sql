-- fragment: in_front
-- What the thread of a has in front of a run: what is unfinished, and the newest that began.
          k.run_id = ANY (ARRAY (
              SELECT u.run_id
              FROM aiodurable_runs u
              WHERE u.thread_id = a.thread_id
                AND u.status IN ('queued', 'running', 'failed', 'paused', 'quarantined')
              UNION ALL
              (SELECT q.run_id
               FROM aiodurable_runs q
               WHERE q.thread_id = a.thread_id AND q.fencing_token IS NOT NULL
                 AND q.status NOT IN ('rejected', 'superseded')
               ORDER BY q.fencing_token DESC NULLS LAST, q.seq DESC, q.created_at DESC
               LIMIT 1)))
      AND k.status IN ('queued', 'running', 'failed', 'paused', 'interrupted', 'quarantined')

-- name: interrupt
-- params: thread_ids, run_ids, roll_backs, spared, channel
-- aiodurable_runs_unfinished_status_idx and aiodurable_runs_thread_order_idx for what each thread
-- has in front of its run, aiodurable_runs_pkey for the rows; aiodurable_fences_pkey. All of it
-- makes way for the run: queued runs are given up, one that waits for another attempt has none, an
-- open question, a gate and what failed are passed, and the run at work is cancelled (the channel
-- hurries it). What is due later stays, and what is spared. The rows are locked first, as in cancel
-- of queue.sql; those of a thread in the order in which begin of worker.sql takes them. The array
-- of what is locked keeps a join from reading the whole index. Returns the tokens and the ids of
-- the threads' leases. No thread comes twice.
WITH front AS MATERIALIZED (
    SELECT f.run_id, a.run_id AS made_way_for, a.roll_back
    FROM unnest(:thread_ids::text[], :run_ids::text[], :roll_backs::boolean[])
        AS a (thread_id, run_id, roll_back)
    CROSS JOIN LATERAL (
        SELECT k.run_id
        FROM aiodurable_runs k
        WHERE
-- include: in_front
    ) f
    WHERE f.run_id <> a.run_id AND f.run_id <> ALL (:spared::text[])
),
locked AS MATERIALIZED (
    SELECT k.run_id, k.status, k.claim_state
    FROM aiodurable_runs k
    WHERE k.run_id = ANY (ARRAY (SELECT f.run_id FROM front f))
-- include if own_transaction: runs.short_wait
    ORDER BY k.thread_id, k.fencing_token NULLS LAST, k.position
    FOR UPDATE OF k
),
found AS MATERIALIZED (
    SELECT k.run_id, k.status, k.claim_state, f.made_way_for, f.roll_back
    FROM locked k
    JOIN front f ON f.run_id = k.run_id
),
given_up AS (
    UPDATE aiodurable_runs r
    SET status = 'superseded', status_reason = 'interrupted', interrupted_by = k.made_way_for,
        claim_state = NULL, finished_at = pg_catalog.now()
    FROM found k
    WHERE r.run_id = k.run_id AND r.run_id = ANY (ARRAY (SELECT l.run_id FROM locked l))
      AND k.status = 'queued' AND k.claim_state <> 'scheduled'
    RETURNING r.run_id
),
passed AS (
    UPDATE aiodurable_runs r
    SET status = CASE WHEN w.stops THEN 'paused' ELSE r.status END,
        status_reason = CASE WHEN w.stops THEN 'cancelled' ELSE r.status_reason END,
        cancel_requested_at = CASE WHEN w.stops
                                   THEN coalesce(r.cancel_requested_at, pg_catalog.now())
                                   ELSE r.cancel_requested_at END,
        claim_state = NULL, interrupted_by = k.made_way_for,
        roll_back = r.roll_back OR k.roll_back,
        finished_at = coalesce(r.finished_at, pg_catalog.now())
    FROM found k
    -- What a worker or resume_many would go on with stops, as if it had been cancelled.
    CROSS JOIN LATERAL (
        SELECT k.status = 'failed' OR k.claim_state IS NOT NULL AS stops
    ) w
    WHERE r.run_id = k.run_id AND r.run_id = ANY (ARRAY (SELECT l.run_id FROM locked l))
      AND k.status IN ('failed', 'paused', 'interrupted', 'quarantined')
    RETURNING r.run_id
),
cancelled AS (
    UPDATE aiodurable_runs r
    SET cancel_requested_at = coalesce(r.cancel_requested_at, pg_catalog.now()),
        claim_state = NULL, interrupted_by = k.made_way_for, roll_back = r.roll_back OR k.roll_back
    FROM found k
    WHERE r.run_id = k.run_id AND r.run_id = ANY (ARRAY (SELECT l.run_id FROM locked l))
      AND k.status = 'running'
    RETURNING r.run_id
)
SELECT f.thread_id, f.token, f.lease_id, n.cancelled
FROM (SELECT pg_catalog.count(pg_catalog.pg_notify(:channel::text, c.run_id)) AS cancelled
      FROM cancelled c) n
LEFT JOIN aiodurable_fences f ON f.thread_id = ANY (:thread_ids::text[])

-- name: locked_threads
-- params: thread_ids
-- aiodurable_runs_unfinished_status_idx and aiodurable_runs_thread_order_idx once a thread,
-- aiodurable_runs_pkey for the rows. The threads of which another transaction has locked a row that
-- interrupt locks: it would wait for each of them in turn. Those that are free are locked.
WITH front AS MATERIALIZED (
    SELECT a.thread_id, f.run_id
    FROM pg_catalog.unnest(:thread_ids::text[]) AS a (thread_id)
    CROSS JOIN LATERAL (
        SELECT k.run_id
        FROM aiodurable_runs k
        WHERE
-- include: in_front
    ) f
),
free AS MATERIALIZED (
    SELECT k.run_id
    FROM aiodurable_runs k
    WHERE k.run_id = ANY (ARRAY (SELECT f.run_id FROM front f))
    FOR UPDATE OF k SKIP LOCKED
)
SELECT DISTINCT f.thread_id
FROM front f
LEFT JOIN free l ON l.run_id = f.run_id
WHERE l.run_id IS NULL

-- name: interrupt_again
-- params: thread_id, run_id, token, lease_id, channel, roll_back
-- aiodurable_runs_one_running_idx, by the thread; aiodurable_fences_pkey. A run that was not at
-- work yet when interrupt came, under the lease that was held then; not one of a later lease.
WITH cancelled AS (
    UPDATE aiodurable_runs r
    SET cancel_requested_at = coalesce(r.cancel_requested_at, pg_catalog.now()),
        claim_state = NULL, interrupted_by = :run_id, roll_back = r.roll_back OR :roll_back
    WHERE r.thread_id = :thread_id AND r.status = 'running' AND r.run_id <> :run_id
      AND r.fencing_token <= :token::bigint
-- include: runs.short_wait
      AND (SELECT true
           FROM aiodurable_fences f
           WHERE f.thread_id = r.thread_id AND f.token = :token::bigint
             AND f.lease_id = :lease_id::bigint
           LIMIT 1)
    RETURNING r.run_id
)
SELECT c.run_id, pg_catalog.pg_notify(:channel::text, c.run_id)
FROM cancelled c

-- name: left
-- params: thread_id, run_id
-- aiodurable_runs_pkey, aiodurable_runs_thread_order_idx. What a run is to do with a busy thread;
-- the thread's newest run that began, if any, and whether another one was to take its place.
SELECT o.on_busy, l.run_id, l.status, l.base_checkpoint_id, l.made_way, l.roll_back
FROM (SELECT (SELECT r.on_busy
              FROM aiodurable_runs r
              WHERE r.run_id = :run_id::text) AS on_busy) o
LEFT JOIN LATERAL (
    SELECT r.run_id, r.status, r.base_checkpoint_id, r.interrupted_by IS NOT NULL AS made_way,
           r.roll_back
    FROM aiodurable_runs r
    WHERE r.thread_id = :thread_id AND r.fencing_token IS NOT NULL
      AND r.status NOT IN ('rejected', 'superseded')
    ORDER BY r.fencing_token DESC NULLS LAST, r.seq DESC, r.created_at DESC
    LIMIT 1
) l ON true

-- name: place
-- params: thread_id, run_id
-- aiodurable_runs_pkey; aiodurable_runs_queued_idx, backwards. Where a call stands in the order of
-- acceptance: where the run that it names does, else behind the newest that waits.
SELECT coalesce(
    (SELECT o.position
     FROM aiodurable_runs o
     WHERE o.run_id = :run_id AND o.thread_id = :thread_id AND o.status = 'queued'),
    (SELECT r.position
     FROM aiodurable_runs r
     WHERE r.thread_id = :thread_id AND r.status = 'queued' AND r.claim_state <> 'scheduled'
     ORDER BY r.position DESC
     LIMIT 1)) AS position

-- name: waits_before
-- params: thread_id, position, run_id
-- aiodurable_runs_queued_idx. A run that was accepted no later than this position, and waits.
SELECT r.run_id
FROM aiodurable_runs r
WHERE r.thread_id = :thread_id AND r.status = 'queued' AND r.claim_state <> 'scheduled'
  AND r.position <= :position AND r.run_id <> :run_id
ORDER BY r.position
LIMIT 1

-- name: off_the_line
-- params: thread_id, base_checkpoint_id
-- checkpoints_pkey, from the base onwards. Whether the base is gone, and whether any later
-- checkpoint does not come from it. Compares whole rows, as consumed of runs.sql.
SELECT :base_checkpoint_id::text IS NOT NULL
       AND (SELECT true
            FROM checkpoints c
            WHERE c.thread_id = :thread_id AND c.checkpoint_ns = ''
              AND c.checkpoint_id = :base_checkpoint_id
            LIMIT 1) IS NULL AS gone,
       (SELECT true
        FROM checkpoints c
        WHERE c.thread_id = :thread_id AND c.checkpoint_ns = ''
          AND (c.thread_id, c.checkpoint_ns, c.checkpoint_id)
              > (:thread_id, '', coalesce(:base_checkpoint_id, ''))
          AND coalesce(c.parent_checkpoint_id, '') < coalesce(:base_checkpoint_id, '')
        LIMIT 1) IS NOT NULL AS branched

-- name: keep
-- params: run_id
-- aiodurable_runs_pkey. What a run wrote cannot be removed, and stays.
UPDATE aiodurable_runs r
SET roll_back = false
WHERE r.run_id = :run_id

-- name: roll_back
-- params: thread_id, run_id, base_checkpoint_id
-- checkpoints_pkey, checkpoint_writes_pkey, checkpoint_blobs_pkey and aiodurable_effects_pkey, by
-- their first column; aiodurable_runs_pkey. What was written after the base goes, in all
-- namespaces, and so does a command that was stored beside the base. A value that a removed
-- checkpoint has from one that stays is that one's: the parents of the first removed ones tell
-- which. The run is over. `|| ''` hides the ids from the index of block ranges, by which the whole
-- table would be read.
WITH gone AS (
    DELETE FROM checkpoints c
    WHERE c.thread_id = :thread_id AND c.checkpoint_id || '' > coalesce(:base_checkpoint_id, '')
    RETURNING c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id,
              CASE WHEN pg_catalog.jsonb_typeof(c.checkpoint -> 'channel_versions'::text)
                        = 'object'
                   THEN c.checkpoint -> 'channel_versions'::text ELSE '{}' END AS versions
),
writes AS (
    DELETE FROM checkpoint_writes w
    WHERE w.thread_id = :thread_id
      AND (w.checkpoint_id > coalesce(:base_checkpoint_id, '')
           OR w.checkpoint_id = :base_checkpoint_id AND w.checkpoint_ns = ''
              AND w.task_id = '00000000-0000-0000-0000-000000000000')
),
value AS MATERIALIZED (
    SELECT g.checkpoint_ns, v.channel, v.version
    FROM gone g
    CROSS JOIN LATERAL pg_catalog.jsonb_each_text(g.versions) AS v (channel, version)
    EXCEPT
    SELECT p.checkpoint_ns, v.channel, v.version
    FROM gone g
    CROSS JOIN LATERAL (
        SELECT c.checkpoint_ns,
               CASE WHEN pg_catalog.jsonb_typeof(c.checkpoint -> 'channel_versions'::text)
                         = 'object'
                    THEN c.checkpoint -> 'channel_versions'::text ELSE '{}' END AS versions
        FROM checkpoints c
        WHERE c.thread_id = :thread_id AND c.checkpoint_ns = g.checkpoint_ns
          AND c.checkpoint_id = g.parent_checkpoint_id
          AND c.checkpoint_id <= :base_checkpoint_id
        LIMIT 1
    ) p
    CROSS JOIN LATERAL pg_catalog.jsonb_each_text(p.versions) AS v (channel, version)
),
blobs AS (
    DELETE FROM checkpoint_blobs b
    USING value v
    WHERE b.thread_id = :thread_id AND b.checkpoint_ns = v.checkpoint_ns
      AND b.channel = v.channel AND b.version = v.version
),
effects AS (
    DELETE FROM aiodurable_effects e
    WHERE e.thread_id = :thread_id AND e.run_id = :run_id
)
UPDATE aiodurable_runs r
SET status = 'superseded', status_reason = 'rolled back', claim_state = NULL,
    checkpoint_id = NULL, consumed = false, roll_back = false,
    answers_type = NULL, answers = NULL, questions_closed = NULL,
    finished_at = coalesce(r.finished_at, pg_catalog.now())
WHERE r.run_id = :run_id AND r.thread_id = :thread_id
  AND r.status IN ('running', 'failed', 'paused', 'interrupted', 'quarantined')
RETURNING r.run_id
