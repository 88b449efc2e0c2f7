-- name: answered
-- params: thread_id
-- aiodurable_runs_thread_order_idx. What was answered on a thread, oldest first.
SELECT r.run_id, r.status, r.checkpoint_id, a.key AS interrupt_id, t.at AS answered_at,
       a.value ->> 'digest'::text AS digest,
       substring(a.value ->> 'token'::text FROM '^[0-9]{1,18}$')::bigint AS token
FROM aiodurable_runs r
CROSS JOIN LATERAL pg_catalog.jsonb_each(
    CASE WHEN pg_catalog.jsonb_typeof(r.answered) = 'object' THEN r.answered ELSE '{}' END)
    AS a (key, value)
CROSS JOIN LATERAL (
    SELECT (pg_catalog.jsonb_path_query_first_tz(a.value, '$.at.datetime()', '{}', true)
            #>> '{}'::text[])::timestamptz AS at
) t
WHERE r.thread_id = :thread_id AND r.answered <> '{}'
ORDER BY r.fencing_token, r.seq, t.at

-- fragment: stored_answers
UPDATE aiodurable_runs r
SET answered = r.answered || (
        SELECT coalesce(
            pg_catalog.jsonb_object_agg(
                a.id,
                pg_catalog.jsonb_build_object(
                    'at', pg_catalog.now(), 'digest', a.digest, 'token', r.fencing_token)),
            '{}')
        FROM unnest(:interrupt_ids::text[], :digests::text[]) AS a (id, digest)),
    answers_type = :answers_type, answers = :answers, questions_closed = :questions_closed
WHERE r.run_id = :run_id AND r.fencing_token = :token::bigint
-- include: runs.short_wait
  AND (SELECT true
       FROM aiodurable_fences f
       WHERE f.thread_id = r.thread_id AND f.token = :token::bigint
         AND f.lease_id = :lease_id::bigint
       LIMIT 1)
RETURNING r.run_id

-- name: answer
-- params: run_id, token, lease_id, interrupt_ids, digests, answers_type, answers, questions_closed
-- aiodurable_runs_pkey, aiodurable_fences_pkey. Only the attempt under this token, while the fence
-- is that of its lease.
-- include: stored_answers

-- name: answer_with_signals
-- params: run_id, token, lease_id, interrupt_ids, digests, answers_type, answers, questions_closed
-- params: thread_id, names, positions, set_aside
-- aiodurable_runs_pkey and aiodurable_fences_pkey, as answer; aiodurable_signals_pkey. The signals
-- that are among the answers leave the mailbox as the ledger gets them: each comes to one run,
-- once. Of one with an id the id stays; of one that the graph could not read (set_aside) all of it.
WITH answered AS (
-- include: stored_answers
),
noted AS (
    UPDATE aiodurable_signals s
    SET taken_at = pg_catalog.now(),
        value_type = CASE WHEN t.set_aside THEN s.value_type END,
        value = CASE WHEN t.set_aside THEN s.value END
    FROM unnest(:names::text[], :positions::bigint[], :set_aside::boolean[])
         AS t (name, position, set_aside)
    WHERE EXISTS (SELECT FROM answered) AND s.thread_id = :thread_id AND s.name = t.name
      AND s.position = t.position AND (t.set_aside OR s.signal_id IS NOT NULL)
),
removed AS (
    DELETE FROM aiodurable_signals s
    USING unnest(:names::text[], :positions::bigint[], :set_aside::boolean[])
          AS t (name, position, set_aside)
    WHERE EXISTS (SELECT FROM answered) AND s.thread_id = :thread_id AND s.name = t.name
      AND s.position = t.position AND s.signal_id IS NULL AND NOT t.set_aside
)
SELECT a.run_id FROM answered a

-- name: answers_over
-- params: run_id, token, lease_id, interrupt_ids, answers_type, answers
-- aiodurable_runs_pkey, aiodurable_fences_pkey. Under the fence, as answer. Nothing is left to
-- deliver but these answers; the interrupts whose answers LangGraph did not take after all were not
-- answered.
UPDATE aiodurable_runs r
SET answers_type = :answers_type::text, answers = :answers::bytea, questions_closed = NULL,
    answered = r.answered - :interrupt_ids::text[]
WHERE r.run_id = :run_id AND r.fencing_token = :token::bigint
-- include: runs.short_wait
  AND (SELECT true
       FROM aiodurable_fences f
       WHERE f.thread_id = r.thread_id AND f.token = :token::bigint
         AND f.lease_id = :lease_id::bigint
       LIMIT 1)

-- name: questions
-- params: thread_id
-- checkpoints_pkey (see checkpoints.places); checkpoint_writes_pkey for their tasks. Every question
-- of a task that has not finished, in the root graph and in subgraphs; and the answer of no task,
-- which plain LangGraph keeps for whichever question comes next. A question was taken if its task
-- has stored an answer since: it failed after that. An answer is spent if a task took one after it,
-- or asked after it, or took this very one last: the stock saver may commit it after what the task
-- did with it.
WITH RECURSIVE
-- include: checkpoints.places
, tasks AS MATERIALIZED (
    SELECT p.checkpoint_ns, t.task_id, t.path, t.finished, t.type, t.blob, t.asked_age,
           t.answered_age, t.answer
    FROM places p
    CROSS JOIN LATERAL (
        SELECT w.task_id, pg_catalog.min(w.task_path) AS path,
               pg_catalog.bool_or(
                   w.channel NOT IN ('__error__', '__error_source_node__', '__interrupt__',
                                     '__resume__')) AS finished,
               pg_catalog.max(w.type) FILTER (WHERE w.channel = '__interrupt__') AS type,
               (pg_catalog.array_agg(w.blob) FILTER (WHERE w.channel = '__interrupt__'))[1] AS blob,
               pg_catalog.min(pg_catalog.age(w.xmin))
                   FILTER (WHERE w.channel = '__interrupt__') AS asked_age,
               pg_catalog.min(pg_catalog.age(w.xmin))
                   FILTER (WHERE w.channel = '__resume__') AS answered_age,
               (pg_catalog.array_agg(w.blob) FILTER (WHERE w.channel = '__resume__'))[1] AS answer
        FROM checkpoint_writes w
        WHERE w.thread_id = :thread_id AND w.checkpoint_ns = p.checkpoint_ns
          AND w.checkpoint_id = p.checkpoint_id
          AND w.task_id <> '00000000-0000-0000-0000-000000000000'
        GROUP BY w.task_id
    ) t
), stray AS MATERIALIZED (
    SELECT pg_catalog.max(w.type) FILTER (WHERE w.channel = '__resume__') AS type,
           (pg_catalog.array_agg(w.blob) FILTER (WHERE w.channel = '__resume__'))[1] AS blob,
           pg_catalog.min(pg_catalog.age(w.xmin)) FILTER (WHERE w.channel = '__resume__') AS age,
           pg_catalog.count(*) FILTER (WHERE w.channel <> '__resume__') AS commanded
    FROM checkpoint_writes w
    WHERE w.thread_id = :thread_id AND w.checkpoint_ns = ''
      AND w.checkpoint_id = (SELECT checkpoint_id FROM heads)
      AND w.task_id = '00000000-0000-0000-0000-000000000000'
)
SELECT l.type AS stray_type, l.blob AS stray, l.commanded,
       EXISTS (SELECT 1
               FROM tasks t
               WHERE t.answered_age <= l.age OR NOT t.finished AND t.asked_age <= l.age
                  OR pg_catalog.substr(
                         t.answer,
                         pg_catalog.octet_length(t.answer) - pg_catalog.octet_length(l.blob) + 1)
                     = l.blob) AS spent,
       q.namespaces, q.task_ids, q.paths, q.types, q.blobs, q.taken
FROM stray l
CROSS JOIN (
    SELECT pg_catalog.array_agg(t.checkpoint_ns ORDER BY t.checkpoint_ns, t.path) AS namespaces,
           pg_catalog.array_agg(t.task_id ORDER BY t.checkpoint_ns, t.path) AS task_ids,
           pg_catalog.array_agg(t.path ORDER BY t.checkpoint_ns, t.path) AS paths,
           pg_catalog.array_agg(t.type ORDER BY t.checkpoint_ns, t.path) AS types,
           pg_catalog.array_agg(t.blob ORDER BY t.checkpoint_ns, t.path) AS blobs,
           pg_catalog.array_agg(coalesce(t.answered_age < t.asked_age, false)
                                ORDER BY t.checkpoint_ns, t.path) AS taken
    FROM tasks t
    WHERE t.blob IS NOT NULL AND NOT t.finished
) q

-- name: drop_stray_answer
-- params: thread_id, token, lease_id
-- aiodurable_fences_pkey; checkpoints_pkey for the thread's head and checkpoint_writes_pkey for the
-- answer of no task.
WITH fence AS MATERIALIZED (
    SELECT token, lease_id
    FROM aiodurable_fences
    WHERE thread_id = :thread_id
    -- include: runs.short_wait
    FOR SHARE
), dropped AS (
    DELETE FROM checkpoint_writes w
    USING fence f
    WHERE f.token = :token::bigint AND f.lease_id = :lease_id::bigint
      AND w.thread_id = :thread_id AND w.checkpoint_ns = ''
      AND w.checkpoint_id = (
          SELECT c.checkpoint_id
          FROM checkpoints c
          WHERE c.thread_id = :thread_id AND c.checkpoint_ns = ''
          ORDER BY c.checkpoint_id DESC
          LIMIT 1)
      AND w.task_id = '00000000-0000-0000-0000-000000000000' AND w.channel = '__resume__'
)
SELECT f.token, f.lease_id FROM fence f
