-- fragment: stored_columns
-- What a run was accepted with and how it stands.
       r.run_id, r.thread_id, r.graph, r.status, r.attempts, r.fencing_token, r.attempted_by,
       r.created_at, r.started_at, r.finished_at, r.failed_at, r.error, r.status_reason,
       r.checkpoint_id, r.input_type, r.input, r.context_type, r.context, r.config_type, r.config,
       r.traceback, r.earlier_attempts, r.answers_type, r.answers, r.queue, r.max_attempts,
       r.retry_policy, r.failures, r.cancel_requested_at

-- fragment: consumed
-- As recorded. Where the process died before it recorded that, a checkpoint of the run after its
-- base shows it; what update_state wrote under the run's id does not. That reads checkpoints_pkey
-- from the base onwards and compares whole rows: by checkpoint_id alone, the planner may take the
-- index of block ranges and read the whole table. A run that never began has no token and no base:
-- it would read the thread's whole history.
       r.consumed OR (
           SELECT true
           FROM checkpoints c
           WHERE r.fencing_token IS NOT NULL
             AND c.thread_id = r.thread_id AND c.checkpoint_ns = ''
             AND (c.thread_id, c.checkpoint_ns, c.checkpoint_id)
                 > (r.thread_id, '', coalesce(r.base_checkpoint_id, ''))
             AND c.metadata ->> 'aiodurable_run_id'::text = r.run_id
             AND c.metadata ->> 'source'::text IN ('input', 'loop')
           ORDER BY c.checkpoint_id
           LIMIT 1) IS NOT NULL AS consumed

-- fragment: locked_fence
-- The fence of w, if it is that of its lease still; no other lease raises it until the end of the
-- transaction.
    CROSS JOIN LATERAL (
        SELECT f.thread_id
        FROM aiodurable_fences f
        WHERE f.thread_id = w.thread_id AND f.token = w.token AND f.lease_id = w.lease_id
        LIMIT 1
        FOR SHARE OF f SKIP LOCKED
    ) fence

-- fragment: unless_synchronous
-- The transaction's own setting: its commit does not wait for the disk.
  AND CASE WHEN :synchronous::boolean THEN true
           ELSE pg_catalog.set_config('synchronous_commit', 'off', true) IS NOT NULL END

-- fragment: short_wait
-- The transaction's own setting: it waits for a row that another one has locked for a moment only,
-- and fails. See postgres/locked_rows.py. Of a statement that may run in a transaction of the
-- caller's it is the part own_transaction.
  AND (SELECT pg_catalog.set_config('lock_timeout', '100ms', true)) IS NOT NULL

-- name: get
-- params: run_ids
-- aiodurable_runs_pkey; checkpoints_pkey for "consumed".
SELECT
-- include: stored_columns
       ,
-- include: consumed
FROM aiodurable_runs r
WHERE r.run_id = ANY (:run_ids::text[])

-- name: newest
-- params: thread_id
-- aiodurable_runs_thread_order_idx, its first row that counts; checkpoints_pkey for "consumed".
SELECT
-- include: stored_columns
       ,
-- include: consumed
FROM aiodurable_runs r
WHERE r.thread_id = :thread_id AND r.status NOT IN ('rejected', 'superseded')
ORDER BY r.fencing_token DESC NULLS LAST, r.seq DESC, r.created_at DESC
LIMIT 1

-- name: newest_of
-- params: thread_ids
-- What a resumption reads of the newest run of each thread: aiodurable_runs_thread_order_idx, and
-- checkpoints_pkey for "consumed", as in newest. An input that was consumed is not read any more.
SELECT q.thread_id, q.status, q.context_type, q.context, q.config_type, q.config, q.answers_type,
       q.answers, q.consumed,
       CASE WHEN NOT q.consumed THEN q.input_type END AS input_type,
       CASE WHEN NOT q.consumed THEN q.input END AS input
