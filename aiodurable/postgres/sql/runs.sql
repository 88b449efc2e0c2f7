-- name: get
-- aiodurable_runs_pkey; "consumed" reads checkpoints_pkey from the run's base onwards.
SELECT r.*, EXISTS (
           SELECT 1 FROM checkpoints c
           WHERE c.thread_id = r.thread_id AND c.checkpoint_ns = '' AND c.checkpoint_id > coalesce(r.base_id, '')
             AND c.metadata ->> 'aiodurable_run' = r.run_id) AS consumed
FROM aiodurable_runs r
WHERE r.run_id = $1

-- name: newest
-- aiodurable_runs_by_thread, its first row that counts; "consumed" as in get.
SELECT r.*, EXISTS (
           SELECT 1 FROM checkpoints c
           WHERE c.thread_id = r.thread_id AND c.checkpoint_ns = '' AND c.checkpoint_id > coalesce(r.base_id, '')
             AND c.metadata ->> 'aiodurable_run' = r.run_id) AS consumed
FROM aiodurable_runs r
WHERE r.thread_id = $1 AND r.status NOT IN ('rejected', 'superseded')
ORDER BY r.created_at DESC, r.run_id DESC
LIMIT 1

-- name: close
-- aiodurable_runs_by_thread. What an older token left running is over; a new start also gives up what failed or waits.
UPDATE aiodurable_runs SET status = $3, finished_at = coalesce(finished_at, now())
WHERE thread_id = $1 AND coalesce(token, 0) < $2
  AND (status = 'running' OR $3 = 'superseded' AND status IN ('failed', 'paused', 'interrupted', 'quarantined'))
RETURNING run_id

-- name: start
-- aiodurable_runs_pkey. A rejected run_id may be tried again with another input.
INSERT INTO aiodurable_runs AS r (run_id, thread_id, lock_key, graph, status, attempts, token, worker,
                                  input_type, input, context_type, context, base_id, started_at)
SELECT w.run_id, w.thread_id, w.lock_key, w.graph, 'running', 1, w.token, w.worker,
       w.input_type, w.input, w.context_type, w.context, w.base_id, now()
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::text[],
            $7::text[], $8::bytea[], $9::text[], $10::bytea[], $11::text[])
     AS w (run_id, thread_id, lock_key, graph, token, worker, input_type, input, context_type, context, base_id)
ON CONFLICT (run_id) DO UPDATE
SET status = 'running', attempts = r.attempts + 1, graph = excluded.graph, token = excluded.token, worker = excluded.worker,
    input_type = excluded.input_type, input = excluded.input, context_type = excluded.context_type,
    context = excluded.context, base_id = excluded.base_id, started_at = excluded.started_at,
    finished_at = NULL, error = NULL, reason = NULL
WHERE r.thread_id = excluded.thread_id AND r.status = 'rejected'
RETURNING *

-- name: retry
-- aiodurable_runs_pkey. A lower token is a stale caller.
UPDATE aiodurable_runs
SET status = 'running', attempts = attempts + 1, token = $2, worker = $3, started_at = now(),
    finished_at = NULL, error = NULL, reason = NULL, checkpoint_id = NULL
WHERE run_id = $1 AND coalesce(token, 0) <= $2
RETURNING *

-- name: finish
-- aiodurable_runs_pkey.
UPDATE aiodurable_runs r
SET status = w.status, error = w.error, reason = w.reason, checkpoint_id = w.checkpoint_id, finished_at = now()
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[])
     AS w (run_id, token, status, error, reason, checkpoint_id)
WHERE r.run_id = w.run_id AND r.token = w.token
RETURNING r.run_id, r.token

-- name: heal
-- aiodurable_runs_pkey.
UPDATE aiodurable_runs
SET status = 'complete', error = NULL, reason = NULL, checkpoint_id = $3, finished_at = coalesce(finished_at, now())
WHERE run_id = $1 AND coalesce(token, 0) <= $2
