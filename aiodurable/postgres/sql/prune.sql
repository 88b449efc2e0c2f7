-- name: threads_on_pages
-- params: first_page, end_page, older_than_id, delete
-- TID range scan of checkpoints. Threads with a checkpoint older than older_than_id on the pages,
-- in the order of their last rows: what is kept finds space on its page once the rows beside it
-- went. Unless all is deleted only those of which a page shows that they have a history: what was
-- pruned before has one checkpoint, without a parent, and is passed over at a glance.
SELECT c.thread_id
FROM checkpoints c
WHERE c.ctid >= pg_catalog.format('(%s,0)', :first_page::bigint)::tid
  AND c.ctid < pg_catalog.format('(%s,0)', :end_page::bigint)::tid
  AND c.checkpoint_id < :older_than_id::text
GROUP BY c.thread_id
HAVING :delete::boolean OR pg_catalog.count(*) > 1
   OR pg_catalog.bool_or(c.parent_checkpoint_id IS NOT NULL)
ORDER BY pg_catalog.max(c.ctid)

-- name: threads_with_history
-- params: thread_ids, older_than_id, delete, first_page, end_page
-- checkpoints_pkey, three descents a thread. The threads whose head is older than older_than_id
-- and, unless all is deleted, not their only checkpoint, or naming a parent yet, which a prune that
-- died has not unlinked. Of threads whose rows lie on the pages of several steps those whose head
-- is on these: each is counted, and refused, once. A head that names no parent may not show on its
-- own page that it has a history.
SELECT a.thread_id
FROM pg_catalog.unnest((SELECT :thread_ids::text[])) AS a (thread_id)
CROSS JOIN LATERAL (
    SELECT c.checkpoint_id, c.parent_checkpoint_id, c.ctid
    FROM checkpoints c
    WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = ''
    ORDER BY c.checkpoint_id DESC
    LIMIT 1
) h
WHERE h.checkpoint_id < :older_than_id::text
  AND (h.ctid >= pg_catalog.format('(%s,0)', :first_page::bigint)::tid
       AND h.ctid < pg_catalog.format('(%s,0)', :end_page::bigint)::tid
       OR NOT :delete::boolean AND h.parent_checkpoint_id IS NULL)
  AND (:delete::boolean
       OR h.parent_checkpoint_id IS NOT NULL
       OR EXISTS (SELECT 1
                  FROM checkpoints c
                  WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = ''
                    AND c.checkpoint_id < h.checkpoint_id)
       OR EXISTS (SELECT 1 FROM checkpoints c WHERE c.thread_id = a.thread_id
                  AND c.checkpoint_ns > ''))

-- name: tokens
-- params: thread_ids
-- aiodurable_fences_pkey.
SELECT thread_id, token, lease_id FROM aiodurable_fences
WHERE thread_id = ANY (:thread_ids::text[])

-- name: knows_lz4
-- Whether the server can compress its log with lz4, as from Postgres 15 on.
SELECT coalesce('lz4' = ANY (s.enumvals), false) AS knows_lz4
FROM pg_catalog.pg_settings s
WHERE s.name = 'wal_compression'

-- name: relaxed_commit
-- Until the end of the transaction: its commit waits for no disk, what a crash undoes of it the
-- next prune does again; and the plans are made once, they take longer to make than a few threads
-- take.
SELECT
-- include: relaxed

-- name: compressed_commit
-- From Postgres 15 on. As relaxed_commit; and pages are logged in a third of their bytes, unless
-- the server compresses them by itself, or this role may not decide that.
SELECT
-- include: relaxed
    ,
       CASE WHEN pg_catalog.current_setting('wal_compression') = 'off'
                 AND pg_catalog.has_parameter_privilege('wal_compression', 'SET')
            THEN pg_catalog.set_config('wal_compression', 'lz4', true) END

-- fragment: relaxed
       pg_catalog.set_config('synchronous_commit', 'off', true),
       pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true)

-- name: insert_missing_fences
-- params: thread_ids
-- aiodurable_fences_pkey. Threads that no lease was ever taken of get a row to lock, for this
-- transaction.
INSERT INTO aiodurable_fences (thread_id, token)
SELECT t.thread_id, 0
FROM pg_catalog.unnest((SELECT :thread_ids::text[])) AS t (thread_id)
ORDER BY t.thread_id
ON CONFLICT DO NOTHING
RETURNING thread_id

