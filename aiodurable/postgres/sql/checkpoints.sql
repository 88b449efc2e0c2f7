-- name: commit
-- params: fence_thread_ids, fence_tokens, fence_lease_ids, stored_values, blob_thread_ids
-- params: blob_namespaces, blob_channels, blob_versions, blob_types, blob_places
-- params: checkpoint_thread_ids, checkpoint_namespaces, checkpoint_ids, parent_ids, checkpoints
-- params: metadata, write_thread_ids, write_namespaces, write_checkpoint_ids, write_task_ids
-- params: write_task_paths, write_idxs, write_channels, write_types, write_places
-- params: replaced_thread_ids, replaced_namespaces, replaced_checkpoint_ids, replaced_task_ids
-- params: replaced_task_paths, replaced_idxs, replaced_channels, replaced_types, replaced_places
-- params: proven_thread_ids, proven_namespaces, proven_checkpoint_ids, proven_task_ids
-- params: proven_idxs, proven_run_ids, proven_tokens, consumed_run_ids, consumed_thread_ids
-- params: ended_run_ids, ended_thread_ids, ended_tokens, ended_checkpoint_ids
-- aiodurable_fences_pkey for the fence; the primary keys of LangGraph's tables for the conflicts.
-- Under a fence hardly a row is ever there already, so the part `again`, which asks the keys before
-- it inserts, runs only where one was: it takes a tenth more of the server's time, and a WAL record
-- more for each row.
-- All values are one bytea, in which one that several rows store stands once: a place is the number
-- of its first byte, from 1, times 2^32, plus its length. Unnesting an array copies it twice more.
-- Both sides sorted: no deadlocks. SKIP LOCKED: a fence that is being raised, or that a dead
-- client's backend still holds, never holds the others up. Of several rows with one key the caller
-- sends one: a key may appear once in one ON CONFLICT DO UPDATE.
WITH
-- include if lost: lost_first
fence AS MATERIALIZED (
    SELECT f.thread_id
    FROM aiodurable_fences f
    JOIN unnest(:fence_thread_ids::text[], :fence_tokens::bigint[], :fence_lease_ids::bigint[])
        AS want (thread_id, token, lease_id)
      ON f.thread_id = want.thread_id AND f.token = want.token AND f.lease_id = want.lease_id
-- include if lost: unless_lost
    ORDER BY f.thread_id
    FOR SHARE OF f SKIP LOCKED
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT r.thread_id, r.checkpoint_ns, r.channel, r.version, r.type,
    -- include: stored_value
    FROM unnest(:blob_thread_ids::text[], :blob_namespaces::text[], :blob_channels::text[],
                :blob_versions::text[], :blob_types::text[], :blob_places::bigint[])
        AS r (thread_id, checkpoint_ns, channel, version, type, place)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
-- include if again: blob_again
), heads AS (
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
                             checkpoint, metadata)
    SELECT r.*
    FROM unnest(:checkpoint_thread_ids::text[], :checkpoint_namespaces::text[],
                :checkpoint_ids::text[], :parent_ids::text[], :checkpoints::jsonb[],
                :metadata::jsonb[])
        AS r (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
-- include if again: checkpoint_again
), kept AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx,
                                   channel, type, blob)
    SELECT r.thread_id, r.checkpoint_ns, r.checkpoint_id, r.task_id, r.task_path, r.idx, r.channel,
           r.type,
    -- include: stored_value
    FROM unnest(:write_thread_ids::text[], :write_namespaces::text[], :write_checkpoint_ids::text[],
                :write_task_ids::text[], :write_task_paths::text[], :write_idxs::int[],
                :write_channels::text[], :write_types::text[], :write_places::bigint[])
        AS r (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type,
              place)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
-- include if again: write_again
)
-- include if replaced: replaced
-- include if consumed: consumed
-- include if ended: ended
SELECT fence.thread_id, true AS written
-- include if ended: ended_columns
FROM fence
-- include if ended: ended_join
-- include if lost: and_lost

