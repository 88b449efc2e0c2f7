-- name: lock_empty_thread
-- params: thread_id
-- aiodurable_fences_pkey, and the primary keys of LangGraph's tables by their first column. No
-- lease of the thread begins until the transaction ends. The short wait is the whole transaction's.
SELECT f.token, f.lease_id,
       EXISTS (SELECT 1 FROM checkpoints WHERE thread_id = :thread_id)
           OR EXISTS (SELECT 1 FROM checkpoint_writes WHERE thread_id = :thread_id)
           OR EXISTS (SELECT 1 FROM checkpoint_blobs WHERE thread_id = :thread_id) AS occupied
FROM aiodurable_fences f
WHERE f.thread_id = :thread_id
-- include: runs.short_wait
FOR SHARE OF f

-- name: copy_checkpoint
-- params: source_thread_id, thread_id, checkpoint_id, in_the_step
-- The primary keys of LangGraph's tables. Only the rows of checkpoints that are copied are read,
-- and the index entries of the thread's subgraphs: once, and once more in_the_step. checkpoint_id
-- is of the root; in_the_step: go on in the middle of the step after it.
WITH RECURSIVE heads AS MATERIALIZED (
    SELECT c.thread_id, c.checkpoint_ns, c.checkpoint_id
    FROM checkpoints c
    WHERE c.thread_id = :source_thread_id AND c.checkpoint_ns = ''
      AND c.checkpoint_id = :checkpoint_id
),
-- include: checkpoints.entered
, place AS MATERIALIZED (
    SELECT checkpoint_ns, checkpoint_id FROM heads
    UNION
    -- A subgraph's call has its task's id in its namespace, after a colon; without one it has a
    -- memory, which was this.
    SELECT m.checkpoint_ns, m.checkpoint_id
    FROM heads h
    CROSS JOIN LATERAL (
        SELECT c.checkpoint_ns, pg_catalog.max(c.checkpoint_id) AS checkpoint_id
        FROM checkpoints c
        WHERE c.thread_id = h.thread_id AND c.checkpoint_ns > ''
          AND c.checkpoint_ns NOT LIKE '%:%' AND c.checkpoint_id < h.checkpoint_id
        GROUP BY c.checkpoint_ns
    ) m
    UNION
    -- The subgraphs that the step after it is in.
    SELECT i.checkpoint_ns, i.checkpoint_id
    FROM entered e
    CROSS JOIN LATERAL (
        SELECT c.checkpoint_ns, c.checkpoint_id
        FROM checkpoints c
        WHERE c.thread_id = e.thread_id AND c.checkpoint_ns = e.checkpoint_ns
          AND c.checkpoint_id > e.head_id
          AND c.metadata -> 'parents'::text ->> ''::text = e.head_id
        OFFSET 0
    ) i
    WHERE :in_the_step::boolean AND e.checkpoint_ns > ''
), chain AS (
    SELECT p.checkpoint_ns, p.checkpoint_id FROM place p
    UNION
    -- As in prune, these cannot stand alone: a DeltaChannel needs the writes since its snapshot, a
    -- format before 4 the Sends of the checkpoint before. LIMIT and OFFSET, here and below, keep
    -- LATERAL from becoming a join, which reads all of the thread.
    SELECT k.checkpoint_ns, before.checkpoint_id
    FROM chain k
    CROSS JOIN LATERAL (
        SELECT p.checkpoint_id
        FROM checkpoints c
        JOIN checkpoints p
          ON p.thread_id = c.thread_id AND p.checkpoint_ns = c.checkpoint_ns
         AND p.checkpoint_id = c.parent_checkpoint_id
        WHERE c.thread_id = :source_thread_id AND c.checkpoint_ns = k.checkpoint_ns
          AND c.checkpoint_id = k.checkpoint_id
          AND (c.metadata ?| '{counters_since_delta_snapshot,delta_writes_versioned}'::text[]
               OR substring(c.checkpoint ->> 'v'::text FROM '^[0-9]{1,9}$')::integer < 4)
        LIMIT 1
    ) before
), value AS MATERIALIZED (
    SELECT DISTINCT k.checkpoint_ns, v.channel, v.version
    FROM chain k
    CROSS JOIN LATERAL (
        SELECT c.checkpoint -> 'channel_versions'::text AS versions
        FROM checkpoints c
        WHERE c.thread_id = :source_thread_id AND c.checkpoint_ns = k.checkpoint_ns
          AND c.checkpoint_id = k.checkpoint_id
        LIMIT 1
    ) c
    CROSS JOIN LATERAL pg_catalog.jsonb_each_text(
        CASE WHEN pg_catalog.jsonb_typeof(c.versions) = 'object' THEN c.versions ELSE '{}' END)
        AS v (channel, version)
), blob AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT :thread_id, v.checkpoint_ns, v.channel, v.version, b.type, b.blob
    FROM value v
    CROSS JOIN LATERAL (
        SELECT k.type, k.blob
        FROM checkpoint_blobs k
        WHERE k.thread_id = :source_thread_id AND k.checkpoint_ns = v.checkpoint_ns
          AND k.channel = v.channel AND k.version = v.version
        LIMIT 1
    ) b
), write AS (
    -- What tasks wrote after a checkpoint belongs to the step after it.
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx,
                                   channel, type, blob)
    SELECT :thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.idx, w.channel,
           w.type, w.blob
    FROM chain k
    CROSS JOIN LATERAL (
        SELECT c.checkpoint_ns, c.checkpoint_id, c.task_id, c.task_path, c.idx, c.channel, c.type,
               c.blob, c.xmin AS xid
        FROM checkpoint_writes c
        WHERE c.thread_id = :source_thread_id AND c.checkpoint_ns = k.checkpoint_ns
          AND c.checkpoint_id = k.checkpoint_id
        OFFSET 0
    ) w
    WHERE (:in_the_step::boolean
           OR NOT EXISTS (
               SELECT 1
               FROM place p
               WHERE p.checkpoint_ns = k.checkpoint_ns AND p.checkpoint_id = k.checkpoint_id))
      -- Its transaction shows an error that a later attempt outlived (see classify), and all of
      -- these become one.
      AND NOT (w.channel = '__error__' AND EXISTS (
          SELECT 1
          FROM checkpoint_writes n
          WHERE n.thread_id = :source_thread_id AND n.checkpoint_ns = w.checkpoint_ns
            AND n.checkpoint_id = w.checkpoint_id
            AND n.task_id = w.task_id AND n.xmin <> w.xid
            AND n.channel NOT IN ('__error__', '__error_source_node__', '__resume__')))
      -- So is an answer: a question that was answered since it was asked stays behind, and so does
      -- an answer of no task that a task took, or that is older than a question: the copy would
      -- take the one for open, the other for unused.
      AND NOT (w.channel = '__interrupt__' AND EXISTS (
          SELECT 1
          FROM checkpoint_writes n
          WHERE n.thread_id = :source_thread_id AND n.checkpoint_ns = w.checkpoint_ns
            AND n.checkpoint_id = w.checkpoint_id
            AND n.task_id = w.task_id AND n.channel = '__resume__'
            AND pg_catalog.age(n.xmin) < pg_catalog.age(w.xid)))
      AND NOT (w.channel = '__interrupt__' AND EXISTS (
          SELECT 1
          FROM checkpoint_writes n
          WHERE n.thread_id = :source_thread_id AND n.checkpoint_ns = ''
            AND n.checkpoint_id = :checkpoint_id
            AND n.task_id = '00000000-0000-0000-0000-000000000000' AND n.channel = '__resume__'
            AND pg_catalog.age(n.xmin) < pg_catalog.age(w.xid)))
      AND NOT (w.channel = '__resume__' AND w.task_id = '00000000-0000-0000-0000-000000000000'
               AND EXISTS (
          SELECT 1
          FROM place p
          CROSS JOIN LATERAL (
              SELECT n.xmin AS xid
              FROM checkpoint_writes n
              WHERE n.thread_id = :source_thread_id AND n.checkpoint_ns = p.checkpoint_ns
                AND n.checkpoint_id = p.checkpoint_id
                AND n.task_id <> '00000000-0000-0000-0000-000000000000'
                AND n.channel IN ('__interrupt__', '__resume__')
              OFFSET 0
          ) n
          WHERE pg_catalog.age(n.xid) <= pg_catalog.age(w.xid)))
), checkpoint AS (
    -- A run_id names one run of one thread: the copy is not its work.
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type,
                             checkpoint, metadata)
    SELECT :thread_id, c.checkpoint_ns, c.checkpoint_id,
           -- Hashed: a step can have called a thousand subgraphs.
           CASE WHEN (c.checkpoint_ns, c.parent_checkpoint_id)
                     IN (SELECT p.checkpoint_ns, p.checkpoint_id FROM chain p)
                THEN c.parent_checkpoint_id END,
           c.type, c.checkpoint,
           CASE WHEN pg_catalog.jsonb_typeof(c.metadata) = 'object'
                THEN c.metadata - 'aiodurable_run_id'::text ELSE '{}' END
           || pg_catalog.jsonb_build_object('aiodurable_forked_from', :source_thread_id::text)
    FROM chain k
    CROSS JOIN LATERAL (
        SELECT n.*
        FROM checkpoints n
        WHERE n.thread_id = :source_thread_id AND n.checkpoint_ns = k.checkpoint_ns
          AND n.checkpoint_id = k.checkpoint_id
        LIMIT 1
    ) c
    RETURNING checkpoint_id
)
SELECT pg_catalog.count(*) AS copied FROM checkpoint
