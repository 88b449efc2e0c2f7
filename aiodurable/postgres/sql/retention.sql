-- name: lying
-- TID range scan of checkpoints. Threads with a checkpoint older than the id $3 on the pages from $1 to before $2, in the order
-- they lie there. Unless $4 (keep nothing) only those of which a page shows that they have a past: what was pruned before
-- has one checkpoint, without a parent, and is passed over at a glance.
SELECT c.thread_id
FROM checkpoints c
WHERE c.ctid >= format('(%s,0)', $1::bigint)::tid AND c.ctid < format('(%s,0)', $2::bigint)::tid
  AND c.checkpoint_id < $3::text
GROUP BY c.thread_id
HAVING $4::boolean OR count(*) > 1 OR bool_or(c.parent_checkpoint_id IS NOT NULL)
ORDER BY min(c.ctid)

-- name: with_a_past
-- checkpoints_pkey, three descents a thread. Of the threads $1 those whose head is older than the id $2 and, unless $3 (keep
-- nothing), not their only checkpoint, or naming a parent yet, which a prune that died has not unlinked.
SELECT a.thread_id
FROM unnest((SELECT $1::text[])) AS a (thread_id)
CROSS JOIN LATERAL (
    SELECT c.checkpoint_id, c.parent_checkpoint_id
    FROM checkpoints c
    WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = ''
    ORDER BY c.checkpoint_id DESC
    LIMIT 1
) h
WHERE h.checkpoint_id < $2::text
  AND ($3::boolean
       OR h.parent_checkpoint_id IS NOT NULL
       OR EXISTS (SELECT 1
                  FROM checkpoints c
                  WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = '' AND c.checkpoint_id < h.checkpoint_id)
       OR EXISTS (SELECT 1 FROM checkpoints c WHERE c.thread_id = a.thread_id AND c.checkpoint_ns > ''))

-- name: tokens
-- aiodurable_fences_pkey.
SELECT thread_id, token FROM aiodurable_fences WHERE thread_id = ANY ($1::text[])

-- name: unhurried
-- Until the end of the transaction: its commit waits for no disk, what a crash undoes of it the next prune does again; and
-- the plans are made once, they take longer to make than a few threads take.
SELECT set_config('synchronous_commit', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)

-- name: claim
-- aiodurable_fences_pkey. A thread that no lease was ever taken of gets a row to lock, for this transaction.
INSERT INTO aiodurable_fences (thread_id, token)
SELECT t.thread_id, 0
FROM unnest($1::text[], $2::bigint[]) AS t (thread_id, token)
WHERE t.token IS NULL
ORDER BY t.thread_id
ON CONFLICT DO NOTHING
RETURNING thread_id