-- name: commit_one
-- params: fence_thread_id, fence_token, fence_lease_id, stored_values, blob_namespaces
-- params: blob_channels, blob_versions, blob_types, blob_places, checkpoint_namespaces
-- params: checkpoint_ids, parent_ids, checkpoints, metadata, write_namespaces
-- params: write_checkpoint_ids, write_task_ids, write_task_paths, write_idxs, write_channels
-- params: write_types, write_places, consumed_run_id, ended_run_id, ended_checkpoint_id
-- aiodurable_fences_pkey. commit of one thread, as a run that is alone has them: without the joins
-- that tell the threads apart it takes the server a fifth less. Columns that are unnested in a
-- select list are read side by side, where a FROM stores each of them first; of many rows that is
-- slower.
WITH fence AS MATERIALIZED (
    SELECT f.thread_id
    FROM aiodurable_fences f
    WHERE f.thread_id = :fence_thread_id AND f.token = :fence_token::bigint
      AND f.lease_id = :fence_lease_id::bigint
    FOR SHARE OF f SKIP LOCKED
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT r.thread_id, r.checkpoint_ns, r.channel, r.version, r.type,
    -- include: stored_value
    FROM (
        SELECT fence.thread_id, pg_catalog.unnest(:blob_namespaces::text[]) AS checkpoint_ns,
               pg_catalog.unnest(:blob_channels::text[]) AS channel,
               pg_catalog.unnest(:blob_versions::text[]) AS version,
               pg_catalog.unnest(:blob_types::text[]) AS type,
               pg_catalog.unnest(:blob_places::bigint[]) AS place
        FROM fence
    ) r
), heads AS (
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
                             checkpoint, metadata)
    SELECT fence.thread_id, pg_catalog.unnest(:checkpoint_namespaces::text[]),
           pg_catalog.unnest(:checkpoint_ids::text[]), pg_catalog.unnest(:parent_ids::text[]),
           pg_catalog.unnest(:checkpoints::jsonb[]), pg_catalog.unnest(:metadata::jsonb[])
    FROM fence
), kept AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx,
                                   channel, type, blob)
    SELECT r.thread_id, r.checkpoint_ns, r.checkpoint_id, r.task_id, r.task_path, r.idx, r.channel,
           r.type,
    -- include: stored_value
    FROM (
        SELECT fence.thread_id, pg_catalog.unnest(:write_namespaces::text[]) AS checkpoint_ns,
               pg_catalog.unnest(:write_checkpoint_ids::text[]) AS checkpoint_id,
               pg_catalog.unnest(:write_task_ids::text[]) AS task_id,
               pg_catalog.unnest(:write_task_paths::text[]) AS task_path,
               pg_catalog.unnest(:write_idxs::int[]) AS idx,
               pg_catalog.unnest(:write_channels::text[]) AS channel,
               pg_catalog.unnest(:write_types::text[]) AS type,
               pg_catalog.unnest(:write_places::bigint[]) AS place
        FROM fence
    ) r
)
-- include if consumed: one_consumed
-- include if ended: one_ended
SELECT fence.thread_id, true AS written
-- include if ended: ended_columns
FROM fence
-- include if ended: ended_join

-- fragment: stored_value
           pg_catalog.substring(:stored_values::bytea, (r.place >> 32)::int,
                                (r.place & 4294967295)::int)

-- fragment: blob_again
    ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING

-- fragment: checkpoint_again
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata

-- fragment: write_again
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING

-- fragment: lost
-- The primary keys of LangGraph's tables and aiodurable_runs_pkey. Threads whose newest
-- acknowledged row is gone: a checkpoint, what a task wrote (task_id), or a run under its token
-- (run_id). What a task wrote is the first row that is not before it, or is gone: by its thread_id
-- alone LangGraph's other index finds it too, and reads all that the thread ever wrote.
lost AS MATERIALIZED (
    SELECT p.thread_id
    FROM unnest(:proven_thread_ids::text[], :proven_namespaces::text[],
                :proven_checkpoint_ids::text[], :proven_task_ids::text[], :proven_idxs::int[],
                :proven_run_ids::text[], :proven_tokens::bigint[])
        AS p (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, run_id, token)
    WHERE CASE
        WHEN p.run_id IS NOT NULL THEN
            (SELECT true
             FROM aiodurable_runs r
             WHERE r.run_id = p.run_id AND r.fencing_token = p.token
             LIMIT 1)
        WHEN p.task_id IS NOT NULL THEN
            (SELECT nullif((w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx)
                           = (p.thread_id, p.checkpoint_ns, p.checkpoint_id, p.task_id, p.idx),
                           false)
             FROM checkpoint_writes w
             WHERE (w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx)
                   >= (p.thread_id, p.checkpoint_ns, p.checkpoint_id, p.task_id, p.idx)
             ORDER BY w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx
             LIMIT 1)
        ELSE
            (SELECT true
             FROM checkpoints c
             WHERE c.thread_id = p.thread_id AND c.checkpoint_ns = p.checkpoint_ns
               AND c.checkpoint_id = p.checkpoint_id
             LIMIT 1)
        END IS NULL
)

-- fragment: lost_first
-- include: lost
,

-- name: lost_threads
-- params: proven_thread_ids, proven_namespaces, proven_checkpoint_ids, proven_task_ids, proven_idxs
-- params: proven_run_ids, proven_tokens
-- As in commit.
WITH
-- include: lost
SELECT thread_id FROM lost

-- fragment: unless_lost
WHERE f.thread_id <> ALL (ARRAY (SELECT l.thread_id FROM lost l))

-- fragment: and_lost
UNION ALL
SELECT thread_id, false
-- include if ended: no_end
FROM lost

-- fragment: replaced
-- checkpoint_writes_pkey. For a batch with errors, questions or answers; without this part a lone
-- commit is a tenth faster.
, replaced AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx,
                                   channel, type, blob)
    SELECT r.thread_id, r.checkpoint_ns, r.checkpoint_id, r.task_id, r.task_path, r.idx, r.channel,
           r.type,
    -- include: stored_value
    FROM unnest(:replaced_thread_ids::text[], :replaced_namespaces::text[],
                :replaced_checkpoint_ids::text[], :replaced_task_ids::text[],
                :replaced_task_paths::text[], :replaced_idxs::int[], :replaced_channels::text[],
                :replaced_types::text[], :replaced_places::bigint[])
        AS r (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type,
              place)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
    DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob
)