FROM pg_catalog.unnest(:thread_ids::text[]) AS a (thread_id)
CROSS JOIN LATERAL (
    SELECT r.thread_id, r.status, r.input_type, r.input, r.context_type, r.context,
           r.config_type, r.config, r.answers_type, r.answers,
           r.input_type IS NULL OR r.consumed OR (
               SELECT true
               FROM checkpoints c
               WHERE r.fencing_token IS NOT NULL
                 AND c.thread_id = r.thread_id AND c.checkpoint_ns = ''
                 AND (c.thread_id, c.checkpoint_ns, c.checkpoint_id)
                     > (r.thread_id, '', coalesce(r.base_checkpoint_id, ''))
                 AND c.metadata ->> 'aiodurable_run_id'::text = r.run_id
               ORDER BY c.checkpoint_id
               LIMIT 1) IS NOT NULL AS consumed
    FROM aiodurable_runs r
    WHERE r.thread_id = a.thread_id AND r.status NOT IN ('rejected', 'superseded')
    ORDER BY r.fencing_token DESC NULLS LAST, r.seq DESC, r.created_at DESC
    LIMIT 1
) q

-- name: start
-- params: run_ids, thread_ids, lock_keys, graphs, tokens, lease_ids, workers, seqs, input_types
-- params: inputs, context_types, contexts, config_types, configs, base_checkpoint_ids, closings
-- params: traceparents, synchronous
-- aiodurable_fences_pkey for the fences; aiodurable_runs_thread_order_idx for the runs to close;
-- aiodurable_runs_pkey for their locks and the new rows; checkpoints_pkey for "blank".
-- The fences are locked, sorted: a row that is inserted behind a removal under way would stay, and
-- be resumed. SKIP LOCKED as in commit; see not_started.
-- What an earlier attempt left running is over; a new start also gives up what failed or waits. One
-- of these that somebody's transaction has locked holds up the start of its own thread alone. A
-- rejected run_id may be tried again with another input. A row with this very token is ours: the
-- answer to the statement was lost, and it is run again. "blank": LangGraph has nothing to read.
-- With LIMIT that is a look-up; as EXISTS it may be answered by hashing all checkpoints there are.
-- synchronous: whether one of the runs has to be on disk when this returns.
WITH want AS MATERIALIZED (
    SELECT w.*
    FROM (
        SELECT u.*
        FROM unnest(:run_ids::text[], :thread_ids::text[], :lock_keys::bigint[], :graphs::text[],
                    :tokens::bigint[], :lease_ids::bigint[], :workers::text[], :seqs::integer[],
                    :input_types::text[], :inputs::bytea[], :context_types::text[],
                    :contexts::bytea[], :config_types::text[], :configs::bytea[],
                    :base_checkpoint_ids::text[], :closings::text[], :traceparents::text[])
             AS u (run_id, thread_id, lock_key, graph, token, lease_id, worker, seq, input_type,
                   input, context_type, context, config_type, config, base_checkpoint_id, closing,
                   traceparent)
        ORDER BY u.thread_id
    ) w
    -- include: locked_fence
), earlier AS MATERIALIZED (
    SELECT u.run_id, w.thread_id, w.closing, w.run_id AS closed_by, k.run_id IS NULL AS locked
    FROM want w
    JOIN aiodurable_runs u
      ON w.closing IS NOT NULL AND u.thread_id = w.thread_id AND u.run_id <> w.run_id
     AND coalesce(u.fencing_token, 0) <= w.token
     AND (u.status = 'running'
          OR w.closing = 'superseded'
             AND u.status IN ('failed', 'paused', 'interrupted', 'quarantined'))
    LEFT JOIN LATERAL (
    -- include: free_row
    ) k ON true
), held_up AS MATERIALIZED (
    SELECT e.thread_id
    FROM earlier e
    WHERE e.locked
), closed AS (
    UPDATE aiodurable_runs r
    SET status = e.closing, claim_state = NULL,
        status_reason = CASE WHEN e.closing <> 'superseded' THEN r.status_reason
                             WHEN r.interrupted_by IS NOT NULL THEN 'interrupted'
                             ELSE 'given up for run ' || e.closed_by END,
        finished_at = coalesce(r.finished_at, pg_catalog.now())
    FROM earlier e
    -- The array as well: for a join alone the whole index may be read.
    WHERE r.run_id = e.run_id AND r.run_id = ANY (ARRAY(SELECT o.run_id FROM earlier o))
      AND e.thread_id NOT IN (SELECT h.thread_id FROM held_up h)
    RETURNING r.run_id
)
INSERT INTO aiodurable_runs AS r (
    run_id, thread_id, lock_key, graph, status, attempts, fencing_token, attempted_by, seq,
    input_type, input, context_type, context, config_type, config, base_checkpoint_id, traceparent,
    started_at)
