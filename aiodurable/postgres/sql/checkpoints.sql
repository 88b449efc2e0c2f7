-- name: commit
-- aiodurable_fences_pkey for the fence; the primary keys of LangGraph's tables for the conflicts. Both sides sorted: no deadlocks.
-- SKIP LOCKED: a fence that is being raised, or that a dead client's backend still holds, never holds the others up.
-- Of several rows with one key the caller sends one: a key may appear once in one ON CONFLICT DO UPDATE.
WITH {lost}
fence AS MATERIALIZED (
    SELECT f.thread_id
    FROM aiodurable_fences f
    JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) AS want (thread_id, token, lease_id)
      ON f.thread_id = want.thread_id AND f.token = want.token AND f.lease_id = want.lease_id
    {unless_lost}
    ORDER BY f.thread_id
    FOR SHARE OF f SKIP LOCKED
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT r.*
    FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[])
        AS r (thread_id, checkpoint_ns, channel, version, type, blob)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
    ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING
), heads AS (
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT r.*
    FROM unnest($10::text[], $11::text[], $12::text[], $13::text[], $14::jsonb[], $15::jsonb[])
        AS r (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
), kept AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.*
    FROM unnest($16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::int[], $22::text[], $23::text[], $24::bytea[])
        AS r (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING
)
{replaced}
{taken}
SELECT thread_id, true AS written FROM fence
{and_lost}

-- name: commit_lost
-- For the braces of `commit`, where a connection is newer than what was acknowledged: the primary keys of LangGraph's tables and
-- aiodurable_runs_pkey. Threads whose newest acknowledged row is gone. $34 threads; of a checkpoint $35 and $36, of what a task
-- wrote $37 and $38 too; of a run $39 and its token $40. What a task wrote is the first row that is not before it, or is gone: by
-- its thread_id alone LangGraph's other index finds it too, and reads all that the thread ever wrote.
lost AS MATERIALIZED (
    SELECT p.thread_id
    FROM unnest($34::text[], $35::text[], $36::text[], $37::text[], $38::int[], $39::text[], $40::bigint[])
        AS p (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, run_id, token)
    WHERE CASE
        WHEN p.run_id IS NOT NULL THEN
            (SELECT true
             FROM aiodurable_runs r
             WHERE r.run_id = p.run_id AND r.fencing_token = p.token
             LIMIT 1)
        WHEN p.task_id IS NOT NULL THEN
            (SELECT nullif((w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx)
                           = (p.thread_id, p.checkpoint_ns, p.checkpoint_id, p.task_id, p.idx), false)
             FROM checkpoint_writes w
             WHERE (w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx)
                   >= (p.thread_id, p.checkpoint_ns, p.checkpoint_id, p.task_id, p.idx)
             ORDER BY w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx
             LIMIT 1)
        ELSE
            (SELECT true
             FROM checkpoints c
             WHERE c.thread_id = p.thread_id AND c.checkpoint_ns = p.checkpoint_ns AND c.checkpoint_id = p.checkpoint_id
             LIMIT 1)
        END IS NULL
),

-- name: commit_unless_lost
-- No table. For the braces of `commit`, with commit_lost.
WHERE f.thread_id <> ALL (ARRAY (SELECT l.thread_id FROM lost l))

-- name: commit_and_lost
-- No table. For the braces of `commit`, with commit_lost.
UNION ALL
SELECT thread_id, false FROM lost

-- name: commit_replaced
-- What comes in the braces of `commit`, where a batch has errors, questions or answers: checkpoint_writes_pkey. Without them a
-- lone commit is a tenth faster.
, replaced AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.*
    FROM unnest($25::text[], $26::text[], $27::text[], $28::text[], $29::text[], $30::int[], $31::text[], $32::text[], $33::bytea[])
        AS r (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
    DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob
)

-- name: commit_taken
-- What comes in the braces of `commit`, where a batch has the first checkpoint of a run: aiodurable_runs_pkey. It has taken the
-- run's input, which must never be passed in again. $41 the runs, $42 their threads.
, taken AS (
    UPDATE aiodurable_runs r
    SET consumed = true
    FROM unnest($41::text[], $42::text[]) AS w (run_id, thread_id)
    WHERE r.run_id = w.run_id AND w.thread_id IN (SELECT thread_id FROM fence)
)

-- name: tokens
-- aiodurable_fences_pkey. What stands where a batch found no row to lock.
SELECT thread_id, token, lease_id FROM aiodurable_fences WHERE thread_id = ANY ($1::text[])

-- name: token
-- aiodurable_fences_pkey.
SELECT token, lease_id FROM aiodurable_fences WHERE thread_id = $1

-- name: patience
-- No table. For the transaction it is part of.
SELECT pg_catalog.set_config('lock_timeout', '1s', true),
       pg_catalog.set_config('synchronous_commit',
                  CASE pg_catalog.current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                                                             ELSE pg_catalog.current_setting('synchronous_commit') END, true)

-- name: bump
-- aiodurable_fences_pkey; sorted like every other statement that locks these rows. $2 the ids of the new leases.
INSERT INTO aiodurable_fences AS f (thread_id, token, lease_id)
SELECT want.thread_id, 1, want.lease_id
FROM unnest($1::text[], $2::bigint[]) AS want (thread_id, lease_id)
ORDER BY want.thread_id
ON CONFLICT (thread_id) DO UPDATE SET token = f.token + 1, lease_id = excluded.lease_id
RETURNING thread_id, token, lease_id

-- name: hold_fences
-- aiodurable_fences_pkey. Until the transaction ends no lease of these threads begins and none of their writes commits.
SELECT thread_id, token, lease_id FROM aiodurable_fences WHERE thread_id = ANY ($1::text[]) ORDER BY thread_id FOR NO KEY UPDATE

-- name: locked
-- pg_locks, a look into shared memory. Of these keys, those that somebody has locked.
SELECT (l.classid::bigint << 32) | l.objid::bigint AS key
FROM pg_catalog.pg_locks l
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND ((l.classid::bigint << 32) | l.objid::bigint) = ANY ($1::bigint[])

-- name: on_disk
-- No table. The commit of this transaction waits for the disk, whatever the database's default is.
SELECT pg_catalog.set_config('synchronous_commit', 'on', true) WHERE pg_catalog.current_setting('synchronous_commit') = 'off'

-- name: claim_fences
-- aiodurable_fences_pkey; sorted. A thread that no lease was ever taken of gets a row to lock, of
-- token 0. A process that takes its first lease meanwhile waits for it.
INSERT INTO aiodurable_fences (thread_id, token)
SELECT want.thread_id, 0 FROM pg_catalog.unnest($1::text[]) AS want (thread_id) ORDER BY want.thread_id
ON CONFLICT (thread_id) DO NOTHING

-- name: release_fences
-- aiodurable_fences_pkey. Rows that claim_fences made.
DELETE FROM aiodurable_fences WHERE thread_id = ANY ($1::text[]) AND token = 0

-- name: raise_fences
-- aiodurable_fences_pkey. No lease's: 0 is nobody's id.
UPDATE aiodurable_fences SET token = token + 1, lease_id = 0 WHERE thread_id = ANY ($1::text[])

-- name: raise_removed
-- aiodurable_fences_pkey. Threads of which something was removed: no holder of before is let in
-- again. In place of a lease's id, which is never negative, stands when that was, in milliseconds.
-- A row that claim_fences made has kept nobody out.
WITH unused AS (
    DELETE FROM aiodurable_fences WHERE thread_id = ANY ($1::text[]) AND token = 0
)
UPDATE aiodurable_fences
SET token = token + 1, lease_id = -(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000::numeric)::bigint
WHERE thread_id = ANY ($1::text[]) AND token > 0

-- name: delete_threads
-- The primary keys, by their first column, and aiodurable_runs_thread_order_idx. Returns the threads of
-- which there was anything.
WITH c AS (DELETE FROM checkpoints WHERE thread_id = ANY ($1::text[]) RETURNING thread_id),
     b AS (DELETE FROM checkpoint_blobs WHERE thread_id = ANY ($1::text[]) RETURNING thread_id),
     w AS (DELETE FROM checkpoint_writes WHERE thread_id = ANY ($1::text[]) RETURNING thread_id),
     r AS (DELETE FROM aiodurable_runs WHERE thread_id = ANY ($1::text[]) RETURNING thread_id)
SELECT thread_id FROM c UNION SELECT thread_id FROM b UNION SELECT thread_id FROM w UNION SELECT thread_id FROM r

-- name: consumption_kept
-- checkpoints_pkey, by its first column; aiodurable_runs_pkey. What the checkpoints of these
-- threads tell of their runs' inputs is written into the ledger, before any of them are removed: an
-- input that is part of its thread is never passed in again. An edit of the state has the stamp of
-- a run and has consumed nothing.
WITH found AS MATERIALIZED (
    SELECT r.run_id
    FROM (SELECT c.thread_id, c.metadata ->> 'aiodurable_run_id'::text AS run_id, pg_catalog.max(c.checkpoint_id) AS last_id
          FROM checkpoints c
          WHERE c.thread_id = ANY ($1::text[]) AND c.checkpoint_ns = '' AND c.metadata ->> 'source'::text IS DISTINCT FROM 'update'
          GROUP BY 1, 2) s
    CROSS JOIN LATERAL (
        SELECT own.run_id
        FROM aiodurable_runs own
        WHERE own.run_id = s.run_id AND own.thread_id = s.thread_id AND NOT own.consumed
          AND s.last_id > coalesce(own.base_checkpoint_id, '')
        LIMIT 1
    ) r
)
UPDATE aiodurable_runs SET consumed = true WHERE run_id = ANY (ARRAY (SELECT f.run_id FROM found f))

-- name: copy_thread
-- The primary keys, by their first column. One snapshot: a thread that is being written is copied as of one commit.
WITH b AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT $2, checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs WHERE thread_id = $1
), w AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT $2, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
    FROM checkpoint_writes WHERE thread_id = $1
)
INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
SELECT $2, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
FROM checkpoints WHERE thread_id = $1

