-- name: begin
-- params: thread_ids, tokens, lease_ids, tasks, names, begin_ids, replaced_ids, answers, run_ids
-- params: workers, checkpoint_ids
-- aiodurable_fences_pkey, aiodurable_effects_pkey. The fences are locked, sorted, as in start: once
-- another lease has raised one, nothing begins behind it. SKIP LOCKED as there.
-- A new effect begins; one that is known not to have happened begins again; so does one of which it
-- was unknown (replaced_id) and has been found out. A row with this very begin_id is ours: the
-- answer to the statement was lost, and it is run again. Returns the row as it was before. It waits
-- for the disk whatever the database's default is: a row that a crash undoes is a side effect that
-- nobody knows of.
WITH want AS MATERIALIZED (
    SELECT w.*
    FROM (
        SELECT u.*
        FROM unnest(:thread_ids::text[], :tokens::bigint[], :lease_ids::bigint[], :tasks::text[],
                    :names::text[], :begin_ids::bigint[], :replaced_ids::bigint[],
                    :answers::integer[], :run_ids::text[], :workers::text[],
                    :checkpoint_ids::text[])
             AS u (thread_id, token, lease_id, task, name, begin_id, replaced_id, answers, run_id,
                   worker, checkpoint_id)
        ORDER BY u.thread_id
    ) w
    -- include: runs.locked_fence
    WHERE (SELECT pg_catalog.set_config('synchronous_commit',
                             CASE pg_catalog.current_setting('synchronous_commit')
                                 WHEN 'off' THEN 'on'
                                 ELSE pg_catalog.current_setting('synchronous_commit') END,
                                 true)) IS NOT NULL
), known AS MATERIALIZED (
    SELECT w.begin_id AS wanted, e.state, e.begin_id, e.answers, e.result_type, e.result, e.begun_at
    FROM want w
    CROSS JOIN LATERAL (
        SELECT e.state, e.begin_id, e.answers, e.result_type, e.result, e.begun_at
        FROM aiodurable_effects e
        WHERE e.thread_id = w.thread_id AND e.task = w.task AND e.name = w.name
        LIMIT 1
    ) e
), written AS (
    INSERT INTO aiodurable_effects AS e (
        thread_id, task, name, state, begin_id, run_id, begun_by, checkpoint_id, answers)
    SELECT w.thread_id, w.task, w.name, 'begun', w.begin_id, w.run_id, w.worker, w.checkpoint_id,
           coalesce(w.answers, k.answers, 0)
    FROM want w
    LEFT JOIN known k ON k.wanted = w.begin_id
    WHERE k.state IS NULL OR k.state = 'not_done'
       OR k.state = 'begun' AND k.begin_id = w.replaced_id
    ON CONFLICT (thread_id, task, name) DO UPDATE
    SET state = 'begun', begin_id = excluded.begin_id, run_id = excluded.run_id,
        begun_by = excluded.begun_by, answers = excluded.answers, begun_at = pg_catalog.now(),
        ended_at = NULL
    WHERE e.state <> 'done'
      AND (SELECT true FROM known k
           WHERE k.wanted = excluded.begin_id AND k.begin_id = e.begin_id
           LIMIT 1)
    RETURNING e.begin_id
)
SELECT w.begin_id AS wanted,
       n.begin_id IS NOT NULL OR k.state = 'begun' AND k.begin_id = w.begin_id AS begins,
       k.state, k.begin_id, coalesce(k.answers, 0) AS answers, k.result_type, k.result, k.begun_at
FROM want w
LEFT JOIN known k ON k.wanted = w.begin_id
LEFT JOIN written n ON n.begin_id = w.begin_id

-- name: finish
-- params: thread_ids, tokens, lease_ids, tasks, names, begin_ids, states, answers, result_types
-- params: results
-- aiodurable_fences_pkey, aiodurable_effects_pkey. Under the fence, locked as in begin: what a new
-- holder has read of an effect stays true. Only the row that began with this begin_id. What is done
-- stays done.
WITH want AS MATERIALIZED (
    SELECT w.*
    FROM (
        SELECT u.*
        FROM unnest(:thread_ids::text[], :tokens::bigint[], :lease_ids::bigint[], :tasks::text[],
                    :names::text[], :begin_ids::bigint[], :states::text[], :answers::integer[],
                    :result_types::text[], :results::bytea[])
             AS u (thread_id, token, lease_id, task, name, begin_id, state, answers, result_type,
                   result)
        ORDER BY u.thread_id
    ) w
    -- include: runs.locked_fence
)
UPDATE aiodurable_effects e
SET state = w.state, answers = coalesce(w.answers, e.answers), result_type = w.result_type,
    result = w.result, ended_at = pg_catalog.now()
FROM want w
WHERE e.thread_id = w.thread_id AND e.task = w.task AND e.name = w.name
  AND e.begin_id = w.begin_id AND (e.state <> 'done' OR w.state = 'done')
RETURNING e.begin_id

-- name: of_thread
-- params: thread_id, most
-- aiodurable_effects_pkey by its first column. The newest side effects of a thread, without their
-- results.
SELECT e.name, e.task, e.state, e.run_id, e.begun_by, e.checkpoint_id, e.begun_at, e.ended_at
FROM aiodurable_effects e
WHERE e.thread_id = :thread_id
ORDER BY e.begun_at DESC, e.task, e.name
LIMIT :most::integer
