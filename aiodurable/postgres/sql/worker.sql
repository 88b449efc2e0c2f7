-- name: begin
-- params: run_ids, thread_ids, tokens, lease_ids, worker, seqs, base_checkpoint_ids, closings
-- Runs that were accepted and never began are begun: as start of runs.sql, on a row that is there.
-- aiodurable_fences_pkey for the fences, aiodurable_runs_thread_order_idx for what is closed first,
-- aiodurable_runs_pkey for the rows, checkpoints_pkey for what LangGraph has to read.
-- A row with this very token is ours: the answer to the statement was lost, and it is run again.
WITH want AS MATERIALIZED (
    SELECT w.*
    FROM (
        SELECT u.*
        FROM unnest(:run_ids::text[], :thread_ids::text[], :tokens::bigint[],
                    :lease_ids::bigint[], :seqs::integer[], :base_checkpoint_ids::text[],
                    :closings::text[])
             AS u (run_id, thread_id, token, lease_id, seq, base_checkpoint_id, closing)
        ORDER BY u.thread_id
    ) w
    CROSS JOIN LATERAL (
        SELECT f.thread_id
        FROM aiodurable_fences f
        WHERE f.thread_id = w.thread_id AND f.token = w.token AND f.lease_id = w.lease_id
        LIMIT 1
        FOR SHARE OF f SKIP LOCKED
    ) fence
),
closed AS (
    UPDATE aiodurable_runs r
    SET status = w.closing, claim_state = NULL,
        finished_at = coalesce(r.finished_at, pg_catalog.now())
    FROM want w
    WHERE w.closing IS NOT NULL AND r.thread_id = w.thread_id AND r.run_id <> w.run_id
      AND r.fencing_token <= w.token
      AND (r.status = 'running'
           OR w.closing = 'superseded'
              AND r.status IN ('failed', 'paused', 'interrupted', 'quarantined'))
    RETURNING r.run_id
)
UPDATE aiodurable_runs r
SET status = 'running', attempts = 1, fencing_token = w.token, seq = w.seq,
    attempted_by = :worker, base_checkpoint_id = w.base_checkpoint_id,
    attempt_base_checkpoint_id = w.base_checkpoint_id, started_at = pg_catalog.now(),
    claim_state = NULL, scheduled_at = NULL
FROM want w
WHERE (SELECT pg_catalog.count(*) FROM closed) >= 0  -- first those: a thread has one running run
  AND r.run_id = w.run_id AND r.thread_id = w.thread_id
  AND (r.status = 'queued' OR r.status = 'running' AND r.fencing_token = w.token)
RETURNING r.run_id, r.thread_id, r.graph, r.status, r.attempts, r.fencing_token, r.attempted_by,
          r.created_at, r.started_at, r.finished_at, r.failed_at, r.error, r.status_reason,
          r.checkpoint_id, r.traceback, r.earlier_attempts,
          (SELECT true
           FROM checkpoints c
           WHERE c.thread_id = r.thread_id AND c.checkpoint_ns = ''
           LIMIT 1) IS NULL AS blank

-- name: not_begun
-- params: thread_id, run_id
-- aiodurable_fences_pkey, aiodurable_runs_pkey. Why begin left a run out.
SELECT f.token, f.lease_id,
       (SELECT r.status FROM aiodurable_runs r WHERE r.run_id = :run_id) AS status
FROM (SELECT :thread_id::text AS thread_id) w
LEFT JOIN aiodurable_fences f ON f.thread_id = w.thread_id

-- name: made_way
-- params: thread_id
-- aiodurable_runs_thread_order_idx. Whether the thread's newest run that began was cancelled for
-- the sake of another one.
SELECT r.interrupted_by IS NOT NULL AND r.status <> 'running' AS made_way
FROM aiodurable_runs r
WHERE r.thread_id = :thread_id AND r.fencing_token IS NOT NULL
  AND r.status NOT IN ('rejected', 'superseded')
ORDER BY r.fencing_token DESC NULLS LAST, r.seq DESC, r.created_at DESC
LIMIT 1

-- name: settle_left
-- params: run_id, token, lease_id, status, reason, checkpoint_id
-- aiodurable_runs_pkey, aiodurable_fences_pkey. A run whose process died after the graph had
-- stopped and before the ledger said so, under the fence of this lease.
UPDATE aiodurable_runs r
SET status = :status::text, status_reason = :reason::text, fencing_token = :token::bigint,
    checkpoint_id = :checkpoint_id::text, claim_state = NULL, finished_at = pg_catalog.now()
WHERE r.run_id = :run_id AND r.status = 'running' AND coalesce(r.fencing_token, 0) <= :token::bigint
  AND (SELECT true
       FROM aiodurable_fences f
       WHERE f.thread_id = r.thread_id AND f.token = :token::bigint
         AND f.lease_id = :lease_id::bigint
       LIMIT 1)
