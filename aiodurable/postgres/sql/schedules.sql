-- fragment: record
s.schedule_id, s.graph, s.thread_id, s.cron, s.time_zone, s.every_s, s.once_at, s.anchor_at,
s.starts_at, s.ends_at, s.jitter_s, s.catch_up_s, s.catch_up_all, s.on_busy, s.queue, s.priority,
s.fairness_key, s.concurrency_key, s.max_attempts, s.retry_policy::text AS retry_policy,
s.timeout_s, s.start_timeout_s, s.metadata::text AS metadata, s.summary, s.pause_on_failure,
s.paused_at, s.note, s.next_slot_at, s.next_at, s.last_slot_at, s.failures, s.fired, s.skipped,
s.created_at, s.updated_at

-- fragment: stored
s.input_type, s.input, s.context_type, s.context, s.config_type, s.config

-- fragment: whole
SELECT coalesce(:now::timestamptz, pg_catalog.now()) AS now,
-- include: stored
,
-- include: record
FROM aiodurable_schedules s
WHERE s.schedule_id = :schedule_id

-- name: clock
-- params: now
-- No table. The time that decides what is due; `now` is for tests.
SELECT coalesce(:now::timestamptz, pg_catalog.now()) AS now

-- name: insert
-- params: schedule_id, graph, thread_id, cron, time_zone, every_s, once_at, anchor_at, starts_at
-- params: ends_at, jitter_s, catch_up_s, catch_up_all, input_type, input, context_type, context
-- params: config_type, config, on_busy, queue, priority, fairness_key, concurrency_key
-- params: max_attempts, retry_policy, timeout_s, start_timeout_s, metadata, summary
-- params: pause_on_failure, next_slot_at, next_at
-- aiodurable_schedules_pkey. Comes after lock, whose short wait is the whole transaction's: for one
-- that creates this schedule at the same time.
INSERT INTO aiodurable_schedules AS s (
    schedule_id, graph, thread_id, cron, time_zone, every_s, once_at, anchor_at, starts_at, ends_at,
    jitter_s, catch_up_s, catch_up_all, input_type, input, context_type, context, config_type,
    config, on_busy, queue, priority, fairness_key, concurrency_key, max_attempts, retry_policy,
    timeout_s, start_timeout_s, metadata, summary, pause_on_failure, next_slot_at, next_at)
VALUES (:schedule_id, :graph, :thread_id, :cron, :time_zone, :every_s, :once_at, :anchor_at,
        :starts_at, :ends_at, :jitter_s, :catch_up_s, :catch_up_all, :input_type, :input,
        :context_type, :context, :config_type, :config, :on_busy, :queue, :priority,
        :fairness_key, :concurrency_key, :max_attempts, :retry_policy::text::jsonb, :timeout_s,
        :start_timeout_s, :metadata::text::jsonb, :summary, :pause_on_failure, :next_slot_at,
        :next_at)
ON CONFLICT (schedule_id) DO NOTHING
RETURNING
-- include: record

-- name: replace
-- params: schedule_id, graph, thread_id, cron, time_zone, every_s, once_at, anchor_at, starts_at
-- params: ends_at, jitter_s, catch_up_s, catch_up_all, input_type, input, context_type, context
-- params: config_type, config, on_busy, queue, priority, fairness_key, concurrency_key
-- params: max_attempts, retry_policy, timeout_s, start_timeout_s, metadata, summary
-- params: pause_on_failure, next_slot_at, next_at
-- aiodurable_schedules_pkey. Another definition; whether it is paused, and its counts, stay.
UPDATE aiodurable_schedules s
SET graph = :graph, thread_id = :thread_id, cron = :cron, time_zone = :time_zone,
    every_s = :every_s, once_at = :once_at, anchor_at = :anchor_at, starts_at = :starts_at,
    ends_at = :ends_at, jitter_s = :jitter_s, catch_up_s = :catch_up_s,
    catch_up_all = :catch_up_all, input_type = :input_type, input = :input,
    context_type = :context_type, context = :context, config_type = :config_type,
    config = :config, on_busy = :on_busy, queue = :queue, priority = :priority,
    fairness_key = :fairness_key, concurrency_key = :concurrency_key,
    max_attempts = :max_attempts, retry_policy = :retry_policy::text::jsonb,
    timeout_s = :timeout_s, start_timeout_s = :start_timeout_s,
    metadata = :metadata::text::jsonb, summary = :summary,
    pause_on_failure = :pause_on_failure, next_slot_at = :next_slot_at, next_at = :next_at,
    updated_at = pg_catalog.now()
WHERE s.schedule_id = :schedule_id
RETURNING
-- include: record

-- name: get
-- params: schedule_id
-- aiodurable_schedules_pkey.
SELECT
-- include: record
FROM aiodurable_schedules s
WHERE s.schedule_id = :schedule_id

-- name: get_whole
-- params: schedule_id, now
-- aiodurable_schedules_pkey. With what its runs are accepted with.
-- include: whole

-- name: lock
-- params: schedule_id, now
-- aiodurable_schedules_pkey. The same, and nobody fires or changes it meanwhile.
-- include: whole
-- include: runs.short_wait
FOR UPDATE OF s