-- name: occupied
-- The primary keys, by their first column.
SELECT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = $1)
    OR EXISTS (SELECT 1 FROM checkpoint_writes WHERE thread_id = $1)
    OR EXISTS (SELECT 1 FROM checkpoint_blobs WHERE thread_id = $1) AS occupied

-- name: threads_of_runs
-- No index knows runs: a scan of checkpoints; of `|| ''` none knows the order, or one may be walked
-- through instead. Of the ledger's, aiodurable_runs_pkey does.
SELECT DISTINCT thread_id || '' AS thread_id FROM checkpoints
WHERE metadata ->> 'run_id'::text = ANY ($1::text[]) OR metadata ->> 'aiodurable_run_id'::text = ANY ($1::text[])
UNION
SELECT thread_id FROM aiodurable_runs WHERE run_id = ANY ($1::text[])

-- name: built_on_runs
-- checkpoints_pkey, by its first column, and once for each parent. Threads of these in which a checkpoint stays whose parent
-- goes.
SELECT DISTINCT stays.thread_id
FROM checkpoints stays
WHERE stays.thread_id = ANY ($2::text[])
  AND NOT coalesce(stays.metadata ->> 'run_id'::text = ANY ($1::text[])
                    OR stays.metadata ->> 'aiodurable_run_id'::text = ANY ($1::text[]), false)
  AND (SELECT goes.metadata ->> 'run_id'::text = ANY ($1::text[]) OR goes.metadata ->> 'aiodurable_run_id'::text = ANY ($1::text[])
       FROM checkpoints goes
       WHERE goes.thread_id = stays.thread_id AND goes.checkpoint_ns = stays.checkpoint_ns
         AND goes.checkpoint_id = stays.parent_checkpoint_id
       LIMIT 1)