SELECT w.run_id, w.thread_id, w.lock_key, w.graph, 'running', 1, w.token, w.worker, w.seq,
       w.input_type, w.input, w.context_type, w.context, w.config_type, w.config,
       w.base_checkpoint_id, w.traceparent, pg_catalog.now()
FROM want w
-- Those first: only one run of a thread may be running.
WHERE (SELECT pg_catalog.count(*) FROM closed) >= 0
  AND w.thread_id NOT IN (SELECT h.thread_id FROM held_up h)
-- include: unless_synchronous
ON CONFLICT (run_id) DO UPDATE
SET status = 'running', attempts = r.attempts + (r.status = 'rejected')::integer,
    graph = excluded.graph, fencing_token = excluded.fencing_token,
    attempted_by = excluded.attempted_by, seq = excluded.seq,
    input_type = excluded.input_type, input = excluded.input,
    context_type = excluded.context_type, context = excluded.context,
    config_type = excluded.config_type, config = excluded.config,
    base_checkpoint_id = excluded.base_checkpoint_id, traceparent = excluded.traceparent,
    started_at = excluded.started_at,
    consumed = false, finished_at = NULL, error = NULL, traceback = NULL, status_reason = NULL,
    cancel_requested_at = NULL
WHERE r.thread_id = excluded.thread_id
  AND (r.status = 'rejected' OR r.fencing_token = excluded.fencing_token)
RETURNING run_id, thread_id, graph, status, attempts, fencing_token, attempted_by, created_at,
          started_at, finished_at, failed_at, error, status_reason, checkpoint_id, traceback,
          earlier_attempts, traceparent,
          (SELECT true
           FROM checkpoints c
           WHERE c.thread_id = r.thread_id AND c.checkpoint_ns = ''
           LIMIT 1) IS NULL AS blank

-- name: not_started
-- params: thread_id, run_id, token
-- aiodurable_fences_pkey, aiodurable_runs_pkey. Why start left out this run under this token: what
-- the fence holds, if anything, and whether another run has that id. Where it is neither, somebody
-- had locked the fence, or an earlier run, for the moment.
SELECT f.token, f.lease_id,
       (SELECT true
        FROM aiodurable_runs r
        WHERE r.run_id = :run_id
          AND NOT (r.thread_id = :thread_id
                   AND (r.status = 'rejected'
                        OR r.fencing_token IS NOT DISTINCT FROM :token::bigint))
        LIMIT 1) IS NOT NULL AS taken
FROM (SELECT :thread_id::text AS thread_id) w
LEFT JOIN aiodurable_fences f ON f.thread_id = w.thread_id