-- name: prune
-- params: thread_ids, tokens, lease_ids, head_ids, delete, dry_run, most
-- All by thread_id (runs that were consumed by aiodurable_runs_pkey): aiodurable_fences_pkey,
-- checkpoints_pkey, checkpoint_writes_pkey and checkpoint_blobs_pkey (or LangGraph's own on
-- thread_id alone), aiodurable_runs_thread_order_idx, aiodurable_runs_queued_idx,
-- aiodurable_effects_pkey; then the rows themselves by ctid. One row a thread from step to step,
-- never a join of two sets of rows: that is planned from guesses about rows per thread, and can go
-- quadratic. tokens, lease_ids: when the threads were read; head_ids: null for a thread without a
-- checkpoint; delete: keep nothing; dry_run: only count what would go. Of the threads only the
-- first so many that have `most` checkpoints or fewer together, but one at least; they are "taken".
WITH present AS MATERIALIZED (
    SELECT u.thread_id, u.token, u.lease_id, u.head_id, u.place, k.*,
           pg_catalog.sum(k.checkpoints) OVER (ORDER BY u.place) AS so_far
    FROM unnest(:thread_ids::text[], :tokens::bigint[], :lease_ids::bigint[], :head_ids::text[])
        WITH ORDINALITY AS u (thread_id, token, lease_id, head_id, place)
    CROSS JOIN LATERAL (
        SELECT pg_catalog.count(*) AS checkpoints,
               pg_catalog.array_agg(k.ctid) AS tids,
               pg_catalog.array_agg(k.checkpoint_ns) AS namespaces,
               pg_catalog.array_agg(k.checkpoint_id) AS ids,
               pg_catalog.array_agg(pg_catalog.pg_column_size(k.checkpoint)
                                    + pg_catalog.pg_column_size(k.metadata)) AS sizes,
               pg_catalog.array_agg(
                   CASE WHEN k.checkpoint_ns = ''
                             AND k.metadata ->> 'source'::text IS DISTINCT FROM 'update'
                        THEN k.metadata ->> 'aiodurable_run_id'::text END) AS runs,
               pg_catalog.bool_or(
                   k.metadata ?| '{counters_since_delta_snapshot,delta_writes_versioned}'::text[])
                   AS delta
        FROM (
            -- Ordered, so that the planner takes checkpoints_pkey: its page was read for the head,
            -- and in LangGraph's index on thread_id alone each thread is on another page. Of a
            -- thread that is not the first no more than show that it has too many.
            SELECT n.ctid, n.checkpoint_ns, n.checkpoint_id, n.checkpoint, n.metadata
            FROM checkpoints n
            WHERE n.thread_id = u.thread_id
            ORDER BY n.checkpoint_ns, n.checkpoint_id
            LIMIT CASE WHEN u.place > 1 THEN :most::integer + 1 END
        ) k
    ) k
),
taken AS MATERIALIZED (
    -- A lease of any of them waits for all of them, and threads differ in length by orders of
    -- magnitude.
    SELECT p.*
    FROM present p
    WHERE p.place = 1 OR p.so_far <= :most::integer::numeric
),
claimed AS MATERIALIZED (
    -- Under this lock no lease begins and no fenced write commits. The same lease: none began since
    -- the thread was looked at. A writer at this moment is left alone. What is present was read
    -- before the lock: all of a statement sees the tables as they were when it began.
    SELECT t.*
    FROM aiodurable_fences f
    JOIN taken t ON t.thread_id = f.thread_id
    WHERE f.token = coalesce(t.token, 0) AND f.lease_id = coalesce(t.lease_id, 0)
    ORDER BY f.thread_id
    FOR UPDATE OF f SKIP LOCKED
),
candidates AS MATERIALIZED (
    -- What strategy "keep_latest" cannot keep: a DeltaChannel needs the writes of older
    -- checkpoints, a format before 4 the Sends of the one before. langgraph-checkpoint-postgres
    -- refuses the same. Nor one whose format or values cannot be read. Kept is the newest
    -- checkpoint of the thread, and of each subgraph with a memory of its own. A subgraph's call
    -- has its task's id in its namespace, after a colon, and goes with the checkpoint it was called
    -- from.
    SELECT p.*, h.kept, h.versions,
           NOT :delete::boolean AND coalesce(p.delta OR h.old, false) AS refused
    FROM claimed p
    CROSS JOIN LATERAL (
        SELECT pg_catalog.bool_or(n.checkpoint_ns = '' AND n.checkpoint_id = p.head_id) AS here,
               pg_catalog.bool_or(coalesce(k.format < 4, true) OR NOT k.readable) AS old,
               pg_catalog.jsonb_object_agg(n.checkpoint_ns, n.checkpoint_id)
                   FILTER (WHERE k.kept) AS kept,
               pg_catalog.jsonb_object_agg(n.checkpoint_ns, k.versions)
                   FILTER (WHERE k.kept) AS versions
        FROM (SELECT DISTINCT ON (r.checkpoint_ns) r.checkpoint_ns, r.checkpoint_id, r.tid
              FROM unnest(p.namespaces, p.ids, p.tids) AS r (checkpoint_ns, checkpoint_id, tid)
              ORDER BY r.checkpoint_ns, r.checkpoint_id DESC) n
        CROSS JOIN LATERAL (
            SELECT c.checkpoint -> 'channel_versions'::text AS versions,
                   pg_catalog.jsonb_typeof(c.checkpoint -> 'channel_versions'::text)
                       IS NOT DISTINCT FROM 'object' AS readable,
                   substring(c.checkpoint ->> 'v'::text FROM '^[0-9]{1,9}$')::integer AS format,
                   NOT :delete::boolean AND (n.checkpoint_ns NOT LIKE '%:%'
                                             OR c.metadata -> 'parents'::text ->> ''::text
                                                IS NOT DISTINCT FROM p.head_id) AS kept
            FROM checkpoints c
            WHERE c.ctid = n.tid
        ) k
    ) h
    -- Plain LangGraph takes no lock: it may have gone on.
    WHERE CASE WHEN p.head_id IS NULL THEN p.tids IS NULL ELSE h.here END
      -- A run that was accepted meanwhile is not removed: aiodurable_runs_queued_idx.
      AND (NOT :delete::boolean
           OR (SELECT true
               FROM aiodurable_runs q
               WHERE q.thread_id = p.thread_id AND q.status = 'queued'
               LIMIT 1) IS NULL)
),
deletable AS MATERIALIZED (
    SELECT t.thread_id, c.tids AS checkpoint_tids, w.tids AS write_tids, b.tids AS blob_tids,
           e.tids AS effect_tids,
           coalesce(pg_catalog.cardinality(c.tids), 0) + coalesce(pg_catalog.cardinality(w.tids), 0)
           + coalesce(pg_catalog.cardinality(b.tids), 0) AS rows,
           coalesce(c.bytes, 0) + coalesce(w.bytes, 0) + coalesce(b.bytes, 0) AS bytes
    FROM candidates t
    CROSS JOIN LATERAL (
        SELECT pg_catalog.array_agg(r.tid) AS tids, pg_catalog.sum(r.size) AS bytes
        FROM unnest(t.tids, t.namespaces, t.ids, t.sizes)
            AS r (tid, checkpoint_ns, checkpoint_id, size)
        WHERE t.kept ->> r.checkpoint_ns IS DISTINCT FROM r.checkpoint_id
    ) c
    CROSS JOIN LATERAL (
        -- A write can commit before its checkpoint: what is newer than the head belongs to a step
        -- that is under way.
        SELECT pg_catalog.array_agg(w.ctid) AS tids,
               pg_catalog.sum(pg_catalog.pg_column_size(w.blob)) AS bytes
        FROM checkpoint_writes w
        WHERE w.thread_id = t.thread_id AND (:delete::boolean OR w.checkpoint_id < t.head_id)
          AND t.kept ->> w.checkpoint_ns IS DISTINCT FROM w.checkpoint_id
    ) w
    CROSS JOIN LATERAL (
        SELECT pg_catalog.array_agg(b.ctid) AS tids,
               pg_catalog.sum(coalesce(pg_catalog.pg_column_size(b.blob), 0)) AS bytes
        FROM checkpoint_blobs b
        WHERE b.thread_id = t.thread_id
          AND t.versions -> b.checkpoint_ns ->> b.channel IS DISTINCT FROM b.version
    ) b
    CROSS JOIN LATERAL (
        -- No task of a step that is over runs again.
        SELECT pg_catalog.array_agg(e.ctid) AS tids
        FROM aiodurable_effects e
        WHERE e.thread_id = t.thread_id AND (:delete::boolean OR e.checkpoint_id < t.head_id)
    ) e
    WHERE NOT t.refused
),
no_checkpoint AS (
    DELETE FROM checkpoints
    WHERE ctid = ANY (ARRAY (
        SELECT pg_catalog.unnest(g.checkpoint_tids) FROM deletable g WHERE NOT :dry_run::boolean))
),
no_write AS (
    DELETE FROM checkpoint_writes
    WHERE ctid = ANY (ARRAY (
        SELECT pg_catalog.unnest(g.write_tids) FROM deletable g WHERE NOT :dry_run::boolean))
),
no_blob AS (
    DELETE FROM checkpoint_blobs
    WHERE ctid = ANY (ARRAY (
        SELECT pg_catalog.unnest(g.blob_tids) FROM deletable g WHERE NOT :dry_run::boolean))
),
no_run AS (
    DELETE FROM aiodurable_runs r USING deletable g
    WHERE NOT :dry_run::boolean AND :delete::boolean AND r.thread_id = g.thread_id
),
no_effect AS (
    DELETE FROM aiodurable_effects
    WHERE ctid = ANY (ARRAY (
        SELECT pg_catalog.unnest(g.effect_tids) FROM deletable g WHERE NOT :dry_run::boolean))
),
no_signal AS (
    -- aiodurable_signals_pkey, by its first column.
    DELETE FROM aiodurable_signals s USING deletable g
    WHERE NOT :dry_run::boolean AND :delete::boolean AND s.thread_id = g.thread_id
),
no_holder AS (
    -- A holder that takes a lost lock again, or wakes up after it was frozen, holds none at this
    -- moment: its token changes. As raise_removed of checkpoints.sql.
    UPDATE aiodurable_fences f
    SET token = f.token + 1,
        lease_id = -(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000::numeric)::bigint
    WHERE f.token > 0
      AND f.thread_id = ANY (ARRAY (
          SELECT g.thread_id FROM deletable g WHERE :delete::boolean AND NOT :dry_run::boolean))
),
consumed AS MATERIALIZED (
    -- What goes says of some runs that their inputs are part of the thread: from now on the ledger
    -- says so.
    SELECT r.run_id
    FROM (SELECT t.thread_id, u.run_id, pg_catalog.max(u.checkpoint_id) AS last_id
          FROM candidates t
          CROSS JOIN LATERAL unnest(t.runs, t.ids) AS u (run_id, checkpoint_id)
          WHERE NOT :delete::boolean AND NOT t.refused AND u.run_id IS NOT NULL
          GROUP BY t.thread_id, u.run_id) u
    CROSS JOIN LATERAL (
        SELECT own.run_id
        FROM aiodurable_runs own
        WHERE own.run_id = u.run_id AND own.thread_id = u.thread_id AND NOT own.consumed
          AND u.last_id > coalesce(own.base_checkpoint_id, '')
        LIMIT 1
    ) r
),
marked AS (
    UPDATE aiodurable_runs
    SET consumed = true
    WHERE run_id = ANY (ARRAY (SELECT c.run_id FROM consumed c WHERE NOT :dry_run::boolean))
),
kept AS MATERIALIZED (
    SELECT t.thread_id, k.key AS checkpoint_ns, k.value AS checkpoint_id
    FROM candidates t
    CROSS JOIN LATERAL pg_catalog.jsonb_each_text(t.kept) k
    WHERE NOT :dry_run::boolean AND NOT t.refused
)
SELECT pg_catalog.count(*) FILTER (WHERE :delete::boolean OR g.rows > 0) AS threads,
       coalesce(pg_catalog.sum(g.rows), 0)::bigint AS rows,
       coalesce(pg_catalog.sum(g.bytes), 0)::bigint AS bytes,
       coalesce((SELECT pg_catalog.array_agg(t.thread_id ORDER BY t.thread_id) FROM candidates t
                 WHERE t.refused), '{}') AS refused,
       (SELECT pg_catalog.count(*) FROM taken) AS taken,
       (SELECT pg_catalog.count(*) FROM taken) - (SELECT pg_catalog.count(*) FROM candidates)
           AS busy,
       coalesce((SELECT pg_catalog.array_agg(k.thread_id) FROM kept k), '{}') AS kept_threads,
       coalesce((SELECT pg_catalog.array_agg(k.checkpoint_ns) FROM kept k), '{}')
           AS kept_namespaces,
       coalesce((SELECT pg_catalog.array_agg(k.checkpoint_id) FROM kept k), '{}') AS kept_ids
