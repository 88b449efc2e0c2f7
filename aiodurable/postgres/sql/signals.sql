-- name: send
-- params: thread_id, name, signal_id, value_type, value, of_caller
-- aiodurable_signals_once_idx; aiodurable_runs_thread_order_idx and aiodurable_runs_pkey for the
-- thread's newest run. A signal that came before is not sent again. A run that waits for it may be
-- claimed at once; one at work finds in its row that a signal has come: both change the row, so
-- neither misses the other. Workers that sleep are notified, as by create of queue.sql.
-- of_caller: in a transaction of the caller's, which may stay open. It locks the row of no run at
-- work: the ends of all runs of that process would wait for it. See unheard.
WITH sent AS (
    INSERT INTO aiodurable_signals AS s (thread_id, name, position, signal_id, value_type, value)
    VALUES (:thread_id, :name,
            pg_catalog.nextval('aiodurable_run_positions'::pg_catalog.regclass),
            :signal_id::text, :value_type::text, :value::bytea)
    ON CONFLICT (thread_id, signal_id) WHERE signal_id IS NOT NULL DO NOTHING
    RETURNING s.position
),
newest AS MATERIALIZED (
    SELECT r.run_id
    FROM aiodurable_runs r
    WHERE r.thread_id = :thread_id AND r.fencing_token IS NOT NULL
      AND r.status NOT IN ('rejected', 'superseded')
    ORDER BY r.fencing_token DESC NULLS LAST, r.seq DESC, r.created_at DESC
    LIMIT 1
),
rung AS (
    UPDATE aiodurable_runs r
    SET signalled = true,
        claim_state = CASE WHEN r.claim_state = 'scheduled' AND :name = ANY (r.waiting_for)
                           THEN 'ready' ELSE r.claim_state END
    FROM newest n
    WHERE EXISTS (SELECT FROM sent) AND r.run_id = n.run_id
      AND r.status IN ('running', 'paused', 'interrupted')
      AND (NOT :of_caller::boolean OR r.claim_state = 'scheduled')
-- include if own_transaction: runs.short_wait
    RETURNING r.queue, r.claim_state
),
woken AS MATERIALIZED (
    SELECT pg_catalog.count(pg_catalog.pg_notify('aiodurable_queue', g.queue)) AS queues
    FROM rung g
    WHERE g.claim_state = 'ready'
      AND
      -- include: queue.a_worker_sleeps
)
SELECT (SELECT true FROM sent) IS NOT NULL AS new
FROM woken

-- name: mailbox
-- params: thread_id, names
-- aiodurable_signals_open_idx. The time, and of each name as many signals as it is given, in order.
SELECT pg_catalog.clock_timestamp() AS at, s.name, s.position, s.value_type, s.value
FROM (SELECT 1) once
LEFT JOIN (
    SELECT k.name, k.position, k.value_type, k.value
    FROM (SELECT n.name, pg_catalog.count(*) AS wanted
          FROM pg_catalog.unnest(:names::text[]) AS n (name)
          GROUP BY n.name) w
    CROSS JOIN LATERAL (
        SELECT m.name, m.position, m.value_type, m.value
        FROM aiodurable_signals m
        WHERE m.thread_id = :thread_id AND m.name = w.name AND m.taken_at IS NULL
        ORDER BY m.position
        LIMIT w.wanted
    ) k
) s ON true
ORDER BY s.name, s.position

-- name: sleep_on
-- params: run_id, token, lease_id, status, reason, checkpoint_id, waiting_for, due, worker
-- aiodurable_runs_pkey, aiodurable_fences_pkey; aiodurable_signals_open_idx. A run that is not due
-- yet: a worker claimed it too early, or its process died before the ledger said that it sleeps.
UPDATE aiodurable_runs r
SET status = CASE WHEN r.cancel_requested_at IS NOT NULL AND :status::text <> 'interrupted'
                  THEN 'paused' ELSE :status::text END,
    status_reason = CASE WHEN r.cancel_requested_at IS NOT NULL THEN 'cancelled'
                         ELSE :reason::text END,
    fencing_token = :token::bigint, checkpoint_id = :checkpoint_id::text,
    finished_at = coalesce(r.finished_at, pg_catalog.now()),
    claim_state = CASE WHEN r.cancel_requested_at IS NULL THEN