-- fragment: consumed
-- aiodurable_runs_pkey. For a batch with the first checkpoint of a run: it has taken the run's
-- input, which must never be passed in again. A row that somebody's transaction has locked is left
-- as it is, for the batch has the writes of other threads: the checkpoint itself shows the same
-- (consumed of runs.sql), and the end of the attempt says it in the row.
, consuming AS MATERIALIZED (
    SELECT k.run_id
    FROM unnest(:consumed_run_ids::text[], :consumed_thread_ids::text[]) AS u (run_id, thread_id)
    CROSS JOIN LATERAL (
    -- include: runs.free_row
    ) k
    WHERE u.thread_id IN (SELECT thread_id FROM fence)
), consumed AS (
    UPDATE aiodurable_runs
    SET consumed = true
    WHERE run_id = ANY (ARRAY (SELECT c.run_id FROM consuming c))
)

-- fragment: one_consumed
-- aiodurable_runs_pkey. As consumed.
, consuming AS MATERIALIZED (
    SELECT k.run_id
    FROM (SELECT :consumed_run_id::text AS run_id FROM fence) u
    CROSS JOIN LATERAL (
    -- include: runs.free_row
    ) k
), consumed AS (
    UPDATE aiodurable_runs
    SET consumed = true
    WHERE run_id = (SELECT c.run_id FROM consuming c)
)

-- fragment: ended
-- aiodurable_runs_pkey; checkpoints_pkey backwards and checkpoint_writes_pkey, once a thread. For a
-- batch with a checkpoint after which nothing of its run is left to do: the run is complete with
-- the commit of that checkpoint, by the rule of runs.complete. This snapshot does not have the
-- checkpoint yet, unless the answer was lost and the statement runs again. The order of its
-- writes keeps the planner from LangGraph's index of thread_id, which reads all of the thread. A
-- row that somebody's transaction has locked is left to runs.complete: the batch has the writes of
-- other threads.
, ending AS MATERIALIZED (
    SELECT r.run_id, e.checkpoint_id
    FROM unnest(:ended_run_ids::text[], :ended_thread_ids::text[], :ended_tokens::bigint[],
                :ended_checkpoint_ids::text[])
         AS e (run_id, thread_id, token, checkpoint_id)
    JOIN aiodurable_runs r
      ON r.run_id = e.run_id AND r.thread_id = e.thread_id AND r.fencing_token = e.token
    WHERE e.thread_id IN (SELECT thread_id FROM fence)
      AND coalesce((SELECT c.checkpoint_id
                    FROM checkpoints c
                    WHERE c.thread_id = e.thread_id AND c.checkpoint_ns = ''
                    ORDER BY c.checkpoint_id DESC
                    LIMIT 1), '') <= e.checkpoint_id
      AND (SELECT true
           FROM checkpoint_writes w
           WHERE w.thread_id = e.thread_id AND w.checkpoint_ns = ''
             AND w.checkpoint_id = e.checkpoint_id
           ORDER BY w.task_id, w.idx
           LIMIT 1) IS NULL
    FOR NO KEY UPDATE OF r SKIP LOCKED
), ended AS (
    UPDATE aiodurable_runs r
    SET checkpoint_id = e.checkpoint_id, finished_at = pg_catalog.now(),
-- include: runs.completed
    FROM ending e
    WHERE r.run_id = e.run_id
    RETURNING r.thread_id, r.finished_at,
-- include: runs.awaited
)

-- fragment: one_ended
-- aiodurable_runs_pkey; checkpoints_pkey backwards and checkpoint_writes_pkey. As ended.
, ending AS MATERIALIZED (
    SELECT r.run_id
    FROM fence
    JOIN aiodurable_runs r ON r.thread_id = fence.thread_id
    WHERE r.run_id = :ended_run_id AND r.fencing_token = :fence_token::bigint
      AND coalesce((SELECT c.checkpoint_id
                    FROM checkpoints c
                    WHERE c.thread_id = :fence_thread_id AND c.checkpoint_ns = ''
                    ORDER BY c.checkpoint_id DESC
                    LIMIT 1), '') <= :ended_checkpoint_id::text
      AND (SELECT true
           FROM checkpoint_writes w
           WHERE w.thread_id = :fence_thread_id AND w.checkpoint_ns = ''
             AND w.checkpoint_id = :ended_checkpoint_id::text
           ORDER BY w.task_id, w.idx
           LIMIT 1) IS NULL
    FOR NO KEY UPDATE OF r SKIP LOCKED
), ended AS (
    UPDATE aiodurable_runs r
    SET checkpoint_id = :ended_checkpoint_id::text, finished_at = pg_catalog.now(),
-- include: runs.completed
    WHERE r.run_id = (SELECT e.run_id FROM ending e)
    RETURNING r.thread_id, r.finished_at,
-- include: runs.awaited
)

-- fragment: ended_columns
, ended.finished_at, ended.awaited

-- fragment: no_end
, NULL::timestamptz, NULL::boolean

-- fragment: ended_join
LEFT JOIN ended ON ended.thread_id = fence.thread_id

-- name: tokens
-- params: thread_ids
-- aiodurable_fences_pkey. What stands where a batch found no row to lock.
SELECT thread_id, token, lease_id FROM aiodurable_fences WHERE thread_id = ANY (:thread_ids::text[])

-- name: token
-- params: thread_id
-- aiodurable_fences_pkey.
SELECT token, lease_id FROM aiodurable_fences WHERE thread_id = :thread_id

