-- name: identify_backend
-- No table. Who answers, before anything is set on a connection that may be somebody else's a moment later.
SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_version_num')::integer, pg_catalog.pg_is_in_recovery()

-- name: configure
-- No table. By set_config, not at connection start: a pooler in session mode refuses parameters it does not know. A
-- parameter that this server does not know is left out. $1 milliseconds for which the server bears our silence, also
-- while an answer of its own is under way; $2 and $3 seconds: its TCP keepalives, a second line.
SELECT pg_catalog.set_config(v.name, v.value, false)
FROM (VALUES ('idle_session_timeout', $1::text),
             ('tcp_keepalives_idle', $2::text),
             ('tcp_keepalives_interval', $3::text),
             ('tcp_keepalives_count', '3'),
             ('tcp_user_timeout', $1::text),
             ('statement_timeout', '0'),
             ('transaction_timeout', '0'),
             ('lock_timeout', '0'),
             ('idle_in_transaction_session_timeout', '0'),
             ('default_transaction_read_only', 'off'),
             ('default_transaction_isolation', 'read committed'),
             ('synchronous_commit', CASE pg_catalog.current_setting('synchronous_commit')
                                        WHEN 'off' THEN 'on'  -- a lock token that a crash undoes is given out twice
                                        ELSE pg_catalog.current_setting('synchronous_commit') END),
             ('jit', 'off'),
             ('plan_cache_mode', 'force_generic_plan')) AS v (name, value)
JOIN pg_catalog.pg_settings s ON s.name = v.name

-- name: probe
-- No table. $1 a key, $2 whether to hold it (true) or to try it, for the length of a transaction, beside its holder.
SELECT CASE WHEN $2::boolean THEN pg_catalog.pg_try_advisory_lock($1::bigint)
            ELSE pg_catalog.pg_try_advisory_xact_lock($1::bigint) END

-- name: unprobe
-- No table. $1 the key; true if it was held here.
SELECT pg_catalog.pg_advisory_unlock($1::bigint)

