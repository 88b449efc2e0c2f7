-- name: begin
-- params: run_ids, thread_ids, tokens, lease_ids, worker, seqs, base_checkpoint_ids, closings
-- params: claims, synchronous
-- Runs that were accepted and never began are begun: as start of runs.sql, on a row that is there.
-- aiodurable_fences_pkey for the fences, aiodurable_runs_thread_order_idx for what is closed first,
-- aiodurable_runs_pkey for the rows, checkpoints_pkey for what LangGraph has to read,
-- aiodurable_runs_queued_idx for the order of a thread.
-- A row with this very token is ours: the answer to the statement was lost, and it is run again.
-- claims: of the worker that begins it, which it has no more where somebody freed the claim; such a
-- run does not pass an earlier one of its thread. Null: a person's word, which needs no claim.
-- synchronous: whether one of the starts has to be on disk when this returns.
WITH want AS MATERIALIZED (
    SELECT w.*
    FROM (
        SELECT u.*
        FROM unnest(:run_ids::text[], :thread_ids::text[], :tokens::bigint[],
                    :lease_ids::bigint[], :seqs::integer[], :base_checkpoint_ids::text[],
                    :closings::text[], :claims::text[])
             AS u (run_id, thread_id, token, lease_id, seq, base_checkpoint_id, closing, claim)
        ORDER BY u.thread_id
    ) w
    -- include: runs.locked_fence
),
closed AS (
    UPDATE aiodurable_runs r
    SET status = w.closing, claim_state = NULL,
        status_reason = CASE WHEN w.closing = 'superseded' AND r.interrupted_by IS NOT NULL
                             THEN 'interrupted' ELSE r.status_reason END,
        finished_at = coalesce(r.finished_at, pg_catalog.now())
    FROM want w
    WHERE w.closing IS NOT NULL AND r.thread_id = w.thread_id AND r.run_id <> w.run_id
      AND r.fencing_token <= w.token
      AND (r.status = 'running'
           OR w.closing = 'superseded'
              AND r.status IN ('failed', 'paused', 'interrupted', 'quarantined'))
-- include: runs.short_wait
    RETURNING r.run_id
)
UPDATE aiodurable_runs r
SET status = 'running', attempts = 1, fencing_token = w.token, seq = w.seq,
    attempted_by = :worker, base_checkpoint_id = w.base_checkpoint_id,
    attempt_base_checkpoint_id = w.base_checkpoint_id, started_at = pg_catalog.now(),
    claim_state = NULL, status_reason = NULL, error = NULL
    -- scheduled_at stays: since then it has waited
FROM want w
WHERE (SELECT pg_catalog.count(*) FROM closed) >= 0  -- first those: a thread has one running run
  AND r.run_id = w.run_id AND r.thread_id = w.thread_id
  AND (r.status = 'running' AND r.fencing_token = w.token
       OR r.status = 'queued'
          AND (w.claim IS NULL
               OR r.claim_state = 'claimed' AND r.claimed_by = w.claim
                  AND (SELECT true
                       FROM aiodurable_runs b
                       WHERE b.thread_id = r.thread_id AND b.status = 'queued'
                         AND b.position < r.position AND b.claim_state <> 'scheduled'
                       LIMIT 1) IS NULL))
-- include: runs.short_wait
-- include: runs.unless_synchronous
RETURNING r.run_id, r.thread_id, r.graph, r.status, r.attempts, r.fencing_token, r.attempted_by,
          r.created_at, r.started_at, r.finished_at, r.failed_at, r.error, r.status_reason,
          r.checkpoint_id, r.traceback, r.earlier_attempts, r.traceparent,
          (SELECT true
           FROM checkpoints c
           WHERE c.thread_id = r.thread_id AND c.checkpoint_ns = ''
           LIMIT 1) IS NULL AS blank

-- name: not_begun
-- params: thread_id, run_id, claim
-- aiodurable_fences_pkey, aiodurable_runs_pkey, aiodurable_runs_queued_idx. Why begin left a run
-- out.
SELECT f.token, f.lease_id, r.status,
       r.claim_state = 'claimed' AND r.claimed_by = :claim::text AS claimed,
       (SELECT b.run_id
        FROM aiodurable_runs b
        WHERE b.thread_id = w.thread_id AND b.status = 'queued' AND b.position < r.position
          AND b.claim_state <> 'scheduled'
        ORDER BY b.position
        LIMIT 1) AS earlier