-- name: delete_ledger_of_runs
-- checkpoints_pkey, by its first column; aiodurable_runs_pkey or aiodurable_runs_thread_order_idx. The rows
-- of these runs, and of durable runs of which no checkpoint stays. Of those that keep some, the
-- input was consumed.
WITH stamped AS MATERIALIZED (
    SELECT s.run_id, pg_catalog.bool_and(s.goes) AS whole
    FROM (SELECT c.metadata ->> 'aiodurable_run_id'::text AS run_id,
                 coalesce(c.metadata ->> 'run_id'::text = ANY ($1::text[]), false) AS goes
          FROM checkpoints c
          WHERE c.thread_id = ANY ($2::text[]) AND c.checkpoint_ns = ''
            AND c.metadata ->> 'source'::text IS DISTINCT FROM 'update') s
    WHERE s.run_id IS NOT NULL
    GROUP BY s.run_id
    HAVING pg_catalog.bool_or(s.goes)
), marked AS (
    UPDATE aiodurable_runs
    SET consumed = true
    WHERE run_id = ANY (ARRAY (SELECT s.run_id FROM stamped s WHERE NOT s.whole)) AND thread_id = ANY ($2::text[])
      AND run_id <> ALL ($1::text[])
)
DELETE FROM aiodurable_runs
WHERE run_id = ANY (pg_catalog.array_cat($1::text[], ARRAY (SELECT s.run_id FROM stamped s WHERE s.whole)))
  AND thread_id = ANY ($2::text[])

