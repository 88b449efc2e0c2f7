-- name: commit
-- aiodurable_fences_pkey for the fence; the primary keys of LangGraph's tables for the conflicts. Both sides sorted: no deadlocks.
-- SKIP LOCKED: a fence that is being raised, or that a dead client's backend still holds, never holds the others up.
-- Of several rows with one key the caller sends one: a key may appear once in one ON CONFLICT DO UPDATE.
WITH fence AS MATERIALIZED (
    SELECT f.thread_id
    FROM aiodurable_fences f
    JOIN unnest($1::text[], $2::bigint[]) AS want (thread_id, token) ON f.thread_id = want.thread_id AND f.token = want.token
    ORDER BY f.thread_id
    FOR SHARE OF f SKIP LOCKED
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT r.*
    FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[])
        AS r (thread_id, checkpoint_ns, channel, version, type, blob)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
    ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING
), heads AS (
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT r.*
    FROM unnest($9::text[], $10::text[], $11::text[], $12::text[], $13::jsonb[], $14::jsonb[])
        AS r (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
), kept AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.*
    FROM unnest($15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::int[], $21::text[], $22::text[], $23::bytea[])
        AS r (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING
), replaced AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT r.*
    FROM unnest($24::text[], $25::text[], $26::text[], $27::text[], $28::text[], $29::int[], $30::text[], $31::text[], $32::bytea[])
        AS r (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    WHERE r.thread_id IN (SELECT thread_id FROM fence)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
    DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob
)
SELECT thread_id FROM fence

-- name: tokens
-- aiodurable_fences_pkey. What stands where a batch found no row to lock.
SELECT thread_id, token FROM aiodurable_fences WHERE thread_id = ANY ($1::text[])

-- name: token
-- aiodurable_fences_pkey.
SELECT token FROM aiodurable_fences WHERE thread_id = $1

-- name: patience
-- No table. For the transaction it is part of.
SELECT set_config('lock_timeout', '1s', true)

-- name: bump
-- aiodurable_fences_pkey; sorted like every other statement that locks these rows.
INSERT INTO aiodurable_fences AS f (thread_id, token)
SELECT thread_id, 1 FROM unnest($1::text[]) AS want (thread_id) ORDER BY thread_id
ON CONFLICT (thread_id) DO UPDATE SET token = f.token + 1
RETURNING thread_id, token