FROM (SELECT :thread_id::text AS thread_id) w
LEFT JOIN aiodurable_fences f ON f.thread_id = w.thread_id
LEFT JOIN aiodurable_runs r ON r.run_id = :run_id

-- name: settle_left
-- params: run_id, token, lease_id, status, reason, checkpoint_id
-- aiodurable_runs_pkey, aiodurable_fences_pkey. A run whose process died after the graph had
-- stopped and before the ledger said so, under the fence of this lease.
UPDATE aiodurable_runs r
SET status = :status::text, status_reason = :reason::text, fencing_token = :token::bigint,
    checkpoint_id = :checkpoint_id::text, claim_state = NULL, finished_at = pg_catalog.now()
WHERE r.run_id = :run_id AND r.status = 'running' AND coalesce(r.fencing_token, 0) <= :token::bigint
-- include: runs.short_wait
  AND (SELECT true
       FROM aiodurable_fences f
       WHERE f.thread_id = r.thread_id AND f.token = :token::bigint
         AND f.lease_id = :lease_id::bigint
       LIMIT 1)

-- name: claim
-- params: queues, cursors, graphs, worker, most, limited
-- aiodurable_runs_claim_idx; aiodurable_queues_pkey. Up to most runs that are ready. A walk over
-- the groups of one priority and fairness key finds each by a look at the index, those of the
-- highest priority first, in rotation from each queue's cursor; of each group come the first in
-- order of acceptance. It reads as much with a million runs as with ten, and steps over those of
-- other graphs. A queue with limits is left out, unless limited: then the caller has locked its
-- row.
WITH RECURSIVE open AS MATERIALIZED (
    SELECT a.queue, a.cursor
    FROM unnest(:queues::text[], :cursors::text[]) AS a (queue, cursor)
    WHERE :limited::boolean OR NOT EXISTS (
        SELECT FROM aiodurable_queues q
        WHERE q.name = a.queue AND
        -- include: has_limits
    )
),
walk AS (
    SELECT o.queue, o.cursor, g.priority, g.fairness_key, g.fairness_key <= o.cursor AS wrapped,
           g.priority AS top, 1 AS n
    FROM open o
    CROSS JOIN LATERAL (
        SELECT r.priority
        FROM aiodurable_runs r
        WHERE r.claim_state = 'ready' AND r.queue = o.queue
          AND r.graph = ANY (:graphs::text[])
        ORDER BY r.priority DESC
        LIMIT 1
    ) p
    CROSS JOIN LATERAL (
        (SELECT r.priority, r.fairness_key
         FROM aiodurable_runs r
         WHERE r.claim_state = 'ready' AND r.queue = o.queue
           AND r.graph = ANY (:graphs::text[]) AND r.priority = p.priority
           AND r.fairness_key > o.cursor
         ORDER BY r.fairness_key
         LIMIT 1)
        UNION ALL
        (SELECT r.priority, r.fairness_key
         FROM aiodurable_runs r
         WHERE r.claim_state = 'ready' AND r.queue = o.queue
           AND r.graph = ANY (:graphs::text[]) AND r.priority = p.priority
         ORDER BY r.fairness_key
         LIMIT 1)
        LIMIT 1
    ) g
    UNION ALL
    SELECT w.queue, w.cursor, g.priority, g.fairness_key, g.wrapped, w.top, w.n + 1
    FROM walk w
    CROSS JOIN LATERAL (
        (SELECT r.priority, r.fairness_key, w.wrapped
         FROM aiodurable_runs r
         WHERE r.claim_state = 'ready' AND r.queue = w.queue
           AND r.graph = ANY (:graphs::text[]) AND r.priority = w.priority
           AND r.fairness_key > w.fairness_key
           AND (NOT w.wrapped OR r.fairness_key <= w.cursor)
         ORDER BY r.fairness_key
         LIMIT 1)
        UNION ALL
        (SELECT r.priority, r.fairness_key, true
         FROM aiodurable_runs r
         WHERE NOT w.wrapped AND r.claim_state = 'ready' AND r.queue = w.queue
           AND r.graph = ANY (:graphs::text[])
           AND r.priority = w.priority AND r.fairness_key <= w.cursor
         ORDER BY r.fairness_key
         LIMIT 1)
        UNION ALL
        (SELECT l.priority, l.fairness_key, l.fairness_key <= w.cursor
         FROM (
             SELECT r.priority
             FROM aiodurable_runs r
             WHERE r.claim_state = 'ready' AND r.queue = w.queue
               AND r.graph = ANY (:graphs::text[]) AND r.priority < w.priority
             ORDER BY r.priority DESC
             LIMIT 1
         ) p
         CROSS JOIN LATERAL (
             (SELECT r.priority, r.fairness_key
              FROM aiodurable_runs r
              WHERE r.claim_state = 'ready' AND r.queue = w.queue
                AND r.graph = ANY (:graphs::text[]) AND r.priority = p.priority
                AND r.fairness_key > w.cursor
              ORDER BY r.fairness_key
              LIMIT 1)
             UNION ALL
             (SELECT r.priority, r.fairness_key
              FROM aiodurable_runs r
              WHERE r.claim_state = 'ready' AND r.queue = w.queue
                AND r.graph = ANY (:graphs::text[]) AND r.priority = p.priority
              ORDER BY r.fairness_key
              LIMIT 1)
             LIMIT 1
         ) l)
        LIMIT 1
    ) g
    WHERE w.n < :most::integer
),
taken AS MATERIALIZED (
    SELECT k.run_id
    FROM walk w
    CROSS JOIN LATERAL (
        SELECT r.run_id
        FROM aiodurable_runs r
        WHERE r.claim_state = 'ready' AND r.queue = w.queue AND r.priority = w.priority
          AND r.fairness_key = w.fairness_key AND r.graph = ANY (:graphs::text[])
        ORDER BY r.position
        LIMIT (SELECT pg_catalog.ceil(:most::double precision
                                      / greatest(1, pg_catalog.count(*))::double precision)::bigint
               FROM walk t
               WHERE t.priority = t.top)
        FOR UPDATE OF r SKIP LOCKED
    ) k
    LIMIT :most::integer
)
UPDATE aiodurable_runs r
SET claim_state = 'claimed', claimed_by = :worker, claimed_at = pg_catalog.now()
FROM taken t
WHERE r.run_id = t.run_id AND r.claim_state = 'ready'
RETURNING r.run_id, r.thread_id, r.graph, r.status, r.queue, r.fairness_key, r.concurrency_key,
          r.attempts, r.failures, r.max_attempts, r.retry_policy, r.timeout_s,
          coalesce(r.attempt_base_checkpoint_id, r.base_checkpoint_id) AS base_checkpoint_id,
          r.status = 'running' AND r.status_reason IS NOT DISTINCT FROM 'died beside others'
              AS beside_others,
          r.status = 'queued' AND r.start_timeout_s IS NOT NULL
          AND r.created_at + pg_catalog.make_interval(secs => r.start_timeout_s)
              < pg_catalog.clock_timestamp() AS too_late,
          pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - CASE
              WHEN r.status = 'queued' THEN greatest(r.created_at, r.scheduled_at)
              WHEN r.status <> 'running' THEN r.scheduled_at END) AS waited_s