-- name: short_lock_timeout
-- No table. For the transaction it is part of.
SELECT pg_catalog.set_config('lock_timeout', '1s', true),
       pg_catalog.set_config('synchronous_commit',
                  CASE pg_catalog.current_setting('synchronous_commit')
                      WHEN 'off' THEN 'on'
                      ELSE pg_catalog.current_setting('synchronous_commit') END, true)

-- name: raise_token
-- params: thread_ids, lease_ids
-- aiodurable_fences_pkey; sorted like every other statement that locks these rows.
INSERT INTO aiodurable_fences AS f (thread_id, token, lease_id)
SELECT want.thread_id, 1, want.lease_id
FROM unnest(:thread_ids::text[], :lease_ids::bigint[]) AS want (thread_id, lease_id)
ORDER BY want.thread_id
ON CONFLICT (thread_id) DO UPDATE SET token = f.token + 1, lease_id = excluded.lease_id
RETURNING thread_id, token, lease_id

-- name: hold_fences
-- params: thread_ids
-- aiodurable_fences_pkey. Until the transaction ends no lease of these threads begins and none of
-- their writes commits.
SELECT thread_id, token, lease_id
FROM aiodurable_fences
WHERE thread_id = ANY (:thread_ids::text[])
ORDER BY thread_id
FOR NO KEY UPDATE

-- name: locked
-- params: lock_keys
-- pg_locks. Of these keys, those that somebody has locked.
SELECT l.key
FROM (
-- include: holders.lease_locks
) l
WHERE l.key = ANY (:lock_keys::bigint[])

-- name: on_disk
-- No table. The commit of this transaction waits for the disk, whatever the database's default is.
SELECT pg_catalog.set_config('synchronous_commit', 'on', true)
WHERE pg_catalog.current_setting('synchronous_commit') = 'off'

-- name: insert_missing_fences
-- params: thread_ids
-- aiodurable_fences_pkey; sorted. A thread that no lease was ever taken of gets a row to lock, of
-- token 0. A process that takes its first lease meanwhile waits for it. The short wait is the whole
-- transaction's: hold_fences and what changes the threads come after this.
INSERT INTO aiodurable_fences (thread_id, token)
SELECT want.thread_id, 0 FROM pg_catalog.unnest(:thread_ids::text[]) AS want (thread_id)
WHERE true
-- include: runs.short_wait
ORDER BY want.thread_id
ON CONFLICT (thread_id) DO NOTHING

-- name: delete_unused_fences
-- params: thread_ids
-- aiodurable_fences_pkey. Rows that insert_missing_fences made.
DELETE FROM aiodurable_fences WHERE thread_id = ANY (:thread_ids::text[]) AND token = 0

-- name: raise_fences
-- params: thread_ids
-- aiodurable_fences_pkey. Of no lease: none has the id 0.
UPDATE aiodurable_fences SET token = token + 1, lease_id = 0
WHERE thread_id = ANY (:thread_ids::text[])

-- name: raise_removed
-- params: thread_ids
-- aiodurable_fences_pkey. Threads of which something was removed: no holder of before is let in
-- again. In place of a lease's id, which is never negative, stands when that was, in milliseconds.
-- A row that insert_missing_fences made has kept nobody out.
WITH unused AS (
    DELETE FROM aiodurable_fences WHERE thread_id = ANY (:thread_ids::text[]) AND token = 0
)
UPDATE aiodurable_fences
SET token = token + 1,
    lease_id = -(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000::numeric)::bigint
WHERE thread_id = ANY (:thread_ids::text[]) AND token > 0

-- name: delete_threads
-- params: thread_ids
-- The primary keys, by their first column, aiodurable_effects_pkey likewise,
-- aiodurable_signals_pkey or aiodurable_signals_once_idx, and aiodurable_runs_thread_order_idx.
-- Returns the threads of which there was anything.
WITH c AS (DELETE FROM checkpoints WHERE thread_id = ANY (:thread_ids::text[]) RETURNING thread_id),
     b AS (DELETE FROM checkpoint_blobs WHERE thread_id = ANY (:thread_ids::text[])
           RETURNING thread_id),
     w AS (DELETE FROM checkpoint_writes WHERE thread_id = ANY (:thread_ids::text[])
           RETURNING thread_id),
     r AS (DELETE FROM aiodurable_runs WHERE thread_id = ANY (:thread_ids::text[])
           RETURNING thread_id),
     e AS (DELETE FROM aiodurable_effects WHERE thread_id = ANY (:thread_ids::text[])),
     s AS (DELETE FROM aiodurable_signals WHERE thread_id = ANY (:thread_ids::text[])
           RETURNING thread_id)
SELECT thread_id FROM c
UNION SELECT thread_id FROM b
UNION SELECT thread_id FROM w
UNION SELECT thread_id FROM r
UNION SELECT thread_id FROM s

