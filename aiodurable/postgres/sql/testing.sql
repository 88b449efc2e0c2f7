-- name: earliest_due_now
-- params: queues, graphs, with_scheduled, with_retries, except
-- aiodurable_runs_scheduled_idx. What is due first of what waits for its time: due now. A run that
-- failed waits for its retry; one that was snoozed, sleeps or never began waits for its time. Not
-- one that waits for a signal alone. passed_s: how long one that sleeps would have slept yet.
UPDATE aiodurable_runs r
SET scheduled_at = least(r.scheduled_at, pg_catalog.now())
FROM (
    SELECT k.run_id, k.scheduled_at
    FROM aiodurable_runs k
    WHERE k.claim_state = 'scheduled' AND k.scheduled_at IS NOT NULL
      AND k.queue = ANY (:queues::text[])
      AND k.graph = ANY (:graphs::text[]) AND k.run_id <> ALL (:except::text[])
      AND CASE WHEN k.status = 'failed' AND k.status_reason IS DISTINCT FROM 'snoozed'
               THEN :with_retries::boolean
               ELSE :with_scheduled::boolean END
    ORDER BY k.scheduled_at, k.position
    LIMIT 1
) d
WHERE r.run_id = d.run_id
RETURNING r.run_id, r.thread_id,
          CASE WHEN r.waiting_for IS NOT NULL
               THEN pg_catalog.date_part('epoch', d.scheduled_at - r.scheduled_at) END AS passed_s

-- name: advance
-- params: seconds
-- No index but aiodurable_queues_pkey: all that waits. Times that workers compare with the clock
-- become earlier, as if these seconds had passed.
WITH queues AS (
    UPDATE aiodurable_queues q
    SET refilled_at = q.refilled_at - pg_catalog.make_interval(secs => :seconds::double precision)
    WHERE q.refilled_at IS NOT NULL
)
UPDATE aiodurable_runs r
SET scheduled_at = r.scheduled_at
                   - pg_catalog.make_interval(secs => :seconds::double precision),
    created_at = CASE WHEN r.status = 'queued'
                      THEN r.created_at
                           - pg_catalog.make_interval(secs => :seconds::double precision)
                      ELSE r.created_at END
WHERE r.claim_state IS NOT NULL
RETURNING r.queue, r.thread_id, r.claim_state = 'scheduled' AS scheduled,
          r.waiting_for IS NOT NULL AND r.scheduled_at IS NOT NULL AS sleeps

-- name: interrupts
-- params: thread_id
-- checkpoint_writes_pkey by its first column. The interrupts of a thread, also old ones.
SELECT w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx, w.type, w.blob
FROM checkpoint_writes w
WHERE w.thread_id = :thread_id AND w.channel = '__interrupt__'

-- name: rewrite
-- params: thread_id, checkpoint_ns, checkpoint_id, task_id, idx, type, blob
-- checkpoint_writes_pkey.
UPDATE checkpoint_writes w
SET type = :type::text, blob = :blob::bytea
WHERE w.thread_id = :thread_id AND w.checkpoint_ns = :checkpoint_ns
  AND w.checkpoint_id = :checkpoint_id AND w.task_id = :task_id AND w.idx = :idx::integer
RETURNING w.thread_id