-- name: limits
-- params: queue
-- aiodurable_queues_pkey. The limits of a queue, and how many tokens its bucket has by now. Its row
-- stays locked until the end of the transaction. mine: whether this transaction has locked it; one
-- that another has locked is not waited for. limited: whether there are any limits.
WITH mine AS MATERIALIZED (
    SELECT q.paused, q.max_running, q.max_running_per_key, q.rate,
-- include: refilled
           AS tokens
    FROM aiodurable_queues q
    WHERE q.name = :queue::text AND
    -- include: has_limits
    FOR UPDATE OF q SKIP LOCKED
)
SELECT m.paused IS NOT NULL AS mine, m.paused, m.max_running, m.max_running_per_key, m.rate,
       m.tokens, l.limited
FROM (
    SELECT EXISTS (
        SELECT FROM aiodurable_queues q
        WHERE q.name = :queue::text AND
        -- include: has_limits
    ) AS limited
) l
LEFT JOIN mine m ON true

-- fragment: has_limits
        -- A queue that is paused begins nothing, which is a limit, too.
        (q.paused OR q.max_running IS NOT NULL OR q.max_running_per_key IS NOT NULL
         OR q.rate IS NOT NULL)

-- fragment: refilled
             CASE WHEN q.rate IS NOT NULL THEN
                 least(coalesce(q.burst, greatest(1, q.rate))::double precision,
                       coalesce(q.tokens, q.burst, greatest(1, q.rate))::double precision
                       + q.rate * coalesce(pg_catalog.date_part(
                             'epoch', pg_catalog.clock_timestamp() - q.refilled_at),
                             0::double precision)) END

