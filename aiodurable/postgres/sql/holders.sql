-- name: holders
-- pg_locks and pg_stat_activity. The exclusive session locks on one bigint (objsubid 1) of the keys $1, or, where it is null,
-- of all sessions that call themselves lock sessions. The role is null if it is that of the reader. What a session says of
-- itself is believed if its role is the reader's, or may take leases (authorized).
SELECT k.key, k.pid, coalesce(a.application_name, '') AS application, pg_catalog.host(a.client_addr) AS client,
       a.backend_start AS since,
       nullif(pg_catalog.pg_get_userbyid(a.usesysid), session_user)::text AS role,
       coalesce(pg_catalog.pg_get_userbyid(a.usesysid) = session_user
                OR pg_catalog.has_sequence_privilege(
                    a.usesysid, pg_catalog.to_regclass('aiodurable_lock_tokens')::oid, 'USAGE'),
                a.pid IS NULL) AS authorized
FROM (
    SELECT l.classid::bigint << 32 | l.objid::bigint AS key, l.pid
    FROM pg_catalog.pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ExclusiveLock' AND l.granted
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
) k
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = k.pid
WHERE CASE WHEN $1::bigint[] IS NULL THEN a.application_name LIKE 'aiodurable:lock@%' ELSE k.key = ANY ($1) END

-- name: leases
-- pg_locks and pg_stat_activity. As holders, with those who wait: shared locks on two integers (objsubid 2), the same 64 bits,
-- are the flags of waiting processes. Their marker lock (aiod, wait) is left out.
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
-- Catalogue only: whether there is a ledger, and whether the server is a standby, which knows no locks of the primary.
SELECT pg_catalog.to_regclass('aiodurable_runs') IS NOT NULL AS ledger,
       pg_catalog.pg_is_in_recovery() AS standby

-- name: threads
-- aiodurable_runs_one_running_idx: the rows of running runs. $1 keys of leases.
SELECT lock_key AS key, thread_id, graph, started_at
FROM aiodurable_runs
WHERE status = 'running' AND lock_key = ANY ($1::bigint[])
