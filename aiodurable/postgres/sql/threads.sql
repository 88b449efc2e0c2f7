-- name: classify
-- params: thread_ids, lock_keys, ignore_locks, statuses, older_than, newer_than, graph, run_status
-- Where each thread stands: one descent of checkpoints_pkey (its head), one or two of
-- checkpoint_writes_pkey (the head's tasks), one of aiodurable_runs_thread_order_idx (its newest
-- run); checkpoint_blobs_pkey only for heads that update_state or a Send left. A filter that is
-- null passes all; run_status: what the ledger says of the newest run.
-- Of a thread with nothing unfinished aiodurable_runs_queued_idx tells whether a run is queued
-- behind it.
WITH held AS MATERIALIZED (
    -- A page looks them up in one jsonb by key, whatever number is held; one thread asks for its
    -- own.
    SELECT pg_catalog.jsonb_object_agg(
               k.key,
               pg_catalog.jsonb_build_object(
                   'pid', k.pid, 'application', k.application, 'client', k.client,
                   'since', k.since, 'role', k.role, 'authorized', k.authorized)) AS by_key
    FROM (
-- include: holders.lock_holders
    ) k
    WHERE NOT :ignore_locks::boolean
      AND (pg_catalog.cardinality(:lock_keys::bigint[]) > 1 OR k.key = (:lock_keys::bigint[])[1])
),
heads AS (
-- include: heads
),
facts AS (
    SELECT h.*, t.triggers, n.commanded, n.commanded_sends_type, n.commanded_sends, w.failed,
           w.waiting, w.error_task, w.error_path, w.error_type, w.error_blob, w.done, w.unfinished,
           w.questions_path, w.questions_type, w.questions, r.run_id, r.status AS run_status,
           r.graph AS run_graph, r.attempts, r.error AS run_error, r.status_reason, r.touched_at,
           r.started_at, r.finished_at, r.failed_at, r.input_pending, r.of_head,
           r.questions_closed, r.answering, r.sleeps
    FROM heads h
    LEFT JOIN LATERAL (
-- include: triggers
    ) t ON true
    LEFT JOIN LATERAL (
-- include: commands
    ) n ON true
    LEFT JOIN LATERAL (
-- include: head_tasks
    ) w ON true
    LEFT JOIN LATERAL (
-- include: newest_run
    ) r ON true
),
verdicts AS (
-- include: verdicts
)
SELECT v.thread_id, v.status, v.checkpoint_id, v.step, v.triggers, v.commanded,
       v.commanded_sends_type, v.commanded_sends, v.done, v.unfinished, v.error_task, v.error_path,
       v.error_type, v.error_blob, v.questions_path, v.questions_type, v.questions, v.answering,
       v.checkpoint_id IS NOT NULL
           AND pg_catalog.num_nulls(v.step, v.written_at, v.format) > 0 AS damaged,
       v.doubt, v.lock_key, v.holder, coalesce(n.run_id, v.run_id) AS run_id,
       coalesce(n.status, v.run_status) AS run_status,
       coalesce(n.graph, v.run_graph, v.graph) AS graph,
       coalesce(n.attempts, v.attempts) AS attempts, v.run_error,
       CASE WHEN n.run_id IS NULL THEN v.status_reason ELSE n.status_reason END AS reason,
       -- Times that Python can express.
       CASE WHEN u.changed_at BETWEEN '0001-02-01 00:00+00' AND '9999-12-01 00:00+00'
            THEN u.changed_at END AS updated_at,
       CASE WHEN v.started_at BETWEEN '0001-02-01 00:00+00' AND '9999-12-01 00:00+00'
            THEN v.started_at END AS started_at,
       CASE WHEN v.finished_at BETWEEN '0001-02-01 00:00+00' AND '9999-12-01 00:00+00'
            THEN v.finished_at END AS finished_at,
       CASE WHEN v.failed_at BETWEEN '0001-02-01 00:00+00' AND '9999-12-01 00:00+00'
            THEN v.failed_at END AS failed_at,
       s.type AS sends_type, s.blob AS sends, pg_catalog.pg_is_in_recovery() AS standby, v.rule
FROM verdicts v
LEFT JOIN LATERAL (
    SELECT b.type, b.blob
    FROM checkpoint_blobs b
    WHERE '__pregel_tasks' = ANY (v.triggers) AND b.thread_id = v.thread_id
      AND b.checkpoint_ns = '' AND b.channel = '__pregel_tasks'
      AND b.version = v.checkpoint -> 'channel_versions'::text ->> '__pregel_tasks'::text
    LIMIT 1
) s ON true
-- The run that a worker begins next: aiodurable_runs_queued_idx.
LEFT JOIN LATERAL (
    SELECT q.run_id, q.status, q.graph, q.attempts, q.status_reason, q.created_at
    FROM aiodurable_runs q
    WHERE v.status = 'queued' AND q.thread_id = v.thread_id AND q.status = 'queued'
    ORDER BY q.position
    LIMIT 1
) n ON true
CROSS JOIN LATERAL (SELECT coalesce(v.written_at, v.touched_at, n.created_at) AS changed_at) u
WHERE (:statuses::text[] IS NULL OR v.status = ANY (:statuses))
  AND (:older_than::timestamptz IS NULL OR u.changed_at <= :older_than)
  AND (:newer_than::timestamptz IS NULL OR u.changed_at >= :newer_than)
  AND (:graph::text IS NULL OR coalesce(n.graph, v.run_graph, v.graph) = :graph)
  AND (:run_status::text IS NULL OR v.run_status = :run_status)