-- name: spend
-- params: queue, count
-- aiodurable_queues_pkey.
UPDATE aiodurable_queues q
SET tokens =
-- include: refilled
             - :count::double precision,
    refilled_at = pg_catalog.clock_timestamp()
WHERE q.name = :queue
RETURNING q.name

-- name: at_work_of
-- params: queue
-- aiodurable_runs_queue_running_idx. What is at work of a queue, by concurrency key; not what a
-- dead process has left and any worker may claim.
SELECT r.concurrency_key, pg_catalog.count(*) AS count
FROM aiodurable_runs r
WHERE r.queue = :queue AND (r.status = 'running' OR r.claim_state = 'claimed')
  AND coalesce(r.claim_state, 'claimed') = 'claimed'
GROUP BY r.concurrency_key

-- name: limit_full
-- params: queue, concurrency_keys, most
-- aiodurable_runs_ready_key_idx, once a key. What is ready of keys that have no capacity left waits
-- for it, rather than keep other keys from being claimed.
WITH found AS MATERIALIZED (
    SELECT k.run_id
    FROM pg_catalog.unnest(:concurrency_keys::text[]) AS w (concurrency_key)
    CROSS JOIN LATERAL (
        SELECT r.run_id
        FROM aiodurable_runs r
        WHERE r.claim_state = 'ready' AND r.queue = :queue::text
          AND r.concurrency_key = w.concurrency_key
        LIMIT :most::integer
        FOR UPDATE OF r SKIP LOCKED
    ) k
)
UPDATE aiodurable_runs r
SET claim_state = 'limited'
FROM found f
WHERE r.run_id = f.run_id AND r.claim_state = 'ready'
RETURNING r.run_id

-- name: put_back
-- params: run_ids, worker, state, after_s, misfit
-- aiodurable_runs_pkey. Claimed runs that were not begun. One that never was keeps when it was due.
-- misfit: how the worker's graph does not fit them; null: it does, or is not known to. What the row
-- says of an attempt stays: others decide by it. A row that another transaction has locked stays
-- claimed: this worker does not know of it any more, so abandoned makes it ready.
UPDATE aiodurable_runs r
SET claim_state = :state::text,
    status_reason = CASE WHEN :misfit::text IS NULL THEN r.status_reason
                         ELSE coalesce(r.status_reason, 'graph changed') END,
    error = CASE WHEN r.status IN ('queued', 'paused', 'interrupted')
                 THEN coalesce(:misfit::text, r.error) ELSE r.error END,
    scheduled_at = CASE WHEN :after_s::double precision IS NOT NULL
                        THEN pg_catalog.now()
                             + pg_catalog.make_interval(secs => :after_s::double precision)
                        WHEN r.status = 'queued' THEN r.scheduled_at END
WHERE r.run_id = ANY (ARRAY (
    SELECT k.run_id
    FROM aiodurable_runs k
    WHERE k.run_id = ANY (:run_ids::text[]) AND k.claim_state = 'claimed' AND k.claimed_by = :worker
    FOR UPDATE OF k SKIP LOCKED))
RETURNING r.run_id

-- name: set_aside
-- params: run_id, worker, reason, error, traceback
-- aiodurable_runs_pkey. A claimed run that cannot be begun, or whose processes died too often. One
-- whose row is locked comes back, as in put_back.
UPDATE aiodurable_runs r
SET status = 'quarantined', status_reason = :reason::text, error = :error::text,
    traceback = :traceback::text, claim_state = NULL, finished_at = pg_catalog.now()
WHERE r.run_id = ANY (ARRAY (
    SELECT k.run_id
    FROM aiodurable_runs k
    WHERE k.run_id = :run_id AND k.claim_state = 'claimed' AND k.claimed_by = :worker
    FOR UPDATE OF k SKIP LOCKED))
RETURNING r.run_id