-- name: prune
-- All by thread_id: aiodurable_fences_pkey, checkpoints_pkey, checkpoint_writes_pkey and checkpoint_blobs_pkey (or LangGraph's
-- own on thread_id alone), aiodurable_runs_in_order; then the rows themselves by ctid. One row a thread from step to step,
-- never a join of two sets of rows: that is planned from guesses about rows per thread, and can go quadratic.
-- $1 thread ids, $2 their tokens when they were looked at, $3 their heads, $4 keep nothing, $5 only tell what would go.
WITH claimed AS MATERIALIZED (
    -- Under this lock no lease begins and no fenced write commits. The same token: none began since the thread was looked
    -- at. Whoever writes at this moment is left alone.
    SELECT t.thread_id, t.head_id
    FROM aiodurable_fences f
    JOIN unnest($1::text[], $2::bigint[], $3::text[]) AS t (thread_id, token, head_id) ON t.thread_id = f.thread_id
    WHERE f.token = coalesce(t.token, 0)
    ORDER BY f.thread_id
    FOR UPDATE OF f SKIP LOCKED
),
present AS MATERIALIZED (
    SELECT c.thread_id, c.head_id, k.*
    FROM claimed c
    CROSS JOIN LATERAL (
        SELECT array_agg(k.ctid) AS tids, array_agg(k.checkpoint_ns) AS namespaces, array_agg(k.checkpoint_id) AS ids,
               array_agg(pg_column_size(k.checkpoint) + pg_column_size(k.metadata)) AS sizes,
               bool_or(k.metadata ?| '{counters_since_delta_snapshot,delta_writes_versioned}') AS delta
        FROM checkpoints k
        WHERE k.thread_id = c.thread_id
    ) k
),
judged AS MATERIALIZED (
    -- What keep="latest" cannot keep: a DeltaChannel needs the writes of older checkpoints, a format before 4 the Sends of
    -- the one before. langgraph-checkpoint-postgres refuses the same. Kept is the newest checkpoint of the thread, and of
    -- each subgraph with a memory of its own. A subgraph's call has its task's id in its namespace, after a colon, and goes
    -- with the checkpoint it was called from.
    SELECT p.*, h.kept, NOT $4::boolean AND coalesce(p.delta OR h.old, false) AS refused
    FROM present p
    CROSS JOIN LATERAL (
        SELECT bool_or(n.checkpoint_ns = '' AND n.checkpoint_id = p.head_id) AS here, bool_or(k.format < 4) AS old,
               jsonb_object_agg(n.checkpoint_ns, jsonb_build_object('id', n.checkpoint_id, 'versions', k.versions))
                   FILTER (WHERE k.kept) AS kept
        FROM (SELECT DISTINCT ON (r.checkpoint_ns) r.checkpoint_ns, r.checkpoint_id, r.tid
              FROM unnest(p.namespaces, p.ids, p.tids) AS r (checkpoint_ns, checkpoint_id, tid)
              ORDER BY r.checkpoint_ns, r.checkpoint_id DESC) n
        CROSS JOIN LATERAL (
            SELECT c.checkpoint -> 'channel_versions' AS versions, (c.checkpoint ->> 'v')::integer AS format,
                   NOT $4::boolean AND (n.checkpoint_ns NOT LIKE '%:%'
                                        OR c.metadata -> 'parents' ->> '' IS NOT DISTINCT FROM p.head_id) AS kept
            FROM checkpoints c
            WHERE c.ctid = n.tid
        ) k
    ) h
    -- Plain LangGraph takes no lock: it may have gone on.
    WHERE h.here
),
gone AS MATERIALIZED (
    SELECT t.thread_id, c.tids AS checkpoint_tids, w.tids AS write_tids, b.tids AS blob_tids,
           coalesce(cardinality(c.tids), 0) + coalesce(cardinality(w.tids), 0) + coalesce(cardinality(b.tids), 0) AS rows,
           coalesce(c.bytes, 0) + coalesce(w.bytes, 0) + coalesce(b.bytes, 0) AS bytes
    FROM judged t
    CROSS JOIN LATERAL (
        SELECT array_agg(r.tid) AS tids, sum(r.size) AS bytes
        FROM unnest(t.tids, t.namespaces, t.ids, t.sizes) AS r (tid, checkpoint_ns, checkpoint_id, size)
        WHERE t.kept -> r.checkpoint_ns ->> 'id' IS DISTINCT FROM r.checkpoint_id
    ) c
    CROSS JOIN LATERAL (
        -- A write can commit before its checkpoint: what is newer than the head belongs to a step that is under way.
        SELECT array_agg(w.ctid) AS tids, sum(pg_column_size(w.blob)) AS bytes
        FROM checkpoint_writes w
        WHERE w.thread_id = t.thread_id AND ($4::boolean OR w.checkpoint_id < t.head_id)
          AND t.kept -> w.checkpoint_ns ->> 'id' IS DISTINCT FROM w.checkpoint_id
    ) w
    CROSS JOIN LATERAL (
        SELECT array_agg(b.ctid) AS tids, sum(coalesce(pg_column_size(b.blob), 0)) AS bytes
        FROM checkpoint_blobs b
        WHERE b.thread_id = t.thread_id AND t.kept -> b.checkpoint_ns -> 'versions' ->> b.channel IS DISTINCT FROM b.version
    ) b
    WHERE NOT t.refused
),
no_checkpoint AS (
    DELETE FROM checkpoints
    WHERE ctid = ANY (ARRAY (SELECT unnest(g.checkpoint_tids) FROM gone g WHERE NOT $5::boolean))
),
no_write AS (
    DELETE FROM checkpoint_writes
    WHERE ctid = ANY (ARRAY (SELECT unnest(g.write_tids) FROM gone g WHERE NOT $5::boolean))
),
no_blob AS (
    DELETE FROM checkpoint_blobs
    WHERE ctid = ANY (ARRAY (SELECT unnest(g.blob_tids) FROM gone g WHERE NOT $5::boolean))
),
no_run AS (
    DELETE FROM aiodurable_runs r USING gone g
    WHERE NOT $5::boolean AND $4::boolean AND r.thread_id = g.thread_id
),
kept AS MATERIALIZED (
    SELECT t.thread_id, k.key AS checkpoint_ns, k.value ->> 'id' AS checkpoint_id
    FROM judged t
    CROSS JOIN LATERAL jsonb_each(t.kept) k
    WHERE NOT $5::boolean AND NOT t.refused
)
SELECT count(*) FILTER (WHERE g.rows > 0) AS threads, coalesce(sum(g.rows), 0)::bigint AS rows,
       coalesce(sum(g.bytes), 0)::bigint AS bytes,
       coalesce((SELECT array_agg(t.thread_id ORDER BY t.thread_id) FROM judged t WHERE t.refused), '{}') AS refused,
       cardinality($1::text[]) - (SELECT count(*) FROM judged) AS busy,
       coalesce((SELECT array_agg(k.thread_id) FROM kept k), '{}') AS kept_threads,
       coalesce((SELECT array_agg(k.checkpoint_ns) FROM kept k), '{}') AS kept_namespaces,
       coalesce((SELECT array_agg(k.checkpoint_id) FROM kept k), '{}') AS kept_ids
FROM gone g

-- name: release
-- aiodurable_fences_pkey. Rows that claim made; a token above 0 was a lease's, and must never be given out again.
DELETE FROM aiodurable_fences WHERE thread_id = ANY ($1::text[]) AND token = 0
RETURNING thread_id

-- name: unlink
-- checkpoints_pkey. The kept checkpoints $3 of the threads $1, namespaces $2, have no parent any more. Not in the transaction
-- that removed the parents: once that has committed, a row's new version finds the room of a removed one on its own page, and
-- no index has to be told of it. A row that somebody else writes is left for the next time.
UPDATE checkpoints
SET parent_checkpoint_id = NULL
WHERE ctid = ANY (ARRAY (
    SELECT c.ctid
    FROM unnest($1::text[], $2::text[], $3::text[]) AS k (thread_id, checkpoint_ns, checkpoint_id)
    CROSS JOIN LATERAL (
        SELECT c.ctid
        FROM checkpoints c
        WHERE c.thread_id = k.thread_id AND c.checkpoint_ns = k.checkpoint_ns AND c.checkpoint_id = k.checkpoint_id
          AND c.parent_checkpoint_id IS NOT NULL
        FOR UPDATE SKIP LOCKED
    ) c
))
RETURNING thread_id