-- name: retry
-- params: run_id, token, lease_id, worker, seq, kept_attempts, head, claim
-- aiodurable_runs_pkey, aiodurable_fences_pkey. Only under the fence of this lease. Only what
-- crashed or failed is tried again, and keeps how it ended; a run that waited goes on with the
-- attempt it had. The newest kept_attempts are remembered. A row with this very token and number
-- is ours: the answer to the statement was lost, and it is run again. claim: of the worker that
-- goes on with it, which it has no more where somebody cancelled the run or took it up; null: a
-- person's word, which needs none.
UPDATE aiodurable_runs r
SET status = 'running', fencing_token = :token, attempted_by = :worker, seq = :seq,
    started_at = pg_catalog.now(),
    attempts = r.attempts + (r.attempts = 0 OR t.again)::integer,
    earlier_attempts = CASE
        WHEN t.again
        THEN t.earlier[greatest(1, pg_catalog.cardinality(t.earlier) - :kept_attempts + 1):]
        ELSE r.earlier_attempts END,
    finished_at = NULL, error = NULL, traceback = NULL, status_reason = NULL, checkpoint_id = NULL,
    cancel_requested_at = NULL, interrupted_by = NULL, roll_back = false, claim_state = NULL,
    scheduled_at = NULL, waiting_for = NULL, attempt_base_checkpoint_id = :head::text
FROM (
    SELECT k.run_id,
           k.status IN ('running', 'failed', 'quarantined') AND k.attempts > 0
           AND k.status_reason IS DISTINCT FROM 'snoozed'
           AND (k.fencing_token, k.seq) IS DISTINCT FROM (:token::bigint, :seq::integer) AS again,
           pg_catalog.array_append(k.earlier_attempts, pg_catalog.jsonb_build_object(
               'worker', k.attempted_by, 'started', k.started_at, 'ended', k.finished_at,
               'outcome', CASE k.status WHEN 'running' THEN 'crashed' ELSE k.status END,
               'error', k.error, 'traceback', k.traceback)) AS earlier
    FROM aiodurable_runs k
    WHERE k.run_id = :run_id
) t
WHERE r.run_id = t.run_id AND coalesce(r.fencing_token, 0) <= :token
-- include: short_wait
  AND (:claim::text IS NULL
       OR r.claim_state = 'claimed' AND r.claimed_by = :claim AND r.cancel_requested_at IS NULL
       OR r.status = 'running' AND (r.fencing_token, r.seq) = (:token::bigint, :seq::integer))
  AND (SELECT true
       FROM aiodurable_fences f
       WHERE f.thread_id = r.thread_id AND f.token = :token AND f.lease_id = :lease_id::bigint
       LIMIT 1)
RETURNING r.run_id, r.thread_id, r.graph, r.status, r.attempts, r.fencing_token, r.attempted_by,
          r.created_at, r.started_at, r.finished_at, r.failed_at, r.error, r.status_reason,
          r.checkpoint_id, r.traceback, r.earlier_attempts, r.traceparent

-- fragment: next_claim
-- What a worker may do with a run that sleeps or waits: a signal may have come since it looked. The
-- row says so where the two meet, as both change it; a signal from before the run is looked up.
CASE WHEN w.waiting_for <> ''
          AND (r.signalled
               OR (SELECT true
                   FROM aiodurable_signals s
                   WHERE s.thread_id = r.thread_id AND s.taken_at IS NULL
                     AND s.name = ANY (pg_catalog.string_to_array(w.waiting_for, E'\n'))
                   LIMIT 1))
     THEN 'ready' ELSE 'scheduled' END

-- fragment: free_row
-- aiodurable_runs_pkey. The row of u, if nobody's transaction has locked it: the statement is about
-- other runs, too, which do not wait for that.
        SELECT l.run_id
        FROM aiodurable_runs l
        WHERE l.run_id = u.run_id
        LIMIT 1
        FOR NO KEY UPDATE OF l SKIP LOCKED

-- fragment: free_rows
-- aiodurable_runs_pkey.
WITH free AS MATERIALIZED (
    SELECT k.run_id
    FROM pg_catalog.unnest(:run_ids::text[]) AS u (run_id)
    CROSS JOIN LATERAL (
    -- include: free_row
    ) k
)