ORDER BY v.thread_id

-- fragment: heads
    -- A checkpoint that no LangGraph wrote fails these casts, for all threads: then `careful` of
    -- postgres/sql.py takes their place.
    SELECT a.thread_id, a.lock_key, h.checkpoint_id, h.checkpoint,
           h.metadata ->> 'aiodurable_run_id'::text AS head_run_id,
           h.metadata ->> 'source'::text IN ('input', 'loop') AS ran,
           h.metadata ->> 'aiodurable_graph_name'::text AS graph,
           (h.metadata ->> 'step'::text)::integer AS step,
           (h.checkpoint ->> 'ts'::text)::timestamptz AS written_at,
           (h.checkpoint ->> 'v'::text)::integer AS format,
           h.parent_checkpoint_id AS parent_id,
           -- What the loop writes lists the channels the next step can read; update_state and forks
           -- leave null there.
           pg_catalog.jsonb_typeof(h.checkpoint -> 'updated_channels'::text)
               IS NOT DISTINCT FROM 'array' AS by_loop
    -- Behind a SELECT the planner sees no constant: the generic plan costs the same, is kept, and
    -- planning (5 ms) is saved.
    FROM unnest((SELECT :thread_ids::text[]), (SELECT :lock_keys::bigint[]))
         AS a (thread_id, lock_key)
    LEFT JOIN LATERAL (
        SELECT c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint, c.metadata
        FROM checkpoints c
        WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = ''
        ORDER BY c.checkpoint_id DESC
        LIMIT 1
    ) h ON true

-- fragment: triggers
        -- The channels that make the next step run.
        SELECT pg_catalog.array_agg(q.channel) AS triggers
        FROM (
            SELECT u.channel
            FROM pg_catalog.jsonb_array_elements_text(
                     CASE WHEN h.by_loop
                          THEN h.checkpoint -> 'updated_channels'::text ELSE '[]' END)
                 AS u (channel)
            WHERE u.channel IN ('__start__', '__pregel_tasks')
               OR u.channel LIKE 'branch:to:%' OR u.channel LIKE 'join:%'
            UNION ALL
            SELECT v.channel
            FROM pg_catalog.jsonb_each_text(
                     CASE WHEN NOT h.by_loop
                               AND pg_catalog.jsonb_typeof(h.checkpoint -> 'channel_versions'::text)
                                   = 'object'
                          THEN h.checkpoint -> 'channel_versions'::text ELSE '{}' END)
                 AS v (channel, version)
            LEFT JOIN LATERAL (
                -- LIMIT keeps it a look-up by primary key; as a join it reads every blob the thread
                -- ever had.
                SELECT b.blob
                FROM checkpoint_blobs b
                WHERE b.thread_id = h.thread_id AND b.checkpoint_ns = ''
                  AND b.channel = v.channel AND b.version = v.version
                  AND (v.channel IN ('__start__', '__pregel_tasks')
                       OR v.channel LIKE 'branch:%' OR v.channel LIKE 'start:%'
                       OR v.channel LIKE 'join:%')
                LIMIT 1
            ) b ON true
            WHERE CASE
                -- A deferred node's value is msgpack [nil, false] until the rest of the graph has
                -- finished. Before format 3 the names were start:node and
                -- branch:source:condition:node.
                WHEN v.channel = '__start__' OR v.channel LIKE 'branch:%'
                     OR v.channel LIKE 'start:%'
                THEN ((h.checkpoint -> 'channel_values'::text) ? v.channel OR b.blob <> '\x92c0c2')
                     AND v.version IS DISTINCT FROM
                         h.checkpoint -> 'versions_seen'::text
                             -> substring(v.channel FROM '[^:]*$') ->> v.channel
                -- msgpack []: no Sends.
                WHEN v.channel = '__pregel_tasks' THEN b.blob <> '\x90'
                -- join:a+b:c holds the set of those that arrived. Each name is sought as a msgpack
                -- string, header included.
                WHEN v.channel LIKE 'join:%' THEN b.blob IS NOT NULL AND NOT EXISTS (
                    SELECT 1
                    FROM pg_catalog.unnest(
                             pg_catalog.string_to_array(
                                 pg_catalog.split_part(v.channel, ':', 2), '+')) AS s (name)
                    CROSS JOIN LATERAL (
                        SELECT k.utf8, pg_catalog.octet_length(k.utf8) AS length
                        FROM (SELECT pg_catalog.convert_to(s.name, 'UTF8') AS utf8) k
                    ) e
                    WHERE position(
                              CASE WHEN e.length < 32
                                   THEN pg_catalog.set_byte('\x00', 0, 160 + e.length)
                                   ELSE pg_catalog.set_byte('\xd900', 1, least(e.length, 255)) END
                              || e.utf8
                              IN b.blob) = 0)
                ELSE false
            END
            UNION ALL
            -- Before format 4 the Sends of a step stayed among the writes of the checkpoint before
            -- it.
            SELECT '__pregel_tasks'
            WHERE CASE WHEN h.format < 4 THEN EXISTS (
                SELECT 1
                FROM checkpoint_writes w
                WHERE w.thread_id = h.thread_id AND w.checkpoint_ns = ''
                  AND w.checkpoint_id = h.parent_id AND w.channel = '__pregel_tasks') END
        ) q