-- name: promote
-- params: thread_ids
-- aiodurable_runs_blocked_idx, aiodurable_runs_thread_order_idx, aiodurable_runs_queued_idx, once a
-- thread; aiodurable_runs_pkey, which || '' keeps from reading all that is blocked. The next run of
-- each thread may begin, unless an earlier one is not over. One whose row another transaction has
-- locked stays blocked until a worker looks again. Workers that sleep are notified, as by create.
WITH next AS MATERIALIZED (
    SELECT k.run_id
    FROM (SELECT DISTINCT u.thread_id
          FROM pg_catalog.unnest(:thread_ids::text[]) AS u (thread_id)) a
    CROSS JOIN LATERAL (
        SELECT b.run_id
        FROM aiodurable_runs b
        WHERE b.thread_id = a.thread_id AND b.claim_state = 'blocked'
        ORDER BY b.position
        LIMIT 1
    ) k
    LEFT JOIN LATERAL (
-- include: last_begun
    ) f ON true
    WHERE
-- include: nothing_in_front
),
promoted AS (
    UPDATE aiodurable_runs r
    SET claim_state = 'ready'
    WHERE r.run_id = ANY (ARRAY (
        SELECT k.run_id
        FROM aiodurable_runs k
        WHERE k.run_id = ANY (ARRAY (SELECT n.run_id FROM next n))
        FOR UPDATE OF k SKIP LOCKED))
      AND r.claim_state || '' = 'blocked'
    RETURNING r.run_id, r.queue
),
woken AS MATERIALIZED (
    SELECT pg_catalog.count(pg_catalog.pg_notify('aiodurable_queue', q.queue)) AS queues
    FROM (SELECT DISTINCT p.queue FROM promoted p) q
    WHERE
    -- include: queue.a_worker_sleeps
)
SELECT p.run_id
FROM promoted p
CROSS JOIN woken

-- fragment: last_begun
        SELECT b.run_id, b.status, b.interrupted_by
        FROM aiodurable_runs b
        WHERE b.thread_id = a.thread_id AND b.fencing_token IS NOT NULL
          AND b.status NOT IN ('rejected', 'superseded')
        ORDER BY b.fencing_token DESC NULLS LAST, b.seq DESC, b.created_at DESC
        LIMIT 1

-- fragment: nothing_in_front
          (f.status IS NULL OR f.status = 'complete'
           OR f.interrupted_by IS NOT NULL AND f.status <> 'running')
      AND (SELECT true
           FROM aiodurable_runs b
           WHERE b.thread_id = a.thread_id AND b.status = 'queued'
             AND b.claim_state IN ('ready', 'claimed', 'limited')
           LIMIT 1) IS NULL

-- fragment: begun_of_key
-- What a key has at work or ready, no more of either than it may have.
                (SELECT
                 FROM aiodurable_runs o
                 WHERE o.queue = w.queue AND o.concurrency_key = w.concurrency_key
                   AND (o.status = 'running' OR o.claim_state = 'claimed')
                   AND coalesce(o.claim_state, 'claimed') = 'claimed'
                 LIMIT coalesce(q.max_running_per_key, 0))
                UNION ALL
                (SELECT
                 FROM aiodurable_runs o
                 WHERE o.claim_state = 'ready' AND o.queue = w.queue
                   AND o.concurrency_key = w.concurrency_key
                 LIMIT coalesce(q.max_running_per_key, 0))

-- name: promote_limited
-- params: queues, concurrency_keys
-- aiodurable_queues_pkey, aiodurable_runs_queue_running_idx, aiodurable_runs_ready_key_idx and
-- aiodurable_runs_limited_idx, once a key. As many runs of each key as it has capacity for, a
-- hundred at a time, may begin. No more are counted than the key may have.
WITH found AS MATERIALIZED (
    SELECT k.run_id
    FROM unnest(:queues::text[], :concurrency_keys::text[])
         AS w (queue, concurrency_key)
    LEFT JOIN aiodurable_queues q ON q.name = w.queue
    CROSS JOIN LATERAL (
        SELECT r.run_id
        FROM aiodurable_runs r
        WHERE r.claim_state = 'limited' AND r.queue = w.queue
          AND r.concurrency_key = w.concurrency_key
        ORDER BY r.position
        LIMIT (
            SELECT greatest(0, least(100, coalesce(
                q.max_running_per_key - pg_catalog.count(*), 100)))
            FROM (
-- include: begun_of_key
            ) u)
        FOR UPDATE OF r SKIP LOCKED
    ) k
)
UPDATE aiodurable_runs r
SET claim_state = 'ready'
FROM found f
WHERE r.run_id = f.run_id AND r.claim_state = 'limited'