-- fragment: no_later_end
  AND (r.status <> 'complete' OR r.checkpoint_id IS NULL
       OR r.checkpoint_id <= coalesce(w.checkpoint_id, ''))

-- name: unfinished
-- params: run_ids, tokens, lease_ids, checkpoint_ids
-- aiodurable_runs_pkey, aiodurable_fences_pkey. Of the rows that finish left out those that are
-- this attempt's still: somebody had locked them.
SELECT r.run_id, r.fencing_token, w.lease_id
FROM unnest(:run_ids::text[], :tokens::bigint[], :lease_ids::bigint[],
            :checkpoint_ids::text[])
     AS w (run_id, token, lease_id, checkpoint_id)
CROSS JOIN LATERAL (
    SELECT k.run_id, k.thread_id, k.fencing_token, k.status, k.checkpoint_id
    FROM aiodurable_runs k
    WHERE k.run_id = w.run_id
    LIMIT 1
) r
WHERE r.fencing_token = w.token
-- include: no_later_end
  AND (SELECT true
       FROM aiodurable_fences f
       WHERE f.thread_id = r.thread_id AND f.token = w.token AND f.lease_id = w.lease_id
       LIMIT 1)

-- name: finish
-- params: run_ids, tokens, lease_ids, thread_ids, statuses, errors, tracebacks, reasons,
-- params: checkpoint_ids, consumed, again_after_s, failures, waiting_for, due
-- aiodurable_runs_pkey, aiodurable_fences_pkey. Only the attempt under this token, and only while
-- the fence is that of its lease. No lock on the fence: an update that a newer lease has overtaken,
-- or a removal, finds a larger token in the row, or no row. An end that a later checkpoint has
-- recorded stays (ended of checkpoints.sql): the attempt was cancelled while that was written. A
-- run that is to be cancelled is not scheduled again. A drained run that came out of a queue goes
-- back there; another one that workers may claim goes to the queue "default".
-- waiting_for: the signals that a run waits for, one a line; empty: it sleeps. A worker goes on
-- with it, also where no queue had it (aiodurable_signals_open_idx); a call does where its graph
-- has no name, by which a worker could find it.
-- include: free_rows
UPDATE aiodurable_runs r
SET status = CASE WHEN r.cancel_requested_at IS NOT NULL AND t.again THEN 'paused'
                  ELSE w.status END,
    status_reason = CASE WHEN r.cancel_requested_at IS NOT NULL
                              AND (t.again OR w.waiting_for IS NOT NULL OR w.reason = 'drained')
                         THEN 'cancelled'
                         ELSE w.reason END,
    error = w.error, traceback = w.traceback,
    checkpoint_id = w.checkpoint_id, consumed = r.consumed OR w.consumed,
    finished_at = pg_catalog.now(),
    failed_at = CASE WHEN w.status = 'failed' THEN pg_catalog.now() ELSE r.failed_at END,
    claim_state = CASE WHEN r.cancel_requested_at IS NOT NULL THEN NULL
                       WHEN w.again_after_s = 0::double precision THEN 'ready'
                       WHEN w.again_after_s > 0::double precision THEN 'scheduled'
                       WHEN w.waiting_for IS NOT NULL AND r.graph IS NOT NULL THEN
