-- name: leases
-- pg_locks and pg_stat_activity, no table. Exclusive session locks on one bigint (objsubid 1) are leases; shared ones on two
-- integers (objsubid 2), the same 64 bits, are the flags of processes that wait, and the sign that there are any (aiod, wait).
-- Only those of sessions that say they are ours, or, where $1 names keys, these keys whoever holds them.
-- The role is null if it is ours. What a session says of itself is believed if its role is ours, or may take leases.
SELECT l.classid::bigint << 32 | l.objid::bigint AS key, l.objsubid = 2 AS waits, l.pid,
       coalesce(a.application_name, '') AS application, pg_catalog.host(a.client_addr) AS client, a.backend_start AS since,
       nullif(pg_catalog.pg_get_userbyid(a.usesysid), session_user)::text AS role,
       coalesce(pg_catalog.pg_get_userbyid(a.usesysid) = session_user
                OR pg_catalog.has_sequence_privilege(
                    a.usesysid, pg_catalog.to_regclass('aiodurable_lock_tokens')::oid, 'USAGE'),
                a.pid IS NULL) AS authorized
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted
  AND (l.objsubid = 1 AND l.mode = 'ExclusiveLock'
       OR l.objsubid = 2 AND l.mode = 'ShareLock' AND (l.classid, l.objid) <> (1634299748::oid, 2002872692::oid))
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND CASE WHEN $1::bigint[] IS NULL THEN a.application_name LIKE 'aiodurable:lock@%'
           ELSE l.classid::bigint << 32 | l.objid::bigint = ANY ($1) END
ORDER BY key, waits, l.pid

-- name: tables
-- Catalogue only: whether there is a ledger to ask; and whether the server knows of leases at all.
SELECT pg_catalog.to_regclass('aiodurable_runs') IS NOT NULL AS ledger,
       pg_catalog.pg_is_in_recovery() AS standby

-- name: threads
-- aiodurable_runs_one_running: as many rows as runs are running. $1 the keys of leases.
SELECT lock_key AS key, thread_id, graph, started_at
FROM aiodurable_runs
WHERE status = 'running' AND lock_key = ANY ($1::bigint[])