-- name: record_consumed
-- params: thread_ids
-- checkpoints_pkey, by its first column; aiodurable_runs_pkey. What the checkpoints of these
-- threads tell of their runs' inputs is written into the ledger, before any of them are removed: an
-- input that is part of its thread is never passed in again. An edit of the state has the stamp of
-- a run and has consumed nothing.
WITH found AS MATERIALIZED (
    SELECT r.run_id
    FROM (SELECT c.thread_id, c.metadata ->> 'aiodurable_run_id'::text AS run_id,
                 pg_catalog.max(c.checkpoint_id) AS last_id
          FROM checkpoints c
          WHERE c.thread_id = ANY (:thread_ids::text[]) AND c.checkpoint_ns = ''
            AND c.metadata ->> 'source'::text IS DISTINCT FROM 'update'
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
-- params: source_thread_id, thread_id
-- The primary keys, by their first column. One snapshot: a thread that is being written is copied
-- as of one commit.
WITH b AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT :thread_id, checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs
    WHERE thread_id = :source_thread_id
), w AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx,
                                   channel, type, blob)
    SELECT :thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
    FROM checkpoint_writes WHERE thread_id = :source_thread_id
)
INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type,
                         checkpoint, metadata)
SELECT :thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
FROM checkpoints WHERE thread_id = :source_thread_id

-- name: has_checkpoints
-- params: thread_id
-- The primary keys, by their first column.
SELECT EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = :thread_id)
    OR EXISTS (SELECT 1 FROM checkpoint_writes WHERE thread_id = :thread_id)
    OR EXISTS (SELECT 1 FROM checkpoint_blobs WHERE thread_id = :thread_id) AS has_checkpoints

-- name: threads_of_runs
-- params: run_ids
-- No index knows runs: a scan of checkpoints; of `|| ''` none knows the order, or one may be walked
-- through instead. Of the ledger's, aiodurable_runs_pkey does.
SELECT DISTINCT thread_id || '' AS thread_id FROM checkpoints
WHERE metadata ->> 'run_id'::text = ANY (:run_ids::text[])
  OR metadata ->> 'aiodurable_run_id'::text = ANY (:run_ids::text[])
UNION
SELECT thread_id FROM aiodurable_runs WHERE run_id = ANY (:run_ids::text[])

-- name: built_on_runs
-- params: run_ids, thread_ids
-- checkpoints_pkey, by its first column, and once for each parent. Threads of these in which a
-- checkpoint stays whose parent goes.
SELECT DISTINCT stays.thread_id
FROM checkpoints stays
WHERE stays.thread_id = ANY (:thread_ids::text[])
  AND NOT coalesce(stays.metadata ->> 'run_id'::text = ANY (:run_ids::text[])
                    OR stays.metadata ->> 'aiodurable_run_id'::text = ANY (:run_ids::text[]), false)
  AND (SELECT goes.metadata ->> 'run_id'::text = ANY (:run_ids::text[])
              OR goes.metadata ->> 'aiodurable_run_id'::text = ANY (:run_ids::text[])
       FROM checkpoints goes
       WHERE goes.thread_id = stays.thread_id AND goes.checkpoint_ns = stays.checkpoint_ns
         AND goes.checkpoint_id = stays.parent_checkpoint_id
       LIMIT 1)

-- name: remove_past_effects
-- params: thread_id
-- aiodurable_effects_pkey by its first column; checkpoints_pkey for the head. The effects of steps
-- before the thread's newest checkpoint: no task of these runs again.
DELETE FROM aiodurable_effects e
WHERE e.thread_id = :thread_id
  AND e.checkpoint_id < (
      SELECT c.checkpoint_id
      FROM checkpoints c
      WHERE c.thread_id = :thread_id AND c.checkpoint_ns = ''
      ORDER BY c.checkpoint_id DESC
      LIMIT 1)

-- name: delete_effects_of_runs
-- params: run_ids, thread_ids
-- aiodurable_effects_pkey by its first column.
DELETE FROM aiodurable_effects e
WHERE e.thread_id = ANY (:thread_ids::text[]) AND e.run_id = ANY (:run_ids::text[])

-- name: delete_ledger_of_runs
-- params: run_ids, thread_ids
-- checkpoints_pkey, by its first column; aiodurable_runs_pkey or aiodurable_runs_thread_order_idx.
-- The rows of these runs, and of durable runs of which no checkpoint stays. Of those that keep
-- some, the input was consumed.
WITH stamped AS MATERIALIZED (
    SELECT s.run_id, pg_catalog.bool_and(s.goes) AS whole
    FROM (SELECT c.metadata ->> 'aiodurable_run_id'::text AS run_id,
                 coalesce(c.metadata ->> 'run_id'::text = ANY (:run_ids::text[]), false) AS goes
          FROM checkpoints c
          WHERE c.thread_id = ANY (:thread_ids::text[]) AND c.checkpoint_ns = ''
            AND c.metadata ->> 'source'::text IS DISTINCT FROM 'update') s
    WHERE s.run_id IS NOT NULL
    GROUP BY s.run_id
    HAVING pg_catalog.bool_or(s.goes)
), marked AS (
    UPDATE aiodurable_runs
    SET consumed = true
    WHERE run_id = ANY (ARRAY (SELECT s.run_id FROM stamped s WHERE NOT s.whole))
      AND thread_id = ANY (:thread_ids::text[])
      AND run_id <> ALL (:run_ids::text[])
)
DELETE FROM aiodurable_runs
WHERE run_id = ANY (pg_catalog.array_cat(
          :run_ids::text[], ARRAY (SELECT s.run_id FROM stamped s WHERE s.whole)))
  AND thread_id = ANY (:thread_ids::text[])