-- include: next_claim
                       WHEN w.reason = 'drained' AND r.queue IS NOT NULL THEN 'ready' END,
    scheduled_at = CASE WHEN w.again_after_s > 0::double precision
                        THEN pg_catalog.now() + pg_catalog.make_interval(secs => w.again_after_s)
                        WHEN w.again_after_s IS NULL AND w.waiting_for IS NULL
                             AND w.reason IS DISTINCT FROM 'drained'
                        THEN r.scheduled_at  -- it goes on nowhere, and says when it was due
                        ELSE w.due END,
    failures = coalesce(w.failures, r.failures),
    waiting_for = pg_catalog.string_to_array(w.waiting_for, E'\n'), signalled = false,
    queue = CASE WHEN t.queued THEN coalesce(r.queue, 'default') ELSE r.queue END,
    priority = CASE WHEN t.queued THEN coalesce(r.priority, 0) ELSE r.priority END,
    fairness_key = CASE WHEN t.queued THEN coalesce(r.fairness_key, '') ELSE r.fairness_key END,
    position = CASE WHEN t.queued THEN coalesce(
                        r.position,
                        pg_catalog.nextval('aiodurable_run_positions'::pg_catalog.regclass))
                    ELSE r.position END
FROM unnest(:run_ids::text[], :tokens::bigint[], :lease_ids::bigint[], :thread_ids::text[],
            :statuses::text[], :errors::text[], :tracebacks::text[], :reasons::text[],
            :checkpoint_ids::text[], :consumed::boolean[], :again_after_s::double precision[],
            :failures::integer[], :waiting_for::text[], :due::timestamptz[])
     AS w (run_id, token, lease_id, thread_id, status, error, traceback, reason, checkpoint_id,
           consumed, again_after_s, failures, waiting_for, due)
CROSS JOIN LATERAL (
    SELECT w.again_after_s IS NOT NULL
           OR w.status = 'paused' AND w.waiting_for IS NOT NULL AS again,
           w.waiting_for IS NOT NULL
           OR w.reason = 'drained' AND w.again_after_s IS NOT NULL AS queued
) t
-- By run_id alone: all of a thread's runs may be read by the other.
WHERE r.run_id = w.run_id AND r.thread_id || '' = w.thread_id AND r.fencing_token = w.token
  AND w.run_id = ANY (ARRAY (SELECT k.run_id FROM free k))
-- include: no_later_end
  AND (SELECT true
       FROM aiodurable_fences f
       WHERE f.thread_id = w.thread_id AND f.token = w.token AND f.lease_id = w.lease_id
       LIMIT 1)
RETURNING r.run_id, r.fencing_token, w.lease_id, r.finished_at

-- fragment: awaited
-- Whether a queued run waits for this one: aiodurable_runs_blocked_idx, most often empty.
          (SELECT true
           FROM aiodurable_runs b
           WHERE b.thread_id = r.thread_id AND b.claim_state = 'blocked'
           LIMIT 1) AS awaited

-- name: complete
-- params: run_ids, tokens, lease_ids, thread_ids, checkpoint_ids
-- aiodurable_runs_pkey, aiodurable_fences_pkey; checkpoints_pkey backwards and
-- checkpoint_writes_pkey, once a thread. Under the fence, as finish. Each checkpoint says itself
-- that nothing is left to do: if it is the head and no task wrote on, the thread is complete. Not
-- waiting for the disk, as in end. A row that is locked is left to finish.
-- include: free_rows
UPDATE aiodurable_runs r
SET checkpoint_id = e.checkpoint_id, finished_at = pg_catalog.now(),
-- include: completed
FROM unnest(:run_ids::text[], :tokens::bigint[], :lease_ids::bigint[], :thread_ids::text[],
            :checkpoint_ids::text[])
     AS e (run_id, token, lease_id, thread_id, checkpoint_id)
WHERE r.run_id = e.run_id AND r.thread_id = e.thread_id AND r.fencing_token = e.token
  AND e.run_id = ANY (ARRAY (SELECT k.run_id FROM free k))
  AND (SELECT true
       FROM aiodurable_fences f
       WHERE f.thread_id = e.thread_id AND f.token = e.token AND f.lease_id = e.lease_id
       LIMIT 1)
  AND e.checkpoint_id = (
      SELECT c.checkpoint_id
      FROM checkpoints c
      WHERE c.thread_id = e.thread_id AND c.checkpoint_ns = ''
      ORDER BY c.checkpoint_id DESC
      LIMIT 1)
  AND NOT EXISTS (
      SELECT 1
      FROM checkpoint_writes w
      WHERE w.thread_id = e.thread_id AND w.checkpoint_ns = ''
        AND w.checkpoint_id = e.checkpoint_id)
  AND pg_catalog.set_config('synchronous_commit', 'off', true) IS NOT NULL
