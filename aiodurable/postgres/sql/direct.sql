-- name: plan_once
-- params: backend_pid, compression
-- No table. The plan of a statement over arrays never depends on them, yet Postgres would plan it
-- again each time: a third of the cost of a commit. Not through a proxy (backend_pid was announced
-- at connection): there the session is somebody else's in a moment. A row tells that it was done.
-- What is read and written here counts on a snapshot for each statement, whatever the database's or
-- the role's default is. Both parameters are written in: the simple protocol has none, and needs no
-- statement.
SELECT pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', false),
       pg_catalog.set_config('enable_seqscan', 'off', false),
       pg_catalog.set_config('jit', 'off', false),
       pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
-- include: compress_large_values
WHERE pg_catalog.pg_backend_pid() = :backend_pid

-- name: server
-- pg_class_oid_index. Which server this is: a standby that was promoted began at another moment.
-- grown: whether all tables that each run writes had grown when Postgres last looked (VACUUM,
-- ANALYZE), so that no plan takes them for empty: 20 pages are a thousand fences.
SELECT pg_catalog.pg_postmaster_start_time()::text AS server,
       (SELECT pg_catalog.count(*) = 5
        FROM pg_catalog.pg_class c
        WHERE c.relpages >= 20
          AND c.oid IN (pg_catalog.to_regclass('aiodurable_fences')::oid,
                        pg_catalog.to_regclass('aiodurable_runs')::oid,
                        pg_catalog.to_regclass('checkpoints')::oid,
                        pg_catalog.to_regclass('checkpoint_blobs')::oid,
                        pg_catalog.to_regclass('checkpoint_writes')::oid)) AS grown

-- name: discard_plans
-- No table. See postgres/plan_cache.py.
DISCARD PLANS

-- name: by_index
-- params: backend_pid, compression, silence
-- No table. For the pool. What its statements read they look up, which a planner does not know of
-- tables that were never analysed or grew since. A client that vanished in a transaction would keep
-- its row locks until TCP finds out, by default after two hours: unless somebody has set another
-- limit, the server ends a session that is silent there. No limit of Postgres ends one that waits
-- for the rest of a pipeline: there TCP is to find out, within a minute. That also ends a client
-- that reads nothing of an answer for so long. Parameters as in plan_once.
SELECT pg_catalog.set_config(
           'idle_in_transaction_session_timeout',
           coalesce(nullif(pg_catalog.current_setting('idle_in_transaction_session_timeout'), '0'),
                    :silence::text),
           false),
       pg_catalog.set_config('tcp_keepalives_idle', '20', false),
       pg_catalog.set_config('tcp_keepalives_interval', '5', false),
       pg_catalog.set_config('tcp_user_timeout', '60s', false),
       pg_catalog.set_config('enable_seqscan', 'off', false),
       pg_catalog.set_config('jit', 'off', false),
       pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
-- include: compress_large_values
WHERE pg_catalog.pg_backend_pid() = :backend_pid

-- fragment: compress_large_values
-- pg_settings, whose enumvals say what the server was built with: a failed SET would end a
-- transaction and stand in the server's log. 'auto' is lz4 where nobody chose, in a file or for a
-- database, role or connection. It holds for columns that were given no method of their own.
       (SELECT pg_catalog.set_config(s.name, w.method, false)
        FROM pg_catalog.pg_settings s
        CROSS JOIN (SELECT CASE :compression::text WHEN 'auto' THEN 'lz4'
                               ELSE :compression::text END) AS w (method)
        WHERE s.name = 'default_toast_compression' AND w.method = ANY (s.enumvals)
          AND (s.source = 'default' OR :compression::text <> 'auto')) AS compression

-- name: terminate_abandoned_backends
-- params: backend_pids
-- No table. A backend whose connection was cut may read the statement only now, after it was sent
-- again here: a token that is raised behind the back of its lease makes the lease's own writes
-- stale. So it is ended first. A pid may be another's by now; an application_name with our host and
-- process in it is not. backend_pids, one or several, are written in, as in plan_once; behind a
-- pooler, which makes pids up, there is none. A second is for a backend that can still hear.
SELECT pg_catalog.pg_terminate_backend(pid, 1000)
FROM pg_catalog.pg_stat_activity
WHERE pid IN (:backend_pids) AND pid <> pg_catalog.pg_backend_pid()
  AND application_name = pg_catalog.current_setting('application_name')

-- name: is_active
-- params: backend_pid
-- No table. Whether the backend of a connection that fell silent works on a statement. One that got
-- a part of what was sent together is active, too, and waits for the rest.
SELECT 1 FROM pg_catalog.pg_stat_activity
WHERE pid = :backend_pid AND state = 'active' AND wait_event IS DISTINCT FROM 'ClientRead'

-- name: mark_database
-- params: first, second
-- No table. A transaction's lock on two random numbers, shared like a waiter's flag: no lease ever
-- looks like it.
SELECT pg_catalog.pg_try_advisory_xact_lock_shared(:first::integer, :second::integer)

-- name: find_mark
-- params: first, second
-- No table. Whether that lock is in this database.
SELECT 1 FROM pg_catalog.pg_locks
WHERE locktype = 'advisory' AND objsubid = 2 AND mode = 'ShareLock' AND granted
  AND classid = :first::bigint::oid AND objid = :second::bigint::oid
  AND database
      = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())

-- name: session
-- No table. Who answers, how its transactions see others, and where it finds the tables.
SELECT pg_catalog.pg_backend_pid() AS pid,
       pg_catalog.current_setting('default_transaction_isolation') AS isolation,
       pg_catalog.current_setting('search_path') AS search_path
