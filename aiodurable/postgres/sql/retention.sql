-- name: tokens
-- aiodurable_fences_pkey.
SELECT thread_id, token FROM aiodurable_fences WHERE thread_id = ANY ($1::text[])

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
-- All by thread_id: aiodurable_fences_pkey, checkpoints_pkey, checkpoint_writes_thread_id_idx, checkpoint_blobs_thread_id_idx,
-- aiodurable_runs_by_thread.
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
heads AS MATERIALIZED (
    SELECT c.thread_id, c.head_id, h.checkpoint_ns, h.checkpoint_id, h.versions, h.format, h.root
    FROM claimed c
    CROSS JOIN LATERAL (
        SELECT DISTINCT ON (k.checkpoint_ns) k.checkpoint_ns, k.checkpoint_id, k.checkpoint -> 'channel_versions' AS versions,
               (k.checkpoint ->> 'v')::integer AS format, k.metadata -> 'parents' ->> '' AS root
        FROM checkpoints k
        WHERE k.thread_id = c.thread_id
        ORDER BY k.checkpoint_ns DESC, k.checkpoint_id DESC
    ) h
),
judged AS MATERIALIZED (
    -- What keep="latest" cannot keep: a DeltaChannel needs the writes of older checkpoints, a format before 4 the Sends of
    -- the one before. langgraph-checkpoint-postgres refuses the same.
    SELECT c.thread_id, c.head_id,
           NOT $4::boolean AND (
               EXISTS (SELECT 1 FROM heads h WHERE h.thread_id = c.thread_id AND h.format < 4)
               OR EXISTS (SELECT 1
                          FROM checkpoints k
                          WHERE k.thread_id = c.thread_id
                            AND k.metadata ?| '{counters_since_delta_snapshot,delta_writes_versioned}')) AS refused
    FROM claimed c
    -- Plain LangGraph takes no lock: it may have gone on.
    WHERE EXISTS (SELECT 1
                  FROM heads h
                  WHERE h.thread_id = c.thread_id AND h.checkpoint_ns = '' AND h.checkpoint_id = c.head_id)
),
chosen AS MATERIALIZED (
    SELECT thread_id, head_id FROM judged WHERE NOT refused
),
kept AS MATERIALIZED (
    -- The newest checkpoint of the thread, and of each subgraph with a memory of its own. A subgraph's call has its task's
    -- id in its namespace, after a colon, and goes with the checkpoint it was called from.
    SELECT h.thread_id, h.checkpoint_ns, h.checkpoint_id, h.versions
    FROM heads h
    JOIN chosen c ON c.thread_id = h.thread_id
    WHERE NOT $4::boolean AND (h.checkpoint_ns NOT LIKE '%:%' OR h.root = h.head_id)
),
checkpoint AS MATERIALIZED (
    SELECT c.ctid, c.thread_id, pg_column_size(c.checkpoint) + pg_column_size(c.metadata) AS size
    FROM chosen t
    JOIN checkpoints c ON c.thread_id = t.thread_id
    WHERE NOT EXISTS (SELECT 1
                      FROM kept k
                      WHERE k.thread_id = c.thread_id AND k.checkpoint_ns = c.checkpoint_ns
                        AND k.checkpoint_id = c.checkpoint_id)
),
write AS MATERIALIZED (
    SELECT w.ctid, w.thread_id, pg_column_size(w.blob) AS size
    FROM chosen t
    JOIN checkpoint_writes w ON w.thread_id = t.thread_id
    -- A write can commit before its checkpoint: what is newer than the head belongs to a step that is under way.
    WHERE ($4::boolean OR w.checkpoint_id < t.head_id)
      AND NOT EXISTS (SELECT 1
                      FROM kept k
                      WHERE k.thread_id = w.thread_id AND k.checkpoint_ns = w.checkpoint_ns
                        AND k.checkpoint_id = w.checkpoint_id)
),
blob AS MATERIALIZED (
    SELECT b.ctid, b.thread_id, coalesce(pg_column_size(b.blob), 0) AS size
    FROM chosen t
    JOIN checkpoint_blobs b ON b.thread_id = t.thread_id
    WHERE NOT EXISTS (SELECT 1
                      FROM kept k
                      WHERE k.thread_id = b.thread_id AND k.checkpoint_ns = b.checkpoint_ns
                        AND k.versions ->> b.channel = b.version)
),
no_checkpoint AS (
    DELETE FROM checkpoints c USING checkpoint d WHERE NOT $5::boolean AND c.ctid = d.ctid
),
no_write AS (
    DELETE FROM checkpoint_writes w USING write d WHERE NOT $5::boolean AND w.ctid = d.ctid
),
no_blob AS (
    DELETE FROM checkpoint_blobs b USING blob d WHERE NOT $5::boolean AND b.ctid = d.ctid
),
no_run AS (
    DELETE FROM aiodurable_runs r USING chosen t
    WHERE NOT $5::boolean AND $4::boolean AND r.thread_id = t.thread_id
),
no_parent AS (
    UPDATE checkpoints c
    SET parent_checkpoint_id = NULL
    FROM kept k
    WHERE NOT $5::boolean AND c.thread_id = k.thread_id AND c.checkpoint_ns = k.checkpoint_ns
      AND c.checkpoint_id = k.checkpoint_id AND c.parent_checkpoint_id IS NOT NULL
),
gone AS (
    SELECT thread_id, size FROM checkpoint
    UNION ALL
    SELECT thread_id, size FROM write
    UNION ALL
    SELECT thread_id, size FROM blob
)
SELECT count(DISTINCT g.thread_id) AS threads, count(*) AS rows, coalesce(sum(g.size), 0)::bigint AS bytes,
       coalesce((SELECT array_agg(thread_id ORDER BY thread_id) FROM judged WHERE refused), '{}') AS refused,
       cardinality($1::text[]) - (SELECT count(*) FROM judged) AS busy
FROM gone g

-- name: release
-- aiodurable_fences_pkey. Rows that claim made; a token above 0 was a lease's, and must never be given out again.
DELETE FROM aiodurable_fences WHERE thread_id = ANY ($1::text[]) AND token = 0
RETURNING thread_id