FROM deletable g

-- name: delete_unused_fences
-- params: thread_ids
-- aiodurable_fences_pkey. Rows that insert_missing_fences made; a token above 0 was a lease's, and
-- must never be given out again.
DELETE FROM aiodurable_fences WHERE thread_id = ANY (:thread_ids::text[]) AND token = 0
RETURNING thread_id

-- name: clear_parents
-- params: thread_ids, namespaces, checkpoint_ids
-- checkpoints_pkey. The checkpoints that were kept have no parent any more. Not in the transaction
-- that removed the parents: once that has committed, a row's new version finds the space of a
-- removed one on its own page, and no index changes. A row that somebody else writes is left for
-- the next time.
UPDATE checkpoints
SET parent_checkpoint_id = NULL
WHERE ctid = ANY (ARRAY (
    SELECT c.ctid
    FROM unnest(:thread_ids::text[], :namespaces::text[], :checkpoint_ids::text[])
        AS k (thread_id, checkpoint_ns, checkpoint_id)
    CROSS JOIN LATERAL (
        SELECT c.ctid
        FROM checkpoints c
        WHERE c.thread_id = k.thread_id AND c.checkpoint_ns = k.checkpoint_ns
          AND c.checkpoint_id = k.checkpoint_id
          AND c.parent_checkpoint_id IS NOT NULL
        FOR UPDATE SKIP LOCKED
    ) c
))
RETURNING thread_id