-- name: due
-- params: most, free, left
-- aiodurable_runs_scheduled_idx; aiodurable_runs_thread_order_idx and aiodurable_runs_queued_idx of
-- those that have never begun. What is due may be claimed, or waits for an earlier run: of those
-- of a thread that are due together for the one that was accepted first. One before which others
-- make way ("interrupts") is left as it is, for interrupts_now. left: run_ids that the caller has
-- seen, and that stay due. Workers that sleep are notified, as by create, where more is ready than
-- the worker that sends this may begin.
WITH found AS MATERIALIZED (
    SELECT k.run_id, k.thread_id, k.status, k.position,
           k.status = 'queued' AND coalesce(k.on_busy IN ('interrupt', 'rollback'), false)
               AS interrupts
    FROM aiodurable_runs k
    WHERE k.claim_state = 'scheduled' AND k.scheduled_at <= pg_catalog.now()
      AND k.run_id <> ALL (:left::text[])
    ORDER BY k.scheduled_at
    LIMIT :most::integer
    FOR UPDATE OF k SKIP LOCKED
),
due AS (
    UPDATE aiodurable_runs r
    SET claim_state = CASE
            WHEN r.status <> 'queued' THEN 'ready'
            WHEN d.earlier > 0 THEN 'blocked'
            WHEN EXISTS (
                SELECT FROM aiodurable_runs b
                WHERE b.thread_id = r.thread_id AND b.status = 'queued' AND b.run_id <> r.run_id
                  AND b.claim_state <> 'scheduled') THEN 'blocked'
            WHEN (SELECT b.status
                  FROM aiodurable_runs b
                  WHERE b.thread_id = r.thread_id AND b.fencing_token IS NOT NULL
                    AND b.status NOT IN ('rejected', 'superseded')
                  ORDER BY b.fencing_token DESC NULLS LAST, b.seq DESC, b.created_at DESC
                  LIMIT 1) <> 'complete' THEN 'blocked'
            ELSE 'ready' END
    FROM (
        SELECT f.run_id, f.interrupts,
               pg_catalog.row_number()
                   OVER (PARTITION BY f.thread_id, f.status = 'queued' ORDER BY f.position) - 1
                   AS earlier
        FROM found f
    ) d
    WHERE r.run_id = d.run_id AND NOT d.interrupts
    RETURNING r.queue, r.claim_state
),
woken AS MATERIALIZED (
    SELECT pg_catalog.count(pg_catalog.pg_notify('aiodurable_queue', q.queue)) AS queues
    FROM (SELECT d.queue, pg_catalog.sum(pg_catalog.count(*)) OVER () AS ready
          FROM due d
          WHERE d.claim_state = 'ready'
          GROUP BY d.queue) q
    WHERE q.ready > :free::integer::numeric AND
    -- include: queue.a_worker_sleeps
)
SELECT f.run_id, f.thread_id, f.interrupts
FROM found f
CROSS JOIN woken

-- name: interrupts_now
-- params: run_ids
-- aiodurable_runs_pkey, which || '' keeps from reading all that is scheduled. Runs before which
-- others make way, and which are due: they wait for them. The short wait is the whole
-- transaction's: interrupt of busy.sql comes after this.
UPDATE aiodurable_runs r
SET claim_state = 'blocked'
WHERE r.run_id = ANY (:run_ids::text[]) AND r.claim_state || '' = 'scheduled'
  AND r.status = 'queued'
-- include: runs.short_wait
RETURNING r.thread_id, r.run_id, r.on_busy, r.scheduled_at, r.position

-- name: signs
-- params: queues
-- The first entry of aiodurable_runs_claim_idx of each queue, _scheduled_idx, _blocked_idx,
-- _limited_idx, _claimed_idx and _one_running_idx, and of aiodurable_schedules_next_idx;
-- aiodurable_queues_pkey; the last of aiodurable_signals_created_idx, for unheard of signals.sql.
-- What a worker has to do: it is all that one without work sends.
-- With ORDER BY each is a look at the first entry; as EXISTS it may read the table, and end where
-- the first of what it seeks happens to be.
SELECT (SELECT true
        FROM pg_catalog.unnest(:queues::text[]) AS w (queue)
        CROSS JOIN LATERAL (
            SELECT r.position
            FROM aiodurable_runs r
            WHERE r.claim_state = 'ready' AND r.queue = w.queue
            ORDER BY r.priority DESC, r.fairness_key, r.position
            LIMIT 1
        ) k
        LIMIT 1) IS NOT NULL AS ready,
       (SELECT pg_catalog.date_part('epoch', r.scheduled_at - pg_catalog.clock_timestamp())
        FROM aiodurable_runs r
        WHERE r.claim_state = 'scheduled'
        ORDER BY r.scheduled_at
        LIMIT 1) AS due_s,
       (SELECT pg_catalog.date_part('epoch', s.next_at - pg_catalog.clock_timestamp())
        FROM aiodurable_schedules s
        WHERE s.paused_at IS NULL AND s.next_at IS NOT NULL
        ORDER BY s.next_at
        LIMIT 1) AS slot_due_s,
       coalesce(
           (SELECT true
            FROM aiodurable_runs r
            WHERE r.claim_state = 'blocked'
            ORDER BY r.thread_id, r.position
            LIMIT 1),
           (SELECT true
            FROM aiodurable_runs r
            WHERE r.claim_state = 'limited'
            ORDER BY r.queue, r.concurrency_key, r.position
            LIMIT 1),
           (SELECT true
            FROM aiodurable_runs r
            WHERE r.claim_state = 'claimed'
            ORDER BY r.claimed_by
            LIMIT 1),
           (SELECT true
            FROM aiodurable_signals s
            WHERE s.taken_at IS NULL
              AND s.created_at > pg_catalog.now() - pg_catalog.make_interval(mins => 10)
            ORDER BY s.created_at DESC
            LIMIT 1),
           false) AS untidy,
       (SELECT true
        FROM aiodurable_runs r
        WHERE r.status = 'running'
        ORDER BY r.thread_id
        LIMIT 1) IS NOT NULL AS running,
       ARRAY (
           SELECT q.name
           FROM aiodurable_queues q
           WHERE q.name = ANY (:queues::text[]) AND
           -- include: has_limits
       ) AS limited_queues

