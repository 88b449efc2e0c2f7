-- name: earliest_due_now
-- params: queues, graphs, with_scheduled, with_retries, except
-- aiodurable_runs_scheduled_idx. What is due first of what waits for its time: due now. A run that
-- failed waits for its retry; one that was snoozed, sleeps or never began waits for its time.
UPDATE aiodurable_runs r
SET scheduled_at = least(r.scheduled_at, pg_catalog.now())
FROM (
    SELECT k.run_id
    FROM aiodurable_runs k
    WHERE k.claim_state = 'scheduled' AND k.queue = ANY (:queues::text[])
      AND k.graph = ANY (:graphs::text[]) AND k.run_id <> ALL (:except::text[])
      AND CASE WHEN k.status = 'failed' AND k.status_reason IS DISTINCT FROM 'snoozed'
               THEN :with_retries::boolean
               ELSE :with_scheduled::boolean END
    ORDER BY k.scheduled_at, k.position
    LIMIT 1
) d
WHERE r.run_id = d.run_id
RETURNING r.run_id

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
RETURNING r.queue, r.claim_state = 'scheduled' AS scheduled