-- name: sizes
-- Files' lengths, as in pages of threads.sql.
SELECT pg_catalog.pg_relation_size('aiodurable_runs'::pg_catalog.regclass)
           / pg_catalog.current_setting('block_size')::integer AS runs,
       pg_catalog.pg_relation_size('aiodurable_fences'::pg_catalog.regclass)
           / pg_catalog.current_setting('block_size')::integer AS fences,
       pg_catalog.pg_relation_size('aiodurable_signals'::pg_catalog.regclass)
           / pg_catalog.current_setting('block_size')::integer AS signals

-- name: finished_runs
-- params: first_page, end_page, older_than, graph
-- TID range scan of aiodurable_runs; once a row aiodurable_runs_thread_order_idx and
-- checkpoints_pkey. Runs on the pages that are over, were updated last before older_than, are of
-- this graph (null: any), and of which something can go; see remove_finished_runs.
SELECT r.run_id
FROM aiodurable_runs r
WHERE r.ctid >= pg_catalog.format('(%s,0)', :first_page::bigint)::tid
  AND r.ctid < pg_catalog.format('(%s,0)', :end_page::bigint)::tid
  AND r.status IN ('complete', 'rejected', 'superseded')
  AND coalesce(r.finished_at, r.started_at, r.created_at) < :older_than::timestamptz
  AND (:graph::text IS NULL OR r.graph = :graph)
  AND (coalesce(r.input_type, r.context_type, r.config_type) IS NOT NULL
       OR r.status <> 'complete'
       OR r.run_id IS DISTINCT FROM (
           SELECT own.run_id
           FROM aiodurable_runs own
           WHERE own.thread_id = r.thread_id AND own.status NOT IN ('rejected', 'superseded')
           ORDER BY own.fencing_token DESC NULLS LAST, own.seq DESC, own.created_at DESC
           LIMIT 1)
       OR (SELECT true FROM checkpoints own WHERE own.thread_id = r.thread_id LIMIT 1) IS NULL)