-- name: delete_runs
-- params: run_ids, thread_ids
-- checkpoints_pkey and checkpoint_writes_pkey, by their first column. Writes and, in a later
-- statement, blobs follow their checkpoints. IS TRUE keeps IN from becoming a join, which may
-- compare each with each.
WITH gone AS (
    DELETE FROM checkpoints
    WHERE thread_id = ANY (:thread_ids::text[])
      AND (metadata ->> 'run_id'::text = ANY (:run_ids::text[])
           OR metadata ->> 'aiodurable_run_id'::text = ANY (:run_ids::text[]))
    RETURNING thread_id, checkpoint_ns, checkpoint_id
)
DELETE FROM checkpoint_writes w
WHERE w.thread_id = ANY (:thread_ids::text[])
  AND ((w.thread_id, w.checkpoint_ns, w.checkpoint_id) IN (
          SELECT g.thread_id, g.checkpoint_ns, g.checkpoint_id FROM gone g)) IS TRUE

-- name: orphan_parents
-- params: thread_ids
-- checkpoints_pkey. As LangGraph's own pruning leaves them: a parent that is gone is none.
UPDATE checkpoints c SET parent_checkpoint_id = NULL
WHERE c.thread_id = ANY (:thread_ids::text[]) AND c.parent_checkpoint_id IS NOT NULL
  AND (SELECT true
       FROM checkpoints p
       WHERE p.thread_id = c.thread_id AND p.checkpoint_ns = c.checkpoint_ns
         AND p.checkpoint_id = c.parent_checkpoint_id
       LIMIT 1) IS NULL

-- name: orphan_blobs
-- params: thread_ids
-- checkpoints_pkey and checkpoint_blobs_pkey, by their first column.
DELETE FROM checkpoint_blobs b
WHERE b.thread_id = ANY (:thread_ids::text[])
  AND (b.thread_id, b.checkpoint_ns, b.channel, b.version) NOT IN (
      SELECT c.thread_id, c.checkpoint_ns, v.key, v.value
      FROM checkpoints c
      CROSS JOIN LATERAL pg_catalog.jsonb_each_text(
          CASE WHEN pg_catalog.jsonb_typeof(c.checkpoint -> 'channel_versions'::text) = 'object'
               THEN c.checkpoint -> 'channel_versions'::text ELSE '{}' END) v
      WHERE c.thread_id = ANY (:thread_ids::text[]) AND v.value IS NOT NULL)

-- name: raise_free
-- params: thread_ids, lease_ids
-- aiodurable_fences_pkey. A part of the function in locks.sql. Rows that somebody has locked at
-- this moment are left out rather than waited for.
WITH free AS MATERIALIZED (
    SELECT f.thread_id, want.lease_id
    FROM unnest(:thread_ids::text[], :lease_ids::bigint[]) AS want (thread_id, lease_id)
    JOIN aiodurable_fences f ON f.thread_id = want.thread_id
    ORDER BY f.thread_id
    FOR NO KEY UPDATE OF f SKIP LOCKED
), raised AS (
    UPDATE aiodurable_fences f SET token = f.token + 1, lease_id = free.lease_id
    FROM free
    WHERE f.thread_id = free.thread_id
    RETURNING f.thread_id, f.token
)
SELECT coalesce(pg_catalog.array_agg(r.thread_id), '{}'), pg_catalog.array_agg(r.token)
FROM raised r

-- name: make_missing
-- params: thread_ids, lease_ids
-- aiodurable_fences_pkey; checkpoints_pkey and aiodurable_runs_thread_order_idx. The other part:
-- the rows of threads that have none. Only where somebody makes the same row in a transaction that
-- is open it has to wait, as long as the function allows. Whether a thread is new, or all that is
-- there is one run, which waits in a queue: before its row was made here no lease came, so no write
-- can be in flight that this snapshot misses.
WITH made AS (
    INSERT INTO aiodurable_fences (thread_id, token, lease_id)
    SELECT want.thread_id, 1, want.lease_id
    FROM unnest(:thread_ids::text[], :lease_ids::bigint[]) AS want (thread_id, lease_id)
    WHERE NOT EXISTS (SELECT 1 FROM aiodurable_fences f WHERE f.thread_id = want.thread_id)
    ORDER BY want.thread_id
    ON CONFLICT (thread_id) DO NOTHING
    RETURNING thread_id
)
SELECT pg_catalog.array_agg(m.thread_id),
       pg_catalog.array_agg(c.none AND n.runs = 0),
       pg_catalog.array_agg(c.none AND n.runs = 1 AND n.queued)
FROM made m
CROSS JOIN LATERAL (
    SELECT (SELECT true FROM checkpoints k
            WHERE k.thread_id = m.thread_id AND k.checkpoint_ns = '' LIMIT 1) IS NULL AS none
) c
CROSS JOIN LATERAL (
    SELECT pg_catalog.count(*) AS runs, pg_catalog.bool_and(r.status = 'queued') AS queued
    FROM (SELECT k.status FROM aiodurable_runs k WHERE k.thread_id = m.thread_id LIMIT 2) r
) n