-- name: delete_runs
-- checkpoints_pkey and checkpoint_writes_pkey, by their first column. Writes and, in a later statement, blobs follow their
-- checkpoints. IS TRUE keeps IN from becoming a join, which may compare each with each.
WITH gone AS (
    DELETE FROM checkpoints
    WHERE thread_id = ANY ($2::text[])
      AND (metadata ->> 'run_id'::text = ANY ($1::text[]) OR metadata ->> 'aiodurable_run_id'::text = ANY ($1::text[]))
    RETURNING thread_id, checkpoint_ns, checkpoint_id
)
DELETE FROM checkpoint_writes w
WHERE w.thread_id = ANY ($2::text[])
  AND ((w.thread_id, w.checkpoint_ns, w.checkpoint_id) IN (SELECT g.thread_id, g.checkpoint_ns, g.checkpoint_id FROM gone g)) IS TRUE

-- name: orphan_parents
-- checkpoints_pkey. As LangGraph's own pruning leaves them: a parent that is gone is none.
UPDATE checkpoints c SET parent_checkpoint_id = NULL
WHERE c.thread_id = ANY ($1::text[]) AND c.parent_checkpoint_id IS NOT NULL
  AND (SELECT true
       FROM checkpoints p
       WHERE p.thread_id = c.thread_id AND p.checkpoint_ns = c.checkpoint_ns AND p.checkpoint_id = c.parent_checkpoint_id
       LIMIT 1) IS NULL

-- name: orphan_blobs
-- checkpoints_pkey and checkpoint_blobs_pkey, by their first column.
DELETE FROM checkpoint_blobs b
WHERE b.thread_id = ANY ($1::text[])
  AND (b.thread_id, b.checkpoint_ns, b.channel, b.version) NOT IN (
      SELECT c.thread_id, c.checkpoint_ns, v.key, v.value
      FROM checkpoints c
      CROSS JOIN LATERAL pg_catalog.jsonb_each_text(
          CASE WHEN pg_catalog.jsonb_typeof(c.checkpoint -> 'channel_versions'::text) = 'object'
               THEN c.checkpoint -> 'channel_versions'::text ELSE '{}' END) v
      WHERE c.thread_id = ANY ($1::text[]) AND v.value IS NOT NULL)

-- name: bump_free
-- aiodurable_fences_pkey. Rows that somebody has locked at this moment are left out rather than waited for; only where two
-- make the same row at once the second has to wait, with patience. Of a row that is made here there was no lease before, so
-- no write can be in flight that this snapshot misses: what it does not see is not there (checkpoints_pkey,
-- aiodurable_runs_thread_order_idx). $2 the ids of the new leases. A row that has its id already is left as it is: the answer to
-- the statement was lost, and it runs again. It waits for the disk whatever the database's default is: a token that a crash
-- undoes is given out twice.
WITH free AS MATERIALIZED (
    SELECT f.thread_id, f.token, f.lease_id = want.lease_id AS raised, want.lease_id
    FROM aiodurable_fences f
    JOIN unnest($1::text[], $2::bigint[]) AS want (thread_id, lease_id) ON f.thread_id = want.thread_id
    WHERE (SELECT pg_catalog.set_config('synchronous_commit',
                             CASE pg_catalog.current_setting('synchronous_commit')
                                 WHEN 'off' THEN 'on'
                                 ELSE pg_catalog.current_setting('synchronous_commit') END, true)) IS NOT NULL
    ORDER BY f.thread_id
    FOR NO KEY UPDATE OF f SKIP LOCKED
), raised AS (
    UPDATE aiodurable_fences f SET token = f.token + 1, lease_id = free.lease_id
    FROM free
    WHERE f.thread_id = free.thread_id AND NOT free.raised
    RETURNING f.thread_id, f.token, f.lease_id
), made AS (
    INSERT INTO aiodurable_fences (thread_id, token, lease_id)
    SELECT want.thread_id, 1, want.lease_id
    FROM unnest($1::text[], $2::bigint[]) AS want (thread_id, lease_id)
    WHERE (SELECT pg_catalog.set_config('lock_timeout', '1s', true)) IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM aiodurable_fences f WHERE f.thread_id = want.thread_id)
    ORDER BY want.thread_id
    ON CONFLICT (thread_id) DO NOTHING
    RETURNING thread_id, token, lease_id
)
SELECT thread_id, token, lease_id, false AS first FROM raised
UNION ALL
SELECT thread_id, token, lease_id, false FROM free WHERE raised
UNION ALL
SELECT m.thread_id, m.token, m.lease_id,
       NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.thread_id = m.thread_id AND c.checkpoint_ns = '')
       AND NOT EXISTS (SELECT 1 FROM aiodurable_runs r WHERE r.thread_id = m.thread_id)