-- fragment: commands
        -- Writes of no task: the answer of a Command(resume=...), the target of a
        -- Command(goto=...).
        SELECT pg_catalog.array_agg(w.channel)
                   FILTER (WHERE w.channel = '__start__' OR w.channel LIKE 'branch:to:%')
                   AS commanded,
               pg_catalog.array_agg(w.type)
                   FILTER (WHERE w.channel = '__pregel_tasks') AS commanded_sends_type,
               pg_catalog.array_agg(w.blob)
                   FILTER (WHERE w.channel = '__pregel_tasks') AS commanded_sends,
               pg_catalog.min(pg_catalog.age(w.xmin))
                   FILTER (WHERE w.channel = '__resume__') AS answer_age,
               (pg_catalog.array_agg(w.blob)
                   FILTER (WHERE w.channel = '__resume__'))[1] AS answer
        FROM checkpoint_writes w
        WHERE w.thread_id = h.thread_id AND w.checkpoint_ns = ''
          AND w.checkpoint_id = h.checkpoint_id
          AND w.task_id = '00000000-0000-0000-0000-000000000000'

-- fragment: head_tasks
        -- The head's tasks, by what langgraph.pregel._task_status says of their writes. Sorted once
        -- for all arrays: an aggregate with an order begins a sort of its own for each thread,
        -- before it knows of a task.
        SELECT pg_catalog.bool_or(s.failed) AS failed, pg_catalog.bool_or(s.waiting) AS waiting,
               pg_catalog.array_agg(s.path) FILTER (WHERE s.finished AND NOT s.failed) AS done,
               pg_catalog.array_agg(s.path)
                   FILTER (WHERE NOT s.finished OR s.failed) AS unfinished,
               -- By path, pull comes before push: a task called in an @entrypoint fails with it and
               -- has no name here.
               (pg_catalog.array_agg(s.path) FILTER (WHERE s.failed))[1] AS error_path,
               (pg_catalog.array_agg(s.task_id) FILTER (WHERE s.failed))[1] AS error_task,
               (pg_catalog.array_agg(s.error_type) FILTER (WHERE s.failed))[1] AS error_type,
               (pg_catalog.array_agg(s.error) FILTER (WHERE s.failed))[1] AS error_blob,
               pg_catalog.array_agg(s.path) FILTER (WHERE s.waiting) AS questions_path,
               pg_catalog.array_agg(s.question_type) FILTER (WHERE s.waiting) AS questions_type,
               pg_catalog.array_agg(s.question) FILTER (WHERE s.waiting) AS questions
        FROM (
            SELECT k.*,
                   -- LangGraph writes the question again each time it is asked, in subgraphs too:
                   -- an answer younger than that row, of no task or taken by this one, was given to
                   -- it. The stock saver may commit the answer of no task after what the task did
                   -- with it: one that this task took last is spent.
                   k.question IS NOT NULL AND NOT k.finished AND NOT k.failed
                   AND NOT coalesce(
                       least(CASE WHEN pg_catalog.substr(
                                           k.answers,
                                           pg_catalog.octet_length(k.answers)
                                               - pg_catalog.octet_length(n.answer) + 1) = n.answer
                                  THEN NULL ELSE n.answer_age END,
                             k.answers_age) < k.question_age,
                       false) AS waiting
            FROM (
                SELECT g.*,
                       -- Cancelled siblings of a failure carry an error that is none; a handled one
                       -- is its handler's matter. The slot of an error is never cleared, but what
                       -- one attempt wrote is one transaction: output beside the error, and its
                       -- router raised (langgraph#8834); output from another, and a retry went
                       -- well; a question without answers beside the error, and a retry came to
                       -- ask, unless the answer to it came between the two.
                       g.error IS NOT NULL AND NOT g.handled
                       AND position('CancelledError('::bytea
                                    IN pg_catalog.substr(g.error, 1, 20)) = 0
                       AND (NOT g.finished OR g.error_xid = ANY (g.output_xids))
                       AND (g.question IS NULL OR g.error_xid IS NOT DISTINCT FROM g.answers_xid
                            OR coalesce(g.error_age < n.answer_age
                                        AND n.answer_age < g.question_age, false)) AS failed
                FROM (
                    SELECT w.task_id, pg_catalog.min(w.task_path) AS path,
                           pg_catalog.bool_or(o.output) AS finished,
                           pg_catalog.bool_or(w.channel = '__error_source_node__') AS handled,
                           pg_catalog.max(w.type)
                               FILTER (WHERE w.channel = '__error__') AS error_type,
                           (pg_catalog.array_agg(w.blob)
                               FILTER (WHERE w.channel = '__error__'))[1] AS error,
                           pg_catalog.max(w.xmin::text)
                               FILTER (WHERE w.channel = '__error__') AS error_xid,
                           pg_catalog.array_agg(w.xmin::text)
                               FILTER (WHERE o.output) AS output_xids,
                           pg_catalog.max(w.type)
                               FILTER (WHERE w.channel = '__interrupt__') AS question_type,
                           (pg_catalog.array_agg(w.blob)
                               FILTER (WHERE w.channel = '__interrupt__'))[1] AS question,
                           pg_catalog.max(w.xmin::text)
                               FILTER (WHERE w.channel = '__resume__') AS answers_xid,
                           (pg_catalog.array_agg(w.blob)
                               FILTER (WHERE w.channel = '__resume__'))[1] AS answers,
                           pg_catalog.min(pg_catalog.age(w.xmin))
                               FILTER (WHERE w.channel = '__error__') AS error_age,
                           pg_catalog.min(pg_catalog.age(w.xmin))
                               FILTER (WHERE w.channel = '__interrupt__') AS question_age,
                           pg_catalog.min(pg_catalog.age(w.xmin))
                               FILTER (WHERE w.channel = '__resume__') AS answers_age
                    FROM checkpoint_writes w
                    CROSS JOIN LATERAL (
                        SELECT w.channel NOT IN ('__error__', '__error_source_node__',
                                                 '__interrupt__', '__resume__') AS output
                    ) o
                    WHERE w.thread_id = h.thread_id AND w.checkpoint_ns = ''
                      AND w.checkpoint_id = h.checkpoint_id
                      AND w.task_id <> '00000000-0000-0000-0000-000000000000'
                    GROUP BY w.task_id
                ) g
            ) k
            ORDER BY k.path
        ) s

-- fragment: newest_run
        -- The newest run that was accepted. input_pending: its input is not part of the thread yet.
        -- of_head: the head is where it stands.
        SELECT q.*, q.input_type IS NOT NULL AND NOT c.consumed AS input_pending,
               q.run_id = h.head_run_id
               OR q.input_type IS NULL AND q.base_checkpoint_id = h.checkpoint_id AS of_head
        FROM (
            SELECT r.run_id, r.graph, r.attempts, r.error, r.input_type, r.base_checkpoint_id,
                   -- Of a run that was to be cancelled and whose process died, nobody but a person
                   -- goes on.
                   CASE WHEN x.cancelled THEN 'paused' ELSE r.status END AS status,
                   CASE WHEN x.cancelled THEN 'cancelled' ELSE r.status_reason END AS status_reason,
                   r.consumed, r.started_at, r.finished_at, r.failed_at,
                   r.fencing_token IS NOT NULL OR r.started_at IS NOT NULL AS began,
                   coalesce(r.finished_at, r.started_at, r.created_at) AS touched_at,
                   r.questions_closed, r.waiting_for IS NOT NULL AS sleeps,
                   CASE WHEN r.answers_type IS NOT NULL
                             AND pg_catalog.jsonb_typeof(r.answered) = 'object'
                        THEN ARRAY(SELECT k.id
                                   FROM pg_catalog.jsonb_object_keys(r.answered) AS k (id))
                        END AS answering
            FROM aiodurable_runs r
            CROSS JOIN LATERAL (
                SELECT r.status = 'running' AND r.cancel_requested_at IS NOT NULL AS cancelled) x
            WHERE r.thread_id = h.thread_id AND r.status NOT IN ('rejected', 'superseded')
            ORDER BY r.fencing_token DESC NULLS LAST, r.seq DESC, r.created_at DESC
            LIMIT 1
        ) q
        CROSS JOIN LATERAL (
            -- Recorded, or known from the run's own checkpoints, as in get of runs.sql; they are
            -- read only of runs whose process died, and where plain LangGraph has gone on after
            -- one.
            SELECT q.consumed
                   OR coalesce(q.run_id = h.head_run_id AND h.ran
                               AND h.checkpoint_id > coalesce(q.base_checkpoint_id, ''), false)
                   OR (SELECT true
                       FROM checkpoints own
                       WHERE own.thread_id = h.thread_id AND own.checkpoint_ns = ''
                         AND own.checkpoint_id > coalesce(q.base_checkpoint_id, '')
                         AND own.metadata ->> 'aiodurable_run_id'::text = q.run_id
                         AND own.metadata ->> 'source'::text IN ('input', 'loop')
                       ORDER BY own.checkpoint_id
                       LIMIT 1) IS NOT NULL AS consumed
        ) c
        -- Then none ever began: a run that was set aside before it did is in front of nothing.
        WHERE q.status <> 'queued'
          AND (q.status <> 'quarantined' OR q.began
               OR NOT :ignore_locks::boolean AND (
                   SELECT true
                   FROM aiodurable_runs k
                   WHERE k.thread_id = h.thread_id AND k.status = 'queued'
                   LIMIT 1) IS NULL)

-- fragment: verdicts
    -- table_status: what the tables of LangGraph say; status: with the lock and the newest run, by
    -- the first rule that applies (aiodurable.threads.rules has their words). doubt: why the
    -- tables alone may be wrong. OFFSET 0 keeps a level a level: merged, each name stands as its
    -- whole expression wherever it is used, 100 kB of plan that every execution starts.
    SELECT f.*,
           CASE f.rule
               WHEN 'lock_held' THEN 'running'
               WHEN 'input_lost' THEN 'crashed'
               WHEN 'work_left' THEN 'crashed'
               WHEN 'run_asleep' THEN 'paused'
               WHEN 'run_cancelled' THEN 'paused'
               WHEN 'run_queued' THEN 'queued'
               WHEN 'tables' THEN f.table_status
               ELSE f.run_status
           END AS status,
           CASE
               WHEN f.holder IS NOT NULL OR f.input_pending
                    OR f.table_status NOT IN ('pending', 'complete')
               THEN NULL
               WHEN f.format < 3 THEN 'old'
               WHEN f.table_status = 'complete' AND NOT EXISTS (
                   SELECT 1
                   FROM pg_catalog.jsonb_object_keys(
                            CASE WHEN pg_catalog.jsonb_typeof(
                                          f.checkpoint -> 'channel_versions'::text) = 'object'
                                 THEN f.checkpoint -> 'channel_versions'::text ELSE '{}' END)
                        AS k (channel)
                   WHERE k.channel = '__start__' OR k.channel LIKE 'branch:to:%')
               THEN 'raw'
               WHEN f.table_status = 'pending' AND f.of_head IS NOT true
                    AND coalesce(f.done, f.unfinished) IS NULL
                    AND coalesce(f.commanded, f.commanded_sends_type) IS NULL
               THEN 'stopped'
               WHEN f.table_status = 'pending' AND f.of_head IS NOT true THEN 'unleased'
           END AS doubt
    FROM (
        SELECT y.*,
               CASE
                   WHEN y.holder IS NOT NULL THEN 'lock_held'
                   WHEN y.input_pending AND y.run_status = 'running' THEN 'input_lost'
                   WHEN y.input_pending AND y.run_status IN ('failed', 'paused', 'quarantined')
                   THEN 'input_kept'
                   WHEN y.of_head AND y.run_status = 'quarantined'
                        AND y.table_status NOT IN ('new', 'complete')
                   THEN 'run_quarantined'
                   -- A person's word stands above the error of an earlier attempt.
                   WHEN y.of_head AND y.run_status = 'paused' AND y.status_reason = 'cancelled'
                        AND y.table_status = 'failed'
                   THEN 'run_cancelled'
                   WHEN y.of_head AND y.run_status IN ('failed', 'paused')
                        AND y.table_status = 'pending'
                   THEN 'run_ended'
                   -- What is open, nobody has to answer: a node sleeps, or waits for a signal.
                   WHEN y.of_head AND y.run_status = 'paused' AND y.sleeps
                        AND y.table_status = 'interrupted'
                   THEN 'run_asleep'
                   WHEN y.table_status = 'pending' THEN 'work_left'
                   -- Its holder looks at what is in front of the queue. LIMIT keeps it a look-up.
                   WHEN NOT :ignore_locks::boolean AND y.table_status IN ('new', 'complete') AND (
                       SELECT true
                       FROM aiodurable_runs q
                       WHERE q.thread_id = y.thread_id AND q.status = 'queued'
                       LIMIT 1)
                   THEN 'run_queued'
                   ELSE 'tables'
               END AS rule
        FROM (
            SELECT x.*, (SELECT l.by_key -> x.lock_key::text FROM held l) AS holder,
                   CASE WHEN x.checkpoint_id IS NULL THEN 'new'
                        WHEN x.failed THEN 'failed'
                        -- Answered in the ledger, and LangGraph has not stored the answers yet.
                        WHEN x.waiting AND x.questions_closed IS NOT NULL AND NOT EXISTS (
                            SELECT 1
                            FROM pg_catalog.unnest(x.questions) AS q (blob)
                            WHERE pg_catalog.md5(q.blob) <> ALL (x.questions_closed))
                        THEN 'pending'
                        WHEN x.waiting THEN 'interrupted'
                        WHEN coalesce(x.triggers, x.commanded, x.commanded_sends_type) IS NOT NULL
                        THEN 'pending'
                        ELSE 'complete' END AS table_status
            FROM facts x
            OFFSET 0
        ) y
        OFFSET 0
    ) f

-- name: classified_heads
-- params: thread_ids, lock_keys, ignore_locks, statuses, older_than, newer_than, graph, run_status
-- As classify.
SELECT t.thread_id, t.checkpoint_id
FROM (
-- include: classify
) t

-- name: classified_statuses
-- params: thread_ids, lock_keys, ignore_locks, statuses, older_than, newer_than, graph, run_status
-- As classify.
SELECT t.thread_id, t.status, t.graph
FROM (
-- include: classify
) t

-- name: classified_counts
-- params: thread_ids, lock_keys, ignore_locks, statuses, older_than, newer_than, graph, run_status
-- As classify.
SELECT t.status, pg_catalog.count(*)
FROM (
-- include: classify
) t
GROUP BY t.status

-- name: threads_all
-- params: after_thread_id, page_size
-- A loose index scan: for each thread of a page one descent of checkpoints_pkey and one of
-- aiodurable_runs_thread_order_idx.
WITH RECURSIVE t (thread_id, n) AS (
    SELECT :after_thread_id::text, 0
    UNION ALL
    SELECT least((SELECT c.thread_id FROM checkpoints c WHERE c.thread_id > t.thread_id
                  ORDER BY c.thread_id LIMIT 1),
                 (SELECT r.thread_id FROM aiodurable_runs r WHERE r.thread_id > t.thread_id
                  ORDER BY r.thread_id LIMIT 1)),
           t.n + 1
    FROM t
    WHERE t.thread_id IS NOT NULL AND t.n < :page_size::integer
)
SELECT t.thread_id, true AS fits FROM t WHERE t.n > 0 AND t.thread_id IS NOT NULL ORDER BY t.n

-- name: threads_indexed
-- params: after_thread_id, page_size, channels, statuses
-- The same over the partial indexes aiodurable_writes_errors_interrupts_idx and
-- aiodurable_runs_unfinished_status_idx: an error or a question (channels) was stored of these at
-- some time, or a run that is not over (statuses) stands in the ledger. Of an error or a question
-- it fits only if it is at the head: checkpoints_pkey, then either index of either table. Ordered
-- by both columns, no other index will do: by thread_id alone the planner may walk through all
-- threads to the next one in the index.
WITH RECURSIVE t (thread_id, n) AS (
    SELECT :after_thread_id::text, 0
    UNION ALL
    SELECT (SELECT pg_catalog.min(x.thread_id)
            FROM (SELECT (SELECT CASE WHEN w.channel = k.channel THEN w.thread_id END
                          FROM checkpoint_writes w
                          WHERE (w.channel, w.thread_id) > (k.channel, t.thread_id)
                            AND w.checkpoint_ns = '' AND w.channel IN ('__error__', '__interrupt__')
                          ORDER BY w.channel, w.thread_id
                          LIMIT 1) AS thread_id
                  FROM pg_catalog.unnest(:channels::text[]) AS k (channel)
                  UNION ALL
                  SELECT (SELECT CASE WHEN r.status = k.status THEN r.thread_id END
                          FROM aiodurable_runs r
                          WHERE (r.status, r.thread_id) > (k.status, t.thread_id)
                            AND r.status IN ('queued', 'running', 'failed', 'paused', 'quarantined')
                          ORDER BY r.status, r.thread_id
                          LIMIT 1)
                  FROM pg_catalog.unnest(:statuses::text[]) AS k (status)) x),
           t.n + 1
    FROM t
    WHERE t.thread_id IS NOT NULL AND t.n < :page_size::integer
)
SELECT t.thread_id,
       -- LIMIT keeps each a look-up; as EXISTS they may be answered by reading all that was ever
       -- stored.
       (SELECT true
        FROM checkpoint_writes own
        WHERE own.channel = ANY (:channels::text[]) AND own.thread_id = t.thread_id
          AND own.checkpoint_ns = ''
          AND own.checkpoint_id = h.checkpoint_id AND own.channel IN ('__error__', '__interrupt__')
        LIMIT 1) IS NOT NULL
       OR (SELECT true
           FROM aiodurable_runs own
           WHERE own.status = ANY (:statuses::text[]) AND own.thread_id = t.thread_id
             AND own.status IN ('queued', 'running', 'failed', 'paused', 'quarantined')
           LIMIT 1) IS NOT NULL AS fits
FROM t
LEFT JOIN LATERAL (
    SELECT c.checkpoint_id
    FROM checkpoints c
    WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = ''
    ORDER BY c.checkpoint_id DESC
    LIMIT 1
) h ON true
WHERE t.n > 0 AND t.thread_id IS NOT NULL
ORDER BY t.n

-- name: threads_resumable
-- params: after_thread_id, page_size
-- As threads_indexed, but only what may go on without a person: an error was stored
-- (aiodurable_writes_errors_interrupts_idx), or a run stands as running or failed
-- (aiodurable_runs_unfinished_status_idx) or is drained (aiodurable_runs_drained_idx), not a gate
-- or a question. Heads by checkpoints_pkey.
WITH RECURSIVE t (thread_id, n) AS (
    SELECT :after_thread_id::text, 0
    UNION ALL
    SELECT (SELECT pg_catalog.min(x.thread_id)
            FROM (SELECT (SELECT CASE WHEN w.channel = '__error__' THEN w.thread_id END
                          FROM checkpoint_writes w
                          WHERE (w.channel, w.thread_id) > ('__error__', t.thread_id)
                            AND w.checkpoint_ns = '' AND w.channel IN ('__error__', '__interrupt__')
                          ORDER BY w.channel, w.thread_id
                          LIMIT 1) AS thread_id
                  UNION ALL
                  SELECT (SELECT CASE WHEN r.status = k.status THEN r.thread_id END
                          FROM aiodurable_runs r
                          WHERE (r.status, r.thread_id) > (k.status, t.thread_id)
                            AND r.status IN ('queued', 'running', 'failed', 'paused', 'quarantined')
                          ORDER BY r.status, r.thread_id
                          LIMIT 1)
                  FROM (VALUES ('running'), ('failed')) AS k (status)
                  UNION ALL
                  SELECT (SELECT r.thread_id
                          FROM aiodurable_runs r
                          WHERE r.status = 'paused' AND r.status_reason = 'drained'
                            AND r.thread_id > t.thread_id
                          ORDER BY r.thread_id
                          LIMIT 1)) x),
           t.n + 1
    FROM t
    WHERE t.thread_id IS NOT NULL AND t.n < :page_size::integer
)
SELECT t.thread_id,
       (SELECT true
        FROM checkpoint_writes own
        WHERE own.channel = '__error__' AND own.thread_id = t.thread_id AND own.checkpoint_ns = ''
          AND own.checkpoint_id = h.checkpoint_id AND own.channel IN ('__error__', '__interrupt__')
        LIMIT 1) IS NOT NULL
       OR (SELECT true
           FROM aiodurable_runs own
           WHERE own.status = ANY ('{running,failed,paused}') AND own.thread_id = t.thread_id
             AND own.status IN ('queued', 'running', 'failed', 'paused', 'quarantined')
             AND (own.status <> 'paused' OR own.status_reason = 'drained')
           LIMIT 1) IS NOT NULL AS fits
FROM t
LEFT JOIN LATERAL (
    SELECT c.checkpoint_id
    FROM checkpoints c
    WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = ''
    ORDER BY c.checkpoint_id DESC
    LIMIT 1
) h ON true
WHERE t.n > 0 AND t.thread_id IS NOT NULL
ORDER BY t.n

-- name: threads_recent
-- params: after_thread_id, page_size, newer_than_id, newer_than, most
-- aiodurable_checkpoints_id_brin (BRIN: rows lie in the order of their time) from newer_than_id
-- onwards, and aiodurable_runs_unfinished_updated_idx for runs without a checkpoint, from
-- newer_than onwards. A plan that knows neither the bounds nor what lies in the table guesses a
-- third of all rows. The ctid, which is in no index, keeps it from reading all of checkpoints_pkey
-- then, and without_seqscan, run before it in the same transaction, from reading all of
-- checkpoints. Where `most` checkpoints are as new, or more, the first row is null: what is found
-- is not all. A null `most` bounds nothing.
WITH recent AS MATERIALIZED (
    SELECT c.thread_id, pg_catalog.count(*) AS checkpoints
    FROM (SELECT k.thread_id, k.ctid
          FROM checkpoints k
          WHERE k.checkpoint_id >= :newer_than_id::text AND k.checkpoint_ns = ''
            AND k.thread_id || '' > :after_thread_id::text
          LIMIT :most::bigint) c
    GROUP BY c.thread_id
    HAVING pg_catalog.min(c.ctid) IS NOT NULL
)
SELECT u.thread_id, true AS fits
FROM (SELECT NULL::text AS thread_id
      FROM (SELECT pg_catalog.sum(c.checkpoints)::bigint AS checkpoints FROM recent c) s
      WHERE s.checkpoints >= :most::bigint
      UNION
      SELECT c.thread_id
      FROM recent c
      UNION
      SELECT r.thread_id
      FROM aiodurable_runs r
      WHERE r.status IN ('queued', 'running', 'failed', 'paused', 'quarantined')
        AND r.thread_id || '' > :after_thread_id::text
        AND coalesce(r.finished_at, r.started_at, r.created_at) >= :newer_than::timestamptz) u
ORDER BY u.thread_id NULLS FIRST
LIMIT :page_size::integer

-- name: without_seqscan
-- Until the end of the transaction.
SELECT pg_catalog.set_config('enable_seqscan', 'off', true)

-- name: bytewise
-- Catalog look-up: whether text sorts by code point here, so that ids with one beginning lie side
-- by side.
SELECT CASE coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider'::text, 'c')
           WHEN 'b' THEN true WHEN 'c' THEN d.datcollate IN ('C', 'POSIX')
               ELSE false END AS bytewise
FROM pg_catalog.pg_database d
WHERE d.datname = pg_catalog.current_database()

-- name: pages
-- The file's length, not the planner's statistics.
SELECT pg_catalog.pg_relation_size('checkpoints'::pg_catalog.regclass)
           / pg_catalog.current_setting('block_size')::integer AS pages

-- name: sample
-- params: percent
-- The threads whose heads are on so many percent of the pages of checkpoints; each head by one
-- descent of checkpoints_pkey.
SELECT c.thread_id
FROM checkpoints c TABLESAMPLE SYSTEM (:percent::real)
CROSS JOIN LATERAL (
    SELECT k.checkpoint_id
    FROM checkpoints k
    WHERE k.thread_id = c.thread_id AND k.checkpoint_ns = ''
    ORDER BY k.checkpoint_id DESC
    LIMIT 1
) h
WHERE c.checkpoint_ns = '' AND c.checkpoint_id = h.checkpoint_id

-- name: held_keys
-- The view aiodurable_leases: pg_locks, whole; on a standby none of the primary's.
SELECT key FROM aiodurable_leases

-- name: held_keys_of_no_run
-- aiodurable_leases, as above; aiodurable_runs_one_running_idx or
-- aiodurable_runs_unfinished_status_idx.
SELECT l.key
FROM aiodurable_leases l
EXCEPT
SELECT r.lock_key
FROM aiodurable_runs r
WHERE r.status = 'running'
LIMIT 2

-- name: live_runs
-- aiodurable_runs_unfinished_status_idx; aiodurable_leases, as above.
SELECT pg_catalog.count(*) FILTER (WHERE r.status = 'queued') AS queued,
       pg_catalog.count(l.key) AS running
FROM aiodurable_runs r
LEFT JOIN aiodurable_leases l ON r.status = 'running' AND l.key = r.lock_key
WHERE r.status IN ('queued', 'running')

-- name: history
-- params: thread_id, before_id, page_size
-- checkpoints_pkey backwards from before_id, a page of rows; for each its parent by
-- checkpoints_pkey, the parent's tasks by checkpoint_writes_pkey, its Sends by
-- checkpoint_blobs_pkey.
SELECT c.checkpoint_id, c.parent_checkpoint_id AS parent_id, c.metadata ->> 'step'::text AS step,
       c.metadata ->> 'source'::text AS source, c.checkpoint ->> 'ts'::text AS written_at,
       p.began_at,
       c.metadata ->> 'aiodurable_run_id'::text AS run_id,
       c.metadata ->> 'aiodurable_graph_name'::text AS graph,
       c.metadata ->> 'aiodurable_worker'::text AS worker,
       w.paths, s.type AS sends_type, s.blob AS sends
FROM (
    SELECT k.thread_id, k.checkpoint_id, k.parent_checkpoint_id, k.checkpoint, k.metadata
    FROM checkpoints k
    WHERE k.thread_id = :thread_id AND k.checkpoint_ns = ''
      AND k.checkpoint_id < coalesce(:before_id::text, 'g')
    ORDER BY k.checkpoint_id DESC
    LIMIT :page_size::integer
) c
LEFT JOIN LATERAL (
    SELECT k.checkpoint ->> 'ts'::text AS began_at,
           k.checkpoint -> 'channel_versions'::text ->> '__pregel_tasks'::text AS sends
    FROM checkpoints k
    WHERE k.thread_id = c.thread_id AND k.checkpoint_ns = ''
      AND k.checkpoint_id = c.parent_checkpoint_id
    LIMIT 1
) p ON true
LEFT JOIN LATERAL (
    SELECT pg_catalog.array_agg(t.path) AS paths
    FROM (
        SELECT pg_catalog.min(k.task_path) AS path
        FROM checkpoint_writes k
        WHERE k.thread_id = c.thread_id AND k.checkpoint_ns = ''
          AND k.checkpoint_id = c.parent_checkpoint_id
          AND k.task_id <> '00000000-0000-0000-0000-000000000000'
        GROUP BY k.task_id
        HAVING pg_catalog.bool_or(k.channel NOT IN ('__error__', '__error_source_node__',
                                                    '__interrupt__', '__resume__'))
    ) t
) w ON true
LEFT JOIN LATERAL (
    SELECT k.type, k.blob
    FROM checkpoint_blobs k
    WHERE k.thread_id = c.thread_id AND k.checkpoint_ns = '' AND k.channel = '__pregel_tasks'
      AND k.version = p.sends
    LIMIT 1
) s ON true
ORDER BY c.checkpoint_id DESC

-- name: started_nodes
-- params: thread_id, checkpoint_id
-- checkpoint_writes_pkey for the tasks that wrote after the checkpoint, checkpoints_pkey and
-- checkpoint_blobs_pkey for the Sends that started some of them.
SELECT w.paths, b.type AS sends_type, b.blob AS sends
FROM checkpoints c
CROSS JOIN LATERAL (
    SELECT pg_catalog.array_agg(DISTINCT k.task_path) AS paths
    FROM checkpoint_writes k
    WHERE k.thread_id = c.thread_id AND k.checkpoint_ns = '' AND k.checkpoint_id = c.checkpoint_id
) w
LEFT JOIN checkpoint_blobs b
  ON b.thread_id = c.thread_id AND b.checkpoint_ns = '' AND b.channel = '__pregel_tasks'
 AND b.version = c.checkpoint -> 'channel_versions'::text ->> '__pregel_tasks'::text
WHERE c.thread_id = :thread_id AND c.checkpoint_ns = '' AND c.checkpoint_id = :checkpoint_id

-- name: failed_inside
-- params: thread_ids, called_namespaces, remembering_namespaces, head_ids
-- One level of subgraphs: of each thread the one that the failed task called, by its namespace
-- where the call has one, or where it has a memory; head_ids are the threads' heads.
-- checkpoints_pkey twice, then checkpoint_writes_pkey for its tasks and checkpoint_blobs_pkey for
-- its Sends.
SELECT a.thread_id, h.checkpoint_ns, t.task_id, t.path, b.type AS sends_type, b.blob AS sends
FROM unnest(:thread_ids::text[], :called_namespaces::text[], :remembering_namespaces::text[],
            :head_ids::text[]) AS a (thread_id, called, remembering, head_id)
CROSS JOIN LATERAL pg_catalog.unnest(ARRAY[a.called, a.remembering]) AS n (checkpoint_ns)
CROSS JOIN LATERAL (
    SELECT c.checkpoint_ns, c.checkpoint_id,
           c.checkpoint -> 'channel_versions'::text ->> '__pregel_tasks'::text AS sends,
           c.metadata -> 'parents'::text ->> ''::text AS root
    FROM checkpoints c
    WHERE c.thread_id = a.thread_id AND c.checkpoint_ns = n.checkpoint_ns
    ORDER BY c.checkpoint_id DESC
    LIMIT 1
) h
CROSS JOIN LATERAL (
    -- As in classify: not cancelled, not handled, not outlived.
    SELECT w.task_id, pg_catalog.min(w.task_path) AS path
    FROM checkpoint_writes w
    WHERE w.thread_id = a.thread_id AND w.checkpoint_ns = h.checkpoint_ns
      AND w.checkpoint_id = h.checkpoint_id
      AND w.task_id <> '00000000-0000-0000-0000-000000000000'
    GROUP BY w.task_id
    HAVING pg_catalog.bool_or(w.channel = '__error__'
                              AND position('CancelledError('::bytea IN pg_catalog.substr(w.blob, 1,
                                                                                         20)) = 0)
       AND NOT pg_catalog.bool_or(w.channel = '__error_source_node__')
       AND coalesce(pg_catalog.max(w.xmin::text) FILTER (WHERE w.channel = '__error__')
                    = ANY (pg_catalog.array_agg(w.xmin::text) FILTER (
               WHERE w.channel NOT IN ('__error__', '__error_source_node__', '__interrupt__',
                                       '__resume__'))), true)
    ORDER BY path
    LIMIT 1
) t
LEFT JOIN LATERAL (
    SELECT k.type, k.blob
    FROM checkpoint_blobs k
    WHERE k.thread_id = a.thread_id AND k.checkpoint_ns = h.checkpoint_ns
      AND k.channel = '__pregel_tasks'
      AND k.version = h.sends
    LIMIT 1
) b ON true
WHERE h.root = a.head_id