-- name: remove_finished_runs
-- params: run_ids, older_than, dry_run
-- aiodurable_runs_pkey; then as in finished_runs. Of the runs that are over and were updated last
-- before older_than: the rows of those that are not the newest of their thread that counts, or
-- whose thread has no checkpoint; of the others what they were accepted with. Only one that is
-- newest is ever read to go on with, and none that is complete. A row that somebody writes is left.
-- dry_run: only count what would go.
WITH old AS MATERIALIZED (
    SELECT r.run_id,
           r.status <> 'complete'
           OR r.run_id IS DISTINCT FROM (
               SELECT own.run_id
               FROM aiodurable_runs own
               WHERE own.thread_id = r.thread_id AND own.status NOT IN ('rejected', 'superseded')
               ORDER BY own.fencing_token DESC NULLS LAST, own.seq DESC, own.created_at DESC
               LIMIT 1)
           OR (SELECT true FROM checkpoints own WHERE own.thread_id = r.thread_id LIMIT 1) IS NULL
               AS goes,
           coalesce(pg_catalog.pg_column_size(r.input), 0)
           + coalesce(pg_catalog.pg_column_size(r.context), 0)
           + coalesce(pg_catalog.pg_column_size(r.config), 0) AS bytes
    FROM aiodurable_runs r
    WHERE r.run_id = ANY (:run_ids::text[]) AND r.status IN ('complete', 'rejected', 'superseded')
      AND coalesce(r.finished_at, r.started_at, r.created_at) < :older_than::timestamptz
    ORDER BY r.run_id
    FOR UPDATE OF r SKIP LOCKED
),
deletable AS (
    DELETE FROM aiodurable_runs
    WHERE run_id = ANY (ARRAY (SELECT o.run_id FROM old o WHERE o.goes AND NOT :dry_run::boolean))
),
emptied AS (
    UPDATE aiodurable_runs
    SET consumed = true, input_type = NULL, input = NULL, context_type = NULL, context = NULL,
        config_type = NULL, config = NULL
    WHERE run_id = ANY (ARRAY (
        SELECT o.run_id FROM old o WHERE NOT o.goes AND NOT :dry_run::boolean))
)
SELECT pg_catalog.count(*) FILTER (WHERE o.goes) AS runs,
       coalesce(pg_catalog.sum(o.bytes), 0)::bigint AS bytes FROM old o