RETURNING r.run_id, r.fencing_token, e.lease_id, r.finished_at, r.thread_id,
-- include: awaited

-- name: end
-- params: thread_ids, lock_keys, ignore_locks, statuses, older_than, newer_than, graph, run_status
-- params: run_ids, tokens, lease_ids, consumed
-- Where each thread stands apart from its lock, as classify. A run that it shows complete is closed
-- at once (aiodurable_runs_pkey, aiodurable_fences_pkey), without waiting for the disk: the
-- checkpoints that make it complete are there, and a row that is lost in a crash of the server is
-- read as complete all the same.
-- The fence is that of the run's row, which is found once; by the arguments it would be looked up
-- for each of them with each thread. "consumed": a checkpoint has taken the run's input. A row that
-- is locked is left to finish.
WITH seen AS MATERIALIZED (
-- include: threads.classify
), free AS MATERIALIZED (
    SELECT k.run_id
    FROM unnest(:thread_ids::text[], :run_ids::text[]) AS u (thread_id, run_id)
    JOIN seen s ON s.thread_id = u.thread_id AND s.status = 'complete'
    CROSS JOIN LATERAL (
    -- include: free_row
    ) k
), ended AS (
    UPDATE aiodurable_runs r
    SET checkpoint_id = s.checkpoint_id, finished_at = pg_catalog.now(),
-- include: completed
    FROM unnest(:thread_ids::text[], :run_ids::text[], :tokens::bigint[], :lease_ids::bigint[],
                :consumed::boolean[])
         AS e (thread_id, run_id, token, lease_id, consumed)
    JOIN seen s ON s.thread_id = e.thread_id
    WHERE r.run_id = e.run_id AND r.fencing_token = e.token
      AND s.status = 'complete' AND e.consumed
      AND e.run_id = ANY (ARRAY (SELECT k.run_id FROM free k))
      AND (SELECT true
           FROM aiodurable_fences f
           WHERE f.thread_id = r.thread_id AND f.token = e.token AND f.lease_id = e.lease_id
           LIMIT 1)
      AND pg_catalog.set_config('synchronous_commit', 'off', true) IS NOT NULL
    RETURNING r.thread_id, r.run_id, e.lease_id, r.finished_at,
-- include: awaited
)
SELECT s.*, d.run_id AS ended, d.lease_id AS ended_under, d.finished_at AS ended_at, d.awaited
FROM seen s
LEFT JOIN ended d ON d.thread_id = s.thread_id

-- fragment: completed
    status = 'complete', consumed = true, error = NULL, traceback = NULL, status_reason = NULL,
    answers_type = NULL, answers = NULL, questions_closed = NULL, claim_state = NULL

-- name: complete_by_tables
-- params: run_id, token, lease_id, checkpoint_id
-- aiodurable_runs_pkey, aiodurable_fences_pkey. What the tables show complete, in the ledger too.
-- Only under the fence of this lease.
UPDATE aiodurable_runs r
SET checkpoint_id = :checkpoint_id::text, finished_at = coalesce(r.finished_at, pg_catalog.now()),
-- include: completed
WHERE r.run_id = :run_id AND coalesce(r.fencing_token, 0) <= :token::bigint
-- include: short_wait
  AND (SELECT true
       FROM aiodurable_fences f
       WHERE f.thread_id = r.thread_id AND f.token = :token::bigint
         AND f.lease_id = :lease_id::bigint
       LIMIT 1)