-- name: token_on_disk
-- params: thread_id, token, lease_id
-- aiodurable_fences_pkey. Locking the row is a write, whose commit waits for the disk, whatever the
-- database's default is, and so for the raising before it.
SELECT f.token
FROM aiodurable_fences f
WHERE f.thread_id = :thread_id AND f.token = :token::bigint AND f.lease_id = :lease_id::bigint
  AND (SELECT pg_catalog.set_config('synchronous_commit',
                             CASE pg_catalog.current_setting('synchronous_commit')
                                 WHEN 'off' THEN 'on'
                                 ELSE pg_catalog.current_setting('synchronous_commit') END,
                             true)) IS NOT NULL
-- include: runs.short_wait
FOR KEY SHARE OF f

-- name: latest
-- params: thread_ids, namespaces
-- checkpoints_pkey backwards, once a thread; for LangGraph's own query of a checkpoint with its
-- blobs and writes checkpoint_blobs_pkey and checkpoint_writes_pkey.
SELECT newest.*
FROM unnest(:thread_ids::text[], :namespaces::text[]) AS want (thread_id, checkpoint_ns)
CROSS JOIN LATERAL (
-- include: langgraph.select
    WHERE checkpoints.thread_id = want.thread_id AND checkpoints.checkpoint_ns = want.checkpoint_ns
    ORDER BY checkpoint_id DESC
    LIMIT 1
) AS newest

-- name: sizes
-- params: thread_ids
-- How many bytes the values hold that the newest checkpoints of the threads refer to.
-- checkpoints_pkey backwards, once a thread; checkpoint_blobs_pkey, and of a large value only its
-- length.
SELECT h.thread_id, pg_catalog.sum(pg_catalog.octet_length(b.blob)) AS bytes
FROM pg_catalog.unnest(:thread_ids::text[]) AS a (thread_id)
CROSS JOIN LATERAL (
    SELECT c.thread_id, c.checkpoint -> 'channel_versions'::text AS versions
    FROM checkpoints c
    WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = ''
    ORDER BY c.checkpoint_id DESC
    LIMIT 1
) h
CROSS JOIN LATERAL pg_catalog.jsonb_each_text(
    CASE WHEN pg_catalog.jsonb_typeof(h.versions) = 'object' THEN h.versions ELSE '{}' END)
    AS v (channel, version)
CROSS JOIN LATERAL (
    SELECT k.blob
    FROM checkpoint_blobs k
    WHERE k.thread_id = h.thread_id AND k.checkpoint_ns = '' AND k.channel = v.channel
      AND k.version = v.version
    LIMIT 1
) b
GROUP BY h.thread_id

-- fragment: entered
-- checkpoints_pkey. The namespaces that were written after the checkpoint of each thread in
-- `heads`, as each subgraph is that was called from it. One walk of the index entries of the
-- thread's subgraphs, some 70 a page, from one namespace with a newer id to the next. ORDER BY and
-- LIMIT keep the planner from an index that reads the thread's rows, or those written since the
-- last vacuum. It begins with the columns of a row: they may have a collation of their own.
entered (thread_id, head_id, checkpoint_ns) AS (
    SELECT h.thread_id, h.checkpoint_id, h.checkpoint_ns FROM heads h
    UNION ALL
    SELECT e.thread_id, e.head_id, (
               SELECT c.checkpoint_ns
               FROM checkpoints c
               WHERE c.thread_id = e.thread_id AND c.checkpoint_ns > e.checkpoint_ns
                 AND c.checkpoint_id > e.head_id
               ORDER BY c.checkpoint_ns
               LIMIT 1)
    FROM entered e
    WHERE e.checkpoint_ns IS NOT NULL
)

-- fragment: inner_heads
-- checkpoints_pkey. The newest checkpoints of the subgraphs that are under way in the newest step
-- of each thread in `heads`.
-- include: entered
, inner_heads AS (
    SELECT e.thread_id, e.checkpoint_ns, n.checkpoint_id
    FROM entered e
    CROSS JOIN LATERAL (
        SELECT k.checkpoint_id, k.metadata -> 'parents'::text ->> ''::text AS root
        FROM checkpoints k
        WHERE k.thread_id = e.thread_id AND k.checkpoint_ns = e.checkpoint_ns
        ORDER BY k.checkpoint_id DESC
        LIMIT 1
    ) n
    WHERE e.checkpoint_ns > '' AND n.root = e.head_id
)

-- name: inner_checkpoints
-- params: thread_ids
-- The newest checkpoints of the subgraphs that are under way in the newest step of the threads.
-- checkpoints_pkey for the heads; for LangGraph's own query of a checkpoint checkpoint_blobs_pkey
-- and checkpoint_writes_pkey; LIMIT keeps it a look-up.
WITH RECURSIVE heads AS MATERIALIZED (
    SELECT h.thread_id, h.checkpoint_ns, h.checkpoint_id
    FROM pg_catalog.unnest(:thread_ids::text[]) AS a (thread_id)
    CROSS JOIN LATERAL (
        SELECT c.thread_id, c.checkpoint_ns, c.checkpoint_id
        FROM checkpoints c
        WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = ''
        ORDER BY c.checkpoint_id DESC
        LIMIT 1
    ) h
),
-- include: inner_heads
SELECT newest.thread_id, newest.checkpoint, newest.checkpoint_ns, newest.checkpoint_id,
       newest.metadata,
       newest.channel_values, newest.pending_writes