FROM made m

-- name: latest
-- checkpoints_pkey backwards, once a thread. In the braces comes LangGraph's own query of a checkpoint with its blobs and
-- writes, by checkpoint_blobs_pkey and checkpoint_writes_pkey.
SELECT newest.*
FROM unnest($1::text[], $2::text[]) AS want (thread_id, checkpoint_ns)
CROSS JOIN LATERAL (
    {select}
    WHERE checkpoints.thread_id = want.thread_id AND checkpoints.checkpoint_ns = want.checkpoint_ns
    ORDER BY checkpoint_id DESC
    LIMIT 1
) AS newest

-- name: sizes
-- How many bytes the values hold that the newest checkpoints of threads $1 refer to. checkpoints_pkey backwards, once a
-- thread; checkpoint_blobs_pkey, and of a large value only its length.
SELECT h.thread_id, pg_catalog.sum(pg_catalog.octet_length(b.blob)) AS bytes
FROM pg_catalog.unnest($1::text[]) AS a (thread_id)
CROSS JOIN LATERAL (
    SELECT c.thread_id, c.checkpoint -> 'channel_versions'::text AS versions
    FROM checkpoints c
    WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = ''
    ORDER BY c.checkpoint_id DESC
    LIMIT 1
) h
CROSS JOIN LATERAL pg_catalog.jsonb_each_text(
    CASE WHEN pg_catalog.jsonb_typeof(h.versions) = 'object' THEN h.versions ELSE '{}' END) AS v (channel, version)
CROSS JOIN LATERAL (
    SELECT k.blob
    FROM checkpoint_blobs k
    WHERE k.thread_id = h.thread_id AND k.checkpoint_ns = '' AND k.channel = v.channel AND k.version = v.version
    LIMIT 1
) b
GROUP BY h.thread_id

-- name: inner
-- The newest checkpoints of the subgraphs that are under way in the newest step of threads $1. checkpoints_pkey: the head,
-- then a descent for each namespace there is, whatever the collation. In the braces, as in latest, LangGraph's own query of
-- a checkpoint, by checkpoint_blobs_pkey and checkpoint_writes_pkey.
WITH RECURSIVE heads AS MATERIALIZED (
    SELECT a.thread_id, (
               SELECT c.checkpoint_id
               FROM checkpoints c
               WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = ''
               ORDER BY c.checkpoint_id DESC
               LIMIT 1) AS checkpoint_id
    FROM pg_catalog.unnest($1::text[]) AS a (thread_id)
), places AS (
    SELECT h.thread_id, ''::text AS checkpoint_ns FROM heads h
    UNION ALL
    SELECT p.thread_id, (
               SELECT c.checkpoint_ns
               FROM checkpoints c
               WHERE c.thread_id = p.thread_id AND c.checkpoint_ns > p.checkpoint_ns
               ORDER BY c.checkpoint_ns
               LIMIT 1)
    FROM places p
    WHERE p.checkpoint_ns IS NOT NULL
)
SELECT newest.thread_id, newest.checkpoint, newest.checkpoint_ns, newest.checkpoint_id, newest.metadata,
       newest.channel_values, newest.pending_writes