-- name: fork
-- params: run_id, thread_id, lock_key, graph, token, worker, base_checkpoint_id, reason,
-- params: source_thread_id, source_checkpoint_id, in_the_step
-- checkpoints_pkey for the source's checkpoint, aiodurable_runs_pkey for the run that wrote it.
-- in_the_step: the copy goes on in the middle of the step after it, so that answers that step has
-- not taken yet go along. Its transaction began with lock_empty_thread, which keeps the fence that
-- it compared.
INSERT INTO aiodurable_runs (
    run_id, thread_id, lock_key, graph, status, attempts, fencing_token, attempted_by,
    base_checkpoint_id, status_reason, context_type, context, config_type, config, answered,
    answers_type, answers, questions_closed, finished_at)
SELECT :run_id, :thread_id, :lock_key::bigint,
       coalesce(:graph::text, r.graph, c.metadata ->> 'aiodurable_graph_name'::text),
       'paused', 0, :token::bigint, :worker, :base_checkpoint_id, :reason,
       r.context_type, r.context, r.config_type, r.config,
       CASE WHEN a.here THEN r.answered ELSE '{}' END, CASE WHEN a.here THEN r.answers_type END,
       CASE WHEN a.here THEN r.answers END, CASE WHEN a.here THEN r.questions_closed END,
       pg_catalog.now()
FROM checkpoints c
LEFT JOIN LATERAL (
    SELECT k.graph, k.context_type, k.context, k.config_type, k.config, k.answered,
           k.answers_type, k.answers, k.questions_closed
    FROM aiodurable_runs k
    WHERE k.run_id = c.metadata ->> 'aiodurable_run_id'::text
    LIMIT 1
) r ON true
CROSS JOIN LATERAL (SELECT :in_the_step::boolean AND r.answers_type IS NOT NULL AS here) a
WHERE c.thread_id = :source_thread_id AND c.checkpoint_ns = ''
  AND c.checkpoint_id = :source_checkpoint_id
RETURNING run_id

-- name: request_cancel
-- params: thread_id, channel
-- aiodurable_runs_one_running_idx, by the thread; its process gets a notification on the channel.
WITH requested AS (
    UPDATE aiodurable_runs r
    SET cancel_requested_at = coalesce(r.cancel_requested_at, pg_catalog.now())
    WHERE r.thread_id = :thread_id AND r.status = 'running'
-- include: short_wait
    RETURNING r.run_id
)
SELECT q.run_id, pg_catalog.pg_notify(:channel::text, q.run_id) FROM requested q

-- name: cancelling
-- aiodurable_runs_cancelling_idx, whole: those whose end was requested and has not come.
SELECT r.run_id, r.cancel_requested_at
FROM aiodurable_runs r
WHERE r.status = 'running' AND r.cancel_requested_at IS NOT NULL

-- name: at_work
-- params: run_id
-- aiodurable_runs_pkey; the view aiodurable_leases.
SELECT r.status = 'running' AS at_work,
       EXISTS (SELECT FROM aiodurable_leases l WHERE l.key = r.lock_key) AS held
FROM aiodurable_runs r
WHERE r.run_id = :run_id

-- name: settle_cancelled
-- params: run_id, token, lease_id, checkpoint_id
-- aiodurable_runs_pkey or aiodurable_runs_one_running_idx; aiodurable_fences_pkey. Only under the
-- fence of this lease.
UPDATE aiodurable_runs r
SET status = 'paused', status_reason = 'cancelled', fencing_token = :token::bigint,
    checkpoint_id = :checkpoint_id::text, claim_state = NULL, finished_at = pg_catalog.now()
WHERE r.run_id = :run_id AND r.status = 'running' AND coalesce(r.fencing_token, 0) <= :token::bigint
-- include: short_wait
  AND (SELECT true
       FROM aiodurable_fences f
       WHERE f.thread_id = r.thread_id AND f.token = :token::bigint
         AND f.lease_id = :lease_id::bigint
       LIMIT 1)