-- name: threads_without_checkpoint
-- params: first_page, end_page
-- TID range scan of aiodurable_runs; checkpoints_pkey once a row. Threads of runs on the pages
-- that have no checkpoint, and wait for somebody.
SELECT DISTINCT r.thread_id
FROM aiodurable_runs r
WHERE r.ctid >= pg_catalog.format('(%s,0)', :first_page::bigint)::tid
  AND r.ctid < pg_catalog.format('(%s,0)', :end_page::bigint)::tid
  AND r.status NOT IN ('complete', 'rejected', 'superseded')
  AND (SELECT true FROM checkpoints own WHERE own.thread_id = r.thread_id LIMIT 1) IS NULL

-- name: idle_fences
-- params: first_page, end_page, kept_ms, unknown
-- TID range scan of aiodurable_fences; once a row the primary keys by their first column, and
-- aiodurable_runs_thread_order_idx. Threads with a fence on the pages and nothing
-- else: those removed at least kept_ms ago, and, if unknown, those of which it is not known that
-- they ever had anything.
SELECT f.thread_id
FROM aiodurable_fences f
WHERE f.ctid >= pg_catalog.format('(%s,0)', :first_page::bigint)::tid
  AND f.ctid < pg_catalog.format('(%s,0)', :end_page::bigint)::tid
  AND (f.lease_id < 0
       AND f.lease_id
           > :kept_ms::bigint
             - (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000::numeric)::bigint
       OR f.lease_id >= 0 AND :unknown::boolean)
  AND (SELECT true FROM checkpoints own WHERE own.thread_id = f.thread_id LIMIT 1) IS NULL
  AND (SELECT true FROM checkpoint_writes own WHERE own.thread_id = f.thread_id LIMIT 1) IS NULL
  AND (SELECT true FROM aiodurable_runs own WHERE own.thread_id = f.thread_id LIMIT 1) IS NULL

