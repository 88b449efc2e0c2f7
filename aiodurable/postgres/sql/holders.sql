-- fragment: lease_locks
    -- pg_locks. Exclusive session locks on one bigint: classid and objid are its halves, objsubid
    -- is 1 (two integers, a waiter's flag, have 2).
    SELECT l.classid::bigint << 32 | l.objid::bigint AS key, l.pid
    FROM pg_catalog.pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ExclusiveLock' AND l.granted
      AND l.database = (SELECT d.oid
                        FROM pg_catalog.pg_database d
                        WHERE d.datname = pg_catalog.current_database())

-- fragment: session_columns
           -- The role is null if it is that of the reader. What a session says of itself is
           -- believed if its role is the reader's, or may take leases (authorized).
           s.application_name AS application, pg_catalog.host(s.client_addr) AS client,
           s.backend_start AS since,
           nullif(pg_catalog.pg_get_userbyid(s.usesysid), session_user)::text AS role,
           coalesce(pg_catalog.pg_get_userbyid(s.usesysid) = session_user
                    OR pg_catalog.has_sequence_privilege(
                        s.usesysid, pg_catalog.to_regclass('aiodurable_lock_tokens')::oid, 'USAGE'),
                    s.pid IS NULL) AS authorized

-- fragment: lock_holders
    -- pg_locks and pg_stat_activity. Who holds which lock.
    SELECT l.key, l.pid,
-- include: session_columns
    FROM (
-- include: lease_locks
    ) l
    LEFT JOIN pg_catalog.pg_stat_activity s ON s.pid = l.pid

-- name: holders
-- params: lock_keys
-- pg_locks and pg_stat_activity. Who holds these keys, or, where they are null, all keys of
-- sessions that call themselves lock sessions.
SELECT k.key, k.pid, coalesce(k.application, '') AS application, k.client, k.since, k.role,
       k.authorized
FROM (
-- include: lock_holders
) k
WHERE CASE WHEN :lock_keys::bigint[] IS NULL THEN k.application LIKE 'aiodurable:lock@%'
           ELSE k.key = ANY (:lock_keys) END

-- name: leases
-- params: lock_keys
-- pg_locks and pg_stat_activity. As holders, with those who wait: shared locks on two integers
-- (objsubid 2), the same 64 bits, are the flags of waiting processes. Their marker lock (aiod,
-- wait) is left out.
SELECT k.key, k.waits, k.pid, coalesce(k.application, '') AS application, k.client, k.since,
       k.role, k.authorized
FROM (
    SELECT l.classid::bigint << 32 | l.objid::bigint AS key, l.objsubid = 2 AS waits, l.pid,
-- include: session_columns
    FROM pg_catalog.pg_locks l
    LEFT JOIN pg_catalog.pg_stat_activity s ON s.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted
      AND (l.objsubid = 1 AND l.mode = 'ExclusiveLock'
           OR l.objsubid = 2 AND l.mode = 'ShareLock'
              AND (l.classid, l.objid) <> (1634299748::oid, 2002872692::oid))
      AND l.database = (SELECT d.oid
                        FROM pg_catalog.pg_database d
                        WHERE d.datname = pg_catalog.current_database())
) k
WHERE CASE WHEN :lock_keys::bigint[] IS NULL THEN k.application LIKE 'aiodurable:lock@%'
           ELSE k.key = ANY (:lock_keys) END
ORDER BY k.key, k.waits, k.pid

-- name: tables
-- Catalogue only: whether there is a ledger, and whether the server is a standby, which knows no
-- locks of the primary.
SELECT pg_catalog.to_regclass('aiodurable_runs') IS NOT NULL AS ledger,
       pg_catalog.pg_is_in_recovery() AS standby

-- name: threads
-- params: lock_keys
-- aiodurable_runs_one_running_idx: the rows of running runs.
SELECT lock_key AS key, thread_id, graph, started_at
FROM aiodurable_runs
WHERE status = 'running' AND lock_key = ANY (:lock_keys::bigint[])