FROM places p
JOIN heads h ON h.thread_id = p.thread_id
CROSS JOIN LATERAL (
    SELECT k.checkpoint_id, k.metadata -> 'parents'::text ->> ''::text AS root
    FROM checkpoints k
    WHERE k.thread_id = p.thread_id AND k.checkpoint_ns = p.checkpoint_ns
    ORDER BY k.checkpoint_id DESC
    LIMIT 1
) n
CROSS JOIN LATERAL (
    {select}
    WHERE checkpoints.thread_id = p.thread_id AND checkpoints.checkpoint_ns = p.checkpoint_ns
      AND checkpoints.checkpoint_id = n.checkpoint_id
) AS newest
WHERE p.checkpoint_ns > '' AND n.root = h.checkpoint_id

-- name: heal
-- aiodurable_fences_pkey; checkpoints_pkey for the thread's head, and for the heads of the subgraphs called from it;
-- checkpoint_writes_pkey for their tasks. $1 the thread, $2 its token, $3 its lease id.
WITH fence AS MATERIALIZED (
    SELECT thread_id, token, lease_id FROM aiodurable_fences WHERE thread_id = $1 FOR SHARE
), head AS MATERIALIZED (
    SELECT checkpoint_id FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = '' ORDER BY checkpoint_id DESC LIMIT 1
), places AS MATERIALIZED (
    SELECT '' AS checkpoint_ns, checkpoint_id FROM head
    UNION ALL
    (SELECT DISTINCT ON (c.checkpoint_ns) c.checkpoint_ns, c.checkpoint_id
     FROM checkpoints c
     WHERE c.thread_id = $1 AND c.checkpoint_ns > ''
       AND c.metadata -> 'parents'::text ->> ''::text = (SELECT checkpoint_id FROM head)
     ORDER BY c.checkpoint_ns, c.checkpoint_id DESC)
), poisoned AS MATERIALIZED (
    -- Output and error of one transaction: of one attempt. An error that a handler takes over is the handler's matter.
    SELECT p.checkpoint_ns, p.checkpoint_id, t.task_id, t.path
    FROM places p
    CROSS JOIN LATERAL (
        SELECT w.task_id, pg_catalog.min(w.task_path) AS path
        FROM checkpoint_writes w
        WHERE w.thread_id = $1 AND w.checkpoint_ns = p.checkpoint_ns AND w.checkpoint_id = p.checkpoint_id
          AND w.task_id <> '00000000-0000-0000-0000-000000000000'
        GROUP BY w.task_id
        HAVING NOT pg_catalog.bool_or(w.channel = '__error_source_node__')
           AND pg_catalog.max(w.xmin::text) FILTER (WHERE w.channel = '__error__') = ANY (pg_catalog.array_agg(w.xmin::text) FILTER (
                   WHERE w.channel NOT IN ('__error__', '__error_source_node__', '__interrupt__', '__resume__')))
    ) t
), healed AS (
    DELETE FROM checkpoint_writes w
    USING poisoned p, fence f
    WHERE f.token = $2 AND f.lease_id = $3 AND w.thread_id = $1 AND w.checkpoint_ns = p.checkpoint_ns AND w.checkpoint_id = p.checkpoint_id
      AND w.task_id = p.task_id AND w.channel NOT IN ('__error__', '__error_source_node__', '__interrupt__', '__resume__')
)
SELECT (SELECT token FROM fence) AS token, (SELECT lease_id FROM fence) AS lease_id,
       coalesce(pg_catalog.array_agg(p.checkpoint_ns ORDER BY p.checkpoint_ns, p.path), '{}') AS namespaces,
       coalesce(pg_catalog.array_agg(p.path ORDER BY p.checkpoint_ns, p.path), '{}') AS paths,
       (SELECT true
        FROM checkpoint_writes w
        WHERE w.thread_id = $1 AND w.checkpoint_ns = '' AND w.checkpoint_id = (SELECT checkpoint_id FROM head)
          AND w.task_id = '00000000-0000-0000-0000-000000000000' AND w.channel = '__resume__'
        LIMIT 1) IS NOT NULL AS loose
FROM poisoned p