-- name: blocked_threads
-- params: after, most
-- aiodurable_runs_blocked_idx from a cursor, one look a thread, however many runs of it wait.
WITH RECURSIVE threads AS (
    (SELECT r.thread_id, 1 AS n
     FROM aiodurable_runs r
     WHERE r.claim_state = 'blocked' AND r.thread_id > :after
     ORDER BY r.thread_id
     LIMIT 1)
    UNION ALL
    SELECT f.thread_id, t.n + 1
    FROM threads t
    CROSS JOIN LATERAL (
        SELECT r.thread_id
        FROM aiodurable_runs r
        WHERE r.claim_state = 'blocked' AND r.thread_id > t.thread_id
        ORDER BY r.thread_id
        LIMIT 1
    ) f
    WHERE t.n < :most::integer
)
SELECT t.thread_id
FROM threads t

-- name: limited_keys
-- params: after_queue, after_key, most
-- aiodurable_runs_limited_idx from a cursor, one look a key, however many runs of it wait. A run is
-- limited by its key: it has one.
WITH RECURSIVE keys AS (
    (SELECT r.queue, r.concurrency_key, 1 AS n
     FROM aiodurable_runs r
     WHERE r.claim_state = 'limited'
       AND (r.queue, r.concurrency_key) > (:after_queue::text, :after_key::text)
     ORDER BY r.queue, r.concurrency_key
     LIMIT 1)
    UNION ALL
    SELECT f.queue, f.concurrency_key, k.n + 1
    FROM keys k
    CROSS JOIN LATERAL (
        SELECT r.queue, r.concurrency_key
        FROM aiodurable_runs r
        WHERE r.claim_state = 'limited'
          AND (r.queue, r.concurrency_key) > (k.queue, k.concurrency_key)
        ORDER BY r.queue, r.concurrency_key
        LIMIT 1
    ) f
    WHERE k.n < :most::integer
)
SELECT k.queue, k.concurrency_key
FROM keys k

-- name: abandoned
-- params: process, worker, mine, here, most_s
-- aiodurable_runs_claimed_idx; pg_stat_activity only where there is one. Claims of processes that
-- have no connection left, or that have begun nothing for most_s; of workers of this process that
-- have stopped; and of this worker, as far as it knows nothing of them. A locked one comes later.
UPDATE aiodurable_runs a
SET claim_state = 'ready'
WHERE a.run_id = ANY (ARRAY (
    SELECT r.run_id
    FROM aiodurable_runs r
    WHERE r.claim_state = 'claimed'
      AND CASE WHEN r.claimed_by = :worker THEN r.run_id <> ALL (:mine::text[])
               WHEN pg_catalog.split_part(r.claimed_by, '#', 1) = :process
               THEN r.claimed_by <> ALL (:here::text[])
               ELSE
-- include: claim_is_void
               END
    FOR UPDATE OF r SKIP LOCKED))
RETURNING a.run_id

-- fragment: claim_is_void
                r.claimed_at < pg_catalog.now()
                               - pg_catalog.make_interval(secs => :most_s::double precision)
                OR NOT EXISTS (
                    SELECT FROM pg_catalog.pg_stat_activity s
                    WHERE pg_catalog.split_part(s.application_name, '@', 2)
                          = pg_catalog.split_part(r.claimed_by, '#', 1))