FROM inner_heads i
CROSS JOIN LATERAL (
-- include: langgraph.select
    WHERE checkpoints.thread_id = i.thread_id AND checkpoints.checkpoint_ns = i.checkpoint_ns
      AND checkpoints.checkpoint_id = i.checkpoint_id
    LIMIT 1
) AS newest

-- fragment: heads
-- checkpoints_pkey. The newest checkpoint of a thread; none, or one.
heads AS MATERIALIZED (
    SELECT c.thread_id, c.checkpoint_ns, c.checkpoint_id
    FROM checkpoints c
    WHERE c.thread_id = :thread_id AND c.checkpoint_ns = ''
    ORDER BY c.checkpoint_id DESC
    LIMIT 1
)

-- name: inner_progress
-- params: thread_id, known_ids, most
-- Of the subgraphs that are under way in the newest step of a thread, `most` of them, the nodes
-- that each has seen, and the channels that its step updated, no values. checkpoints_pkey. Of a
-- checkpoint that is known nothing is unpacked.
WITH RECURSIVE
-- include: heads
,
-- include: inner_heads
SELECT i.checkpoint_ns, i.checkpoint_id, u.seen, u.updated
FROM (SELECT * FROM inner_heads LIMIT :most::integer) i
LEFT JOIN LATERAL (
    SELECT CASE WHEN pg_catalog.jsonb_typeof(n.checkpoint -> 'versions_seen'::text) = 'object'
                THEN ARRAY(SELECT k.node
                           FROM pg_catalog.jsonb_object_keys(
                                    n.checkpoint -> 'versions_seen'::text) AS k (node))
                END AS seen,
           CASE WHEN pg_catalog.jsonb_typeof(n.checkpoint -> 'updated_channels'::text) = 'array'
                THEN ARRAY(SELECT k.channel
                           FROM pg_catalog.jsonb_array_elements_text(
                                    n.checkpoint -> 'updated_channels'::text) AS k (channel))
                END AS updated
    FROM checkpoints n
    WHERE n.thread_id = i.thread_id AND n.checkpoint_ns = i.checkpoint_ns
      AND n.checkpoint_id = i.checkpoint_id AND i.checkpoint_id <> ALL (:known_ids::text[])
    LIMIT 1
) u ON true

-- fragment: places
-- The thread's head, and the heads of the subgraphs called from it.
-- include: heads
,
-- include: inner_heads
, places AS MATERIALIZED (
    SELECT checkpoint_ns, checkpoint_id FROM heads
    UNION ALL
    SELECT checkpoint_ns, checkpoint_id FROM inner_heads
)

-- name: repair
-- params: thread_id, token, lease_id
-- aiodurable_fences_pkey; checkpoints_pkey (see places); checkpoint_writes_pkey for their tasks.
-- Only under the fence of this lease.
WITH RECURSIVE fence AS MATERIALIZED (
    SELECT thread_id, token, lease_id
    FROM aiodurable_fences
    WHERE thread_id = :thread_id
    -- include: runs.short_wait
    FOR SHARE
),
-- include: places
, failed_after_output AS MATERIALIZED (
    -- Output and error of one transaction: of one attempt. An error that a handler takes over is
    -- the handler's matter.
    SELECT p.checkpoint_ns, p.checkpoint_id, t.task_id, t.path
    FROM places p
    CROSS JOIN LATERAL (
        SELECT w.task_id, pg_catalog.min(w.task_path) AS path
        FROM checkpoint_writes w
        WHERE w.thread_id = :thread_id AND w.checkpoint_ns = p.checkpoint_ns
          AND w.checkpoint_id = p.checkpoint_id
          AND w.task_id <> '00000000-0000-0000-0000-000000000000'
        GROUP BY w.task_id
        HAVING NOT pg_catalog.bool_or(w.channel = '__error_source_node__')
           AND pg_catalog.max(w.xmin::text) FILTER (WHERE w.channel = '__error__')
               = ANY (pg_catalog.array_agg(w.xmin::text) FILTER (
                   WHERE w.channel NOT IN ('__error__', '__error_source_node__', '__interrupt__',
                                           '__resume__')))
    ) t
), repaired AS (
    DELETE FROM checkpoint_writes w
    USING failed_after_output p, fence f
    WHERE f.token = :token AND f.lease_id = :lease_id AND w.thread_id = :thread_id
      AND w.checkpoint_ns = p.checkpoint_ns AND w.checkpoint_id = p.checkpoint_id
      AND w.task_id = p.task_id
      AND w.channel NOT IN ('__error__', '__error_source_node__', '__interrupt__', '__resume__')
)
SELECT (SELECT token FROM fence) AS token, (SELECT lease_id FROM fence) AS lease_id,
       coalesce(pg_catalog.array_agg(p.checkpoint_ns ORDER BY p.checkpoint_ns, p.path), '{}')
           AS namespaces,
       coalesce(pg_catalog.array_agg(p.path ORDER BY p.checkpoint_ns, p.path), '{}') AS paths,
       (SELECT true
        FROM checkpoint_writes w
        WHERE w.thread_id = :thread_id AND w.checkpoint_ns = ''
          AND w.checkpoint_id = (SELECT checkpoint_id FROM heads)
          AND w.task_id = '00000000-0000-0000-0000-000000000000' AND w.channel = '__resume__'
        LIMIT 1) IS NOT NULL AS has_stray_answer
FROM failed_after_output p