-- include: runs.next_claim
    END,
    scheduled_at = :due::timestamptz,
    waiting_for = pg_catalog.string_to_array(:waiting_for::text, E'\n'), signalled = false,
    queue = coalesce(r.queue, 'default'), priority = coalesce(r.priority, 0),
    fairness_key = coalesce(r.fairness_key, ''),
    position = coalesce(r.position,
                        pg_catalog.nextval('aiodurable_run_positions'::pg_catalog.regclass))
FROM (SELECT :waiting_for::text AS waiting_for) w
WHERE r.run_id = :run_id AND coalesce(r.fencing_token, 0) <= :token::bigint
  AND (r.claim_state = 'claimed' AND r.claimed_by = :worker
       OR r.status = 'running' AND r.claim_state IS NULL)
-- include: runs.short_wait
  AND (SELECT true
       FROM aiodurable_fences f
       WHERE f.thread_id = r.thread_id AND f.token = :token::bigint
         AND f.lease_id = :lease_id::bigint
       LIMIT 1)

-- name: stop
-- params: thread_id
-- aiodurable_runs_thread_order_idx. A run that sleeps, waits, or is to be tried again is cancelled
-- at once: no process has it. A question that is open beside that stays open. No worker has claimed
-- what has no graph's name.
UPDATE aiodurable_runs r
SET status = CASE WHEN r.status = 'failed' THEN 'paused' ELSE r.status END,
    status_reason = 'cancelled', claim_state = NULL,
    cancel_requested_at = coalesce(r.cancel_requested_at, pg_catalog.now())
WHERE r.thread_id = :thread_id AND r.status IN ('failed', 'paused', 'interrupted')
-- include: runs.short_wait
  AND (r.claim_state IS NOT NULL
       OR r.waiting_for IS NOT NULL AND r.graph IS NULL AND r.cancel_requested_at IS NULL)
RETURNING r.run_id

-- name: unheard
-- params: recent_s, most
-- aiodurable_signals_created_idx backwards; aiodurable_runs_thread_order_idx once a signal, and
-- aiodurable_runs_pkey. Its || '' keeps it from reading all that is scheduled. A signal and a wait
-- of which neither saw the other, because the signal's transaction was open for as long as the run
-- took to come to wait. A row that another sender's transaction has locked comes later.
UPDATE aiodurable_runs r
SET claim_state = 'ready'
WHERE r.run_id = ANY (ARRAY (
    SELECT l.run_id
    FROM aiodurable_runs l
    WHERE l.claim_state || '' = 'scheduled' AND l.run_id = ANY (ARRAY (
        SELECT n.run_id
        FROM (
            SELECT s.thread_id, s.name
            FROM aiodurable_signals s
            WHERE s.taken_at IS NULL
              AND s.created_at > pg_catalog.now()
                                 - pg_catalog.make_interval(secs => :recent_s::double precision)
            ORDER BY s.created_at DESC
            LIMIT :most::integer
        ) s
        CROSS JOIN LATERAL (
            SELECT k.run_id, k.claim_state, k.waiting_for
            FROM aiodurable_runs k
            WHERE k.thread_id = s.thread_id AND k.fencing_token IS NOT NULL
              AND k.status NOT IN ('rejected', 'superseded')
            ORDER BY k.fencing_token DESC NULLS LAST, k.seq DESC, k.created_at DESC
            LIMIT 1
        ) n
        WHERE n.claim_state = 'scheduled' AND s.name = ANY (n.waiting_for)))
    FOR UPDATE OF l SKIP LOCKED))
  AND r.claim_state || '' = 'scheduled'
RETURNING r.run_id