-- name: orphans
-- params: graphs, grace_s
-- aiodurable_runs_one_running_idx or aiodurable_runs_unfinished_status_idx; the view
-- aiodurable_leases. Runs at work whose lease nobody holds, and whether their process may live: it
-- has a connection, or the server has not been up for long enough to tell.
SELECT r.run_id, r.fencing_token AS token,
-- include: may_live
       AS may_live
FROM aiodurable_runs r
LEFT JOIN aiodurable_leases l ON l.key = r.lock_key
WHERE r.status = 'running' AND l.key IS NULL AND r.claim_state IS NULL
  AND r.graph = ANY (:graphs::text[])

-- fragment: may_live
       EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity s
           WHERE pg_catalog.split_part(s.application_name, '@', 2) = r.attempted_by)
       OR pg_catalog.pg_postmaster_start_time()
          > pg_catalog.now() - pg_catalog.make_interval(secs => :grace_s::double precision)

-- name: rescue
-- params: run_ids, tokens, queue
-- aiodurable_runs_pkey; checkpoints_pkey backwards, once a run. Runs of dead processes may be
-- claimed again, unless they were to be cancelled: who claims one sees whether it had stopped, or
-- has failed too often. Of one that has failed before it is said whether it was alone in its
-- process: another run may have been the cause. A lease of the thread since then has a larger
-- token. A row that another transaction has locked comes later.
WITH rescued AS (
    UPDATE aiodurable_runs r
    SET status = CASE WHEN n.cancelled THEN 'paused' ELSE r.status END,
        status_reason = CASE WHEN n.cancelled THEN 'cancelled'
                             WHEN NOT n.progressed AND n.beside_others THEN 'died beside others'
                             END,
        finished_at = CASE WHEN n.cancelled THEN pg_catalog.now() END,
        claim_state = CASE WHEN NOT n.cancelled THEN 'ready' END,
        failures = CASE WHEN n.progressed THEN 1 ELSE r.failures + 1 END,
        queue = coalesce(r.queue, :queue), priority = coalesce(r.priority, 0),
        fairness_key = coalesce(r.fairness_key, ''),
        position = coalesce(
            r.position,
            pg_catalog.nextval('aiodurable_run_positions'::pg_catalog.regclass))
    FROM (
        SELECT w.run_id, w.token, k.cancel_requested_at IS NOT NULL AS cancelled,
               h.checkpoint_id IS DISTINCT FROM
                   coalesce(k.attempt_base_checkpoint_id, k.base_checkpoint_id) AS progressed,
               k.failures > 0 AND EXISTS (
                   SELECT FROM aiodurable_runs o
                   WHERE o.status = 'running' AND o.attempted_by = k.attempted_by
                     AND o.run_id <> k.run_id) AS beside_others
        FROM unnest(:run_ids::text[], :tokens::bigint[]) AS w (run_id, token)
        JOIN aiodurable_runs k ON k.run_id = w.run_id
        LEFT JOIN LATERAL (
            SELECT c.checkpoint_id
            FROM checkpoints c
            WHERE c.thread_id = k.thread_id AND c.checkpoint_ns = ''
            ORDER BY c.checkpoint_id DESC
            LIMIT 1
        ) h ON true
        FOR UPDATE OF k SKIP LOCKED
    ) n
    WHERE r.run_id = n.run_id AND r.status = 'running' AND r.claim_state IS NULL
      AND r.fencing_token IS NOT DISTINCT FROM n.token
      AND r.cancel_requested_at IS NOT NULL = n.cancelled
    RETURNING r.run_id, r.thread_id, r.status, r.queue, r.claim_state
),
woken AS MATERIALIZED (
    SELECT pg_catalog.count(pg_catalog.pg_notify('aiodurable_queue', q.queue)) AS queues
    FROM (SELECT DISTINCT c.queue FROM rescued c WHERE c.claim_state = 'ready') q
    WHERE
    -- include: queue.a_worker_sleeps
)
SELECT c.run_id, c.thread_id, c.status
FROM rescued c
CROSS JOIN woken

-- name: flag_up
-- No table. The letters aiod, work, as create of queue.sql probes them.
SELECT pg_catalog.pg_advisory_lock_shared(1634299748, 2003792491)

-- name: flag_down
-- No table.
SELECT pg_catalog.pg_advisory_unlock_shared(1634299748, 2003792491)