-- name: page
-- params: after, rows, graph, paused
-- aiodurable_schedules_pkey from the schedule after which the page begins.
SELECT
-- include: record
FROM aiodurable_schedules s
WHERE s.schedule_id > :after::text
  AND (:graph::text IS NULL OR s.graph = :graph::text)
  AND (:paused::boolean IS NULL OR (s.paused_at IS NOT NULL) = :paused::boolean)
ORDER BY s.schedule_id
LIMIT :rows::integer

-- name: pause
-- params: schedule_id, note
-- aiodurable_schedules_pkey.
UPDATE aiodurable_schedules s
SET paused_at = coalesce(s.paused_at, pg_catalog.now()), note = :note::text,
    updated_at = pg_catalog.now()
WHERE s.schedule_id = :schedule_id
-- include: runs.short_wait
RETURNING
-- include: record

-- name: resume
-- params: schedule_id, note, next_slot_at, next_at
-- aiodurable_schedules_pkey. What failed before counts no more.
UPDATE aiodurable_schedules s
SET paused_at = NULL, resumed_at = pg_catalog.now(), note = :note::text, failures = 0,
    next_slot_at = :next_slot_at, next_at = :next_at, updated_at = pg_catalog.now()
WHERE s.schedule_id = :schedule_id
RETURNING
-- include: record

-- name: delete
-- params: schedule_id
-- aiodurable_schedules_pkey. Its runs stay.
DELETE FROM aiodurable_schedules s
WHERE s.schedule_id = :schedule_id
-- include: runs.short_wait
RETURNING s.schedule_id

-- name: next_due
-- params: now
-- aiodurable_schedules_next_idx, its first entry. Seconds until something is due.
SELECT pg_catalog.date_part('epoch', s.next_at - coalesce(:now::timestamptz,
                                                          pg_catalog.clock_timestamp())) AS in_s
FROM aiodurable_schedules s
WHERE s.paused_at IS NULL AND s.next_at IS NOT NULL
ORDER BY s.next_at
LIMIT 1

-- name: due
-- params: now, most, seen
-- aiodurable_schedules_next_idx; aiodurable_runs_schedule_idx backwards, once for each that pauses
-- on failure. What is due, its rows locked; what another process has locked is left to it, and what
-- the caller has seen is left out.
-- outcomes: of the newest runs that are over, the newest first. A process that freezes meanwhile
-- keeps its rows no longer than the timeout of its transaction.
WITH locked AS MATERIALIZED (
    SELECT s.resumed_at,
    -- include: stored
    ,
    -- include: record
    FROM aiodurable_schedules s
    WHERE s.paused_at IS NULL AND s.next_at <= coalesce(:now::timestamptz, pg_catalog.now())
      AND s.schedule_id <> ALL (:seen::text[])
    ORDER BY s.next_at
    LIMIT :most::integer
    FOR UPDATE OF s SKIP LOCKED
)
SELECT s.*, o.outcomes, coalesce(:now::timestamptz, pg_catalog.now()) AS now,
       pg_catalog.set_config('idle_in_transaction_session_timeout', '10s', true) AS timeout
FROM locked s
LEFT JOIN LATERAL (
    SELECT pg_catalog.array_agg(k.status ORDER BY k.run_id DESC) AS outcomes
    FROM (
        SELECT r.run_id, r.status
        FROM (
            SELECT n.run_id, n.status, n.claim_state, n.created_at
            FROM aiodurable_runs n
            WHERE s.pause_on_failure IS NOT NULL AND n.schedule_id = s.schedule_id
            ORDER BY n.run_id DESC
            LIMIT 200
        ) r
        WHERE r.claim_state IS NULL AND r.status IN ('complete', 'failed', 'quarantined')
          AND (s.resumed_at IS NULL OR r.created_at > s.resumed_at)
        ORDER BY r.run_id DESC
        LIMIT s.pause_on_failure
    ) k
) o ON true

-- name: advance
-- params: schedule_ids, slots, next_slots, next_ats, last_slots, fired, skipped, failures, paused
-- params: notes
-- aiodurable_schedules_pkey. Move schedules to their next slots, in the transaction that accepts
-- the runs; only from the slot that was read, and never to an earlier one.
UPDATE aiodurable_schedules s
SET next_slot_at = u.next_slot_at, next_at = u.next_at,
    last_slot_at = greatest(s.last_slot_at, u.last_slot_at),
    fired = s.fired + u.fired, skipped = s.skipped + u.skipped, failures = u.failures,
    paused_at = CASE WHEN u.paused THEN pg_catalog.now() END,
    note = coalesce(u.note, s.note), updated_at = pg_catalog.now()
FROM unnest(:schedule_ids::text[], :slots::timestamptz[], :next_slots::timestamptz[],
            :next_ats::timestamptz[], :last_slots::timestamptz[], :fired::bigint[],
            :skipped::bigint[], :failures::integer[], :paused::boolean[], :notes::text[])
     AS u (schedule_id, slot, next_slot_at, next_at, last_slot_at, fired, skipped, failures, paused,
           note)
WHERE s.schedule_id = u.schedule_id AND s.next_slot_at = u.slot AND s.paused_at IS NULL
  AND (u.next_slot_at IS NULL OR u.next_slot_at >= u.slot)
RETURNING s.schedule_id