-- name: batch
-- No table but the token sequence. $1 keys to unlock, $2 keys to try, $3 whether a key that stays locked here wants a token.
-- pg_try_advisory_lock stands in a select list over unnest and nowhere else: in WHERE the planner may call it more often
-- than once a row, and the second count survives an unlock (good_job#1735). Function scans keep the order of the array.
-- What is unlocked is unlocked first (a one-time filter asks for it), so one batch can hand a key from lease to lease.
-- Of each unlocked key: 0 it was not locked, 1 nobody waits, 2 somebody waits (its flag is taken) and was notified. Flags are
-- looked for one by one only while the sign is up (see flags), looked for once, when all keys are unlocked: who waits put it
-- up before it was refused. Our own does not count: we do not wait for what we hold.
-- One token serves all: drawn when the last key is locked, it is larger than what any of them had before.
WITH unlocked AS MATERIALIZED (
    SELECT ARRAY(SELECT pg_catalog.pg_advisory_unlock(u.key)::integer FROM pg_catalog.unnest($1::bigint[]) AS u (key)) AS became
),
quiet AS MATERIALIZED (
    SELECT CASE WHEN pg_catalog.cardinality(u.became) = 0 THEN true
                WHEN pg_catalog.pg_try_advisory_lock(1634299748, 2002872692)
                THEN pg_catalog.pg_advisory_unlock(1634299748, 2002872692)
                ELSE false END AS so
    FROM unlocked u
),
released AS MATERIALIZED (
    SELECT CASE WHEN q.so THEN u.became
                ELSE ARRAY(SELECT CASE WHEN k.became = 0 THEN 0
                                       WHEN pg_catalog.pg_try_advisory_xact_lock((k.key >> 32)::integer,
                                                                                 (k.key << 32 >> 32)::integer) THEN 1
                                       ELSE (SELECT 2 FROM pg_catalog.pg_notify('aiodurable_lock', k.key::text)) END
                           FROM unnest($1::bigint[], u.became) AS k (key, became)) END AS became
    FROM unlocked u, quiet q
),
tried AS MATERIALIZED (
    SELECT ARRAY(SELECT pg_catalog.pg_try_advisory_lock(u.key)
                 FROM pg_catalog.unnest($2::bigint[]) AS u (key)
                 WHERE (SELECT r.became FROM released r) IS NOT NULL) AS locked
)
SELECT pg_catalog.pg_backend_pid(), r.became, t.locked,
       CASE WHEN $3::boolean OR true = ANY (t.locked) THEN pg_catalog.nextval('aiodurable_lock_tokens'::pg_catalog.regclass) END
FROM released r, tried t

-- name: acquire
-- The batch of one key to try: no table but the token sequence, and a tenth of the batch's start-up cost.
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN pg_catalog.pg_try_advisory_lock($1::bigint)
            THEN pg_catalog.nextval('aiodurable_lock_tokens'::pg_catalog.regclass) END

-- name: release
-- The batch of one key to unlock: no table.
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN NOT pg_catalog.pg_advisory_unlock($1::bigint) THEN 0
            WHEN pg_catalog.pg_try_advisory_xact_lock(($1 >> 32)::integer, ($1 << 32 >> 32)::integer) THEN 1
            ELSE (SELECT 2 FROM pg_catalog.pg_notify('aiodurable_lock', $1::text)) END

-- name: flags
-- No table. A waiter's flag is a shared lock on the same 64 bits in the space of two integers: it dies with the waiter. With
-- each goes a hold of the sign, one such lock for all of them (the letters aiod, wait), which says that there are any.
-- $1 flags to take down, $2 flags to put up; answers which went up (not while a releaser looks at that very flag, or sign).
-- The sign comes last: once it is held it needs no more room, so undo finds it held as often as flags are.
WITH down AS MATERIALIZED (
    SELECT CASE WHEN pg_catalog.pg_advisory_unlock_shared((u.key >> 32)::integer, (u.key << 32 >> 32)::integer)
                THEN pg_catalog.pg_advisory_unlock_shared(1634299748, 2002872692) END
    FROM pg_catalog.unnest($1::bigint[]) AS u (key)
)
SELECT pg_catalog.pg_backend_pid(),
       ARRAY(SELECT CASE WHEN NOT pg_catalog.pg_try_advisory_lock_shared((u.key >> 32)::integer, (u.key << 32 >> 32)::integer)
                         THEN false
                         WHEN pg_catalog.pg_try_advisory_lock_shared(1634299748, 2002872692) THEN true
                         ELSE NOT pg_catalog.pg_advisory_unlock_shared((u.key >> 32)::integer, (u.key << 32 >> 32)::integer) END
             FROM pg_catalog.unnest($2::bigint[]) AS u (key)
             WHERE (SELECT pg_catalog.count(*) FROM down) >= 0)

-- name: undo
-- No table. After a statement failed: locks that it took before are still held (53200). $1 keys, $2 keys of flags.
SELECT pg_catalog.count(pg_catalog.pg_advisory_unlock(u.key)) FROM pg_catalog.unnest($1::bigint[]) AS u (key)
UNION ALL
SELECT pg_catalog.count(CASE WHEN pg_catalog.pg_advisory_unlock_shared((u.key >> 32)::integer, (u.key << 32 >> 32)::integer)
                  THEN pg_catalog.pg_advisory_unlock_shared(1634299748, 2002872692) END)
FROM pg_catalog.unnest($2::bigint[]) AS u (key)

-- name: release_all
-- No table: everything this session holds, before it closes.
SELECT pg_catalog.pg_advisory_unlock_all()

-- name: audit
-- pg_locks, the rows of this backend (the function has no index: it reads them all), and pg_stat_activity. $1 how many
-- keys we believe to hold; the keys themselves are sent only if that is not so. Then the room for locks in the server,
-- which is one for the whole cluster, and how many lock sessions share it: those of our own role in full, and of each other
-- role at most as many. Several applications, each with a role of its own, may share the cluster, or even the database, so
-- other roles count. But any role that may connect can open sessions under this name, so one role counts at most as much as
-- ours: however many sessions it opens, our share stays at least half of what it would be without it.
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN mine.held <> $1::bigint THEN mine.keys END,
       pg_catalog.current_setting('max_locks_per_transaction')::bigint
           * (pg_catalog.current_setting('max_connections')::bigint
              + pg_catalog.current_setting('max_prepared_transactions')::bigint),
       (SELECT pg_catalog.sum(least(r.sessions, r.ours))::bigint
        FROM (SELECT pg_catalog.count(*) AS sessions,
                     pg_catalog.max(pg_catalog.count(*))
                         FILTER (WHERE pg_catalog.pg_get_userbyid(a.usesysid) = session_user) OVER () AS ours
              FROM pg_catalog.pg_stat_activity a
              WHERE a.application_name LIKE 'aiodurable:lock@%'
              GROUP BY a.usesysid) r)
FROM (SELECT pg_catalog.count(*) AS held, pg_catalog.array_agg(l.classid::bigint << 32 | l.objid::bigint) AS keys
      FROM pg_catalog.pg_locks l
      WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'advisory' AND l.objsubid = 1
        AND l.mode = 'ExclusiveLock' AND l.granted) AS mine

-- name: rights
-- Catalogue only. Whether this role may draw a token.
SELECT pg_catalog.has_sequence_privilege('aiodurable_lock_tokens', 'USAGE, UPDATE')

-- name: try_making
-- The migrations' lock, for a transaction. $1 its key.
SELECT pg_catalog.pg_try_advisory_xact_lock($1)

-- name: make_sequence
-- As the first migration makes it.
CREATE SEQUENCE IF NOT EXISTS aiodurable_lock_tokens AS bigint

-- name: holders
-- pg_locks and pg_stat_activity. Leases are exclusive session locks on one bigint (objsubid 1) whose holder says that it is
-- ours, or any whose key is asked for. $1 keys, or null for all. The role is null if it is ours. What a session says of itself
-- is believed if its role is ours, or may take leases (authorized).
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