-- name: hold_idle_fences
-- params: thread_ids
-- aiodurable_fences_pkey. Until the transaction ends no lease of these threads begins.
SELECT thread_id FROM aiodurable_fences WHERE thread_id = ANY (:thread_ids::text[])
ORDER BY thread_id FOR UPDATE SKIP LOCKED

-- name: remove_idle_fences
-- params: thread_ids, lock_keys, kept_ms
-- aiodurable_fences_pkey, and as in idle_fences; pg_locks. In the transaction of hold_idle_fences,
-- after it: a lease that began before then shows in its lock by now. The rows of threads removed at
-- least kept_ms ago go. A row that says nothing of a removal says so from now on, and goes later:
-- by then nothing that was sent under its token can arrive any more.
WITH idle AS MATERIALIZED (
    SELECT f.thread_id, f.lease_id
    FROM aiodurable_fences f
    WHERE f.thread_id = ANY (:thread_ids::text[])
      AND f.thread_id <> ALL (ARRAY (
          SELECT want.thread_id
          FROM unnest(:thread_ids::text[], :lock_keys::bigint[]) AS want (thread_id, key)
          WHERE want.key = ANY (ARRAY (
              SELECT l.key
              FROM (
-- include: holders.lease_locks
              ) l))))
      AND (SELECT true FROM checkpoints own WHERE own.thread_id = f.thread_id LIMIT 1) IS NULL
      AND (SELECT true FROM checkpoint_writes own WHERE own.thread_id = f.thread_id LIMIT 1) IS NULL
      AND (SELECT true FROM aiodurable_runs own WHERE own.thread_id = f.thread_id LIMIT 1) IS NULL
    ORDER BY f.thread_id
    FOR UPDATE OF f SKIP LOCKED
),
deletable AS (
    DELETE FROM aiodurable_fences
    WHERE thread_id = ANY (ARRAY (
        SELECT i.thread_id
        FROM idle i
        WHERE i.lease_id < 0
          AND i.lease_id
              > :kept_ms::bigint
                - (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000::numeric)::bigint))
    RETURNING thread_id
),
noted AS (
    UPDATE aiodurable_fences
    SET token = token + 1,
        lease_id = -(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000::numeric)::bigint
    WHERE thread_id = ANY (ARRAY (SELECT i.thread_id FROM idle i WHERE i.lease_id >= 0))
)
SELECT pg_catalog.count(*) AS removed FROM deletable

-- name: stray_signals
-- params: first_page, end_page, older_than
-- TID range scan of aiodurable_signals; once a thread aiodurable_runs_thread_order_idx and
-- checkpoints_pkey. Threads of which nothing is known but signals on the pages that were sent
-- before older_than.
SELECT t.thread_id
FROM (
    SELECT DISTINCT s.thread_id
    FROM aiodurable_signals s
    WHERE s.ctid >= pg_catalog.format('(%s,0)', :first_page::bigint)::tid
      AND s.ctid < pg_catalog.format('(%s,0)', :end_page::bigint)::tid
      AND s.created_at < :older_than::timestamptz
) t
WHERE (SELECT true FROM aiodurable_runs own WHERE own.thread_id = t.thread_id LIMIT 1) IS NULL
  AND (SELECT true FROM checkpoints own WHERE own.thread_id = t.thread_id LIMIT 1) IS NULL

-- name: remove_stray_signals
-- params: thread_ids, older_than
-- aiodurable_signals_pkey by its first column; once a row as in stray_signals. A run that begins at
-- this moment comes after the removal.
DELETE FROM aiodurable_signals s
WHERE s.thread_id = ANY (:thread_ids::text[]) AND s.created_at < :older_than::timestamptz
  AND (SELECT true FROM aiodurable_runs own WHERE own.thread_id = s.thread_id LIMIT 1) IS NULL
  AND (SELECT true FROM checkpoints own WHERE own.thread_id = s.thread_id LIMIT 1) IS NULL
RETURNING s.thread_id
