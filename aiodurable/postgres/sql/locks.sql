-- name: identify_backend
-- No table. The backend, before anything is configured: behind a pooler it may serve somebody else
-- a moment later.
SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_version_num')::integer,
       pg_catalog.pg_is_in_recovery()

-- name: configure
-- params: idle_timeout_ms, keepalive_idle_s, keepalive_interval_s, raises_tokens
-- No table. With set_config, not at connection start: a pooler in session mode refuses parameters
-- it does not know. A parameter that this server does not know is left out. After idle_timeout_ms
-- the server ends a silent session, also while its own answer is under way; its TCP keepalives are
-- a second line. Of the commits of a session that raises the tokens of threads only those of other
-- tokens wait for the disk (durable_token): when it ends, Postgres removes the function below in a
-- transaction. Its commit would wait for a synchronous standby that is away, with all locks held,
-- and hold up a fast shutdown.
SELECT pg_catalog.set_config(v.name, v.value, false)
FROM (SELECT CASE pg_catalog.current_setting('synchronous_commit')
                 WHEN 'off' THEN 'on'
                 ELSE pg_catalog.current_setting('synchronous_commit') END) AS durable (value),
     LATERAL
     (VALUES ('aiodurable.synchronous_commit', durable.value),
             ('synchronous_commit',
              CASE WHEN :raises_tokens::boolean THEN 'off' ELSE durable.value END),
             ('idle_session_timeout', :idle_timeout_ms::text),
             ('tcp_keepalives_idle', :keepalive_idle_s::text),
             ('tcp_keepalives_interval', :keepalive_interval_s::text),
             ('tcp_keepalives_count', '3'),
             ('tcp_user_timeout', :idle_timeout_ms::text),
             ('statement_timeout', '0'),
             ('transaction_timeout', '0'),
             ('lock_timeout', '0'),
             ('idle_in_transaction_session_timeout', '0'),
             ('default_transaction_read_only', 'off'),
             ('default_transaction_isolation', 'read committed'),
             ('jit', 'off'),
             ('plan_cache_mode', 'force_generic_plan')) AS v (name, value)
WHERE v.name = 'aiodurable.synchronous_commit'  -- of our own
   OR EXISTS (SELECT FROM pg_catalog.pg_settings s WHERE s.name = v.name)

-- fragment: durable_token
-- A token that a crash undoes is given out twice: its commit waits for the disk.
            CASE WHEN pg_catalog.set_config(
                          'synchronous_commit',
                          pg_catalog.current_setting('aiodurable.synchronous_commit'), true)
                      IS NOT NULL
                 THEN pg_catalog.nextval('aiodurable_lock_tokens'::pg_catalog.regclass) END

-- name: probe
-- params: key, session
-- No table. session: lock the key; otherwise try it beside its holder, until the end of a
-- transaction.
SELECT CASE WHEN :session::boolean THEN pg_catalog.pg_try_advisory_lock(:key::bigint)
            ELSE pg_catalog.pg_try_advisory_xact_lock(:key::bigint) END

-- name: unprobe
-- params: key
-- No table. True if the key was locked here.
SELECT pg_catalog.pg_advisory_unlock(:key::bigint)

-- name: batch
-- params: unlock_keys, try_keys, needs_token
-- No table but the token sequence. needs_token: a key that stays locked here needs a token.
-- pg_try_advisory_lock stands in a select list over unnest and nowhere else: in WHERE the planner
-- may call it more than once for a row, and the second count survives an unlock (good_job#1735).
-- Function scans keep the order of the array. Keys are unlocked before others are tried (a one-time
-- filter sees to it), so one batch can pass a key from lease to lease. The result for each unlocked
-- key: 0 it was not locked, 1 nobody waits, 2 somebody waits (its flag is up) and was notified. The
-- flags are probed one by one only if the marker lock (see flags) says that there are any. It is
-- probed once, after all keys are unlocked: a waiter takes it before it is refused. Our own hold
-- does not count: we do not wait for what we hold. All keys of the batch share one token. It is
-- drawn after the last key is locked, so it is larger than every earlier one.
WITH unlocked AS MATERIALIZED (
    SELECT ARRAY(SELECT pg_catalog.pg_advisory_unlock(u.key)::integer
                 FROM pg_catalog.unnest(:unlock_keys::bigint[]) AS u (key)) AS results
),
no_waiters AS MATERIALIZED (
    SELECT CASE WHEN pg_catalog.cardinality(u.results) = 0 THEN true
                WHEN pg_catalog.pg_try_advisory_lock(1634299748, 2002872692)
                THEN pg_catalog.pg_advisory_unlock(1634299748, 2002872692)
                ELSE false END AS value
    FROM unlocked u
),
released AS MATERIALIZED (
    SELECT CASE WHEN n.value THEN u.results
                ELSE ARRAY(
                    SELECT CASE WHEN k.result = 0 THEN 0
                                WHEN pg_catalog.pg_try_advisory_xact_lock(
                                         (k.key >> 32)::integer, (k.key << 32 >> 32)::integer)
                                THEN 1
                                ELSE (SELECT 2
                                      FROM pg_catalog.pg_notify('aiodurable_lock', k.key::text)) END
                    FROM unnest(:unlock_keys::bigint[], u.results) AS k (key, result)) END
                AS results
    FROM unlocked u, no_waiters n
),
tried AS MATERIALIZED (
    SELECT ARRAY(SELECT pg_catalog.pg_try_advisory_lock(u.key)
                 FROM pg_catalog.unnest(:try_keys::bigint[]) AS u (key)
                 WHERE (SELECT r.results FROM released r) IS NOT NULL) AS locked
)
SELECT pg_catalog.pg_backend_pid(), r.results, t.locked,
       CASE WHEN :needs_token::boolean OR true = ANY (t.locked) THEN
-- include: durable_token
       END
FROM released r, tried t

-- name: acquire
-- params: key
-- The batch of one key to try, at a tenth of the start-up cost. No table but the token sequence.
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN pg_catalog.pg_try_advisory_lock(:key::bigint) THEN
-- include: durable_token
       END

-- name: acquire_durably
-- params: key
-- As acquire, where the session's own commits wait for the disk (configure): to change that for a
-- statement is a fifth of it.
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN pg_catalog.pg_try_advisory_lock(:key::bigint)
            THEN pg_catalog.nextval('aiodurable_lock_tokens'::pg_catalog.regclass) END

-- name: release
-- params: key
-- The batch of one key to unlock. No table.
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN NOT pg_catalog.pg_advisory_unlock(:key::bigint) THEN 0
            WHEN pg_catalog.pg_try_advisory_xact_lock((:key >> 32)::integer,
                                                      (:key << 32 >> 32)::integer) THEN 1
            WHEN pg_catalog.pg_notify('aiodurable_lock', :key::text) IS NOT NULL THEN 2 END

-- name: create_lease
-- params: thread_ids, lease_ids
-- A function of this session alone: it is in pg_temp, needs no migration, and ends with it. It
-- locks the keys of threads and raises the tokens of those it has locked. A key that is null is
-- locked here already. locked: of each key. raised and tokens: the threads whose fence had a row;
-- made, unknown and waiting: those whose row was made, with token 1, and whether nothing was known
-- of them, or nothing but one run, which waits in a queue.
-- A thread in neither of them has a fence that somebody has locked.
-- A function, for each of its statements sees what was committed when it began, after the locks
-- were taken, where a statement alone sees what was committed before. And its statements lock their
-- tables under lock_timeout, where a statement alone would wait without bound for somebody who
-- alters one. The commit does not wait for the disk (configure): see the docstring of
-- checkpoints/fences.py.
CREATE OR REPLACE FUNCTION pg_temp.aiodurable_lease(
    thread_ids text[], lease_ids bigint[], keys bigint[],
    OUT locked boolean[], OUT raised text[], OUT tokens bigint[], OUT made text[],
    OUT unknown boolean[], OUT waiting boolean[])
LANGUAGE plpgsql AS $lease$
BEGIN
    locked := ARRAY(SELECT coalesce(pg_catalog.pg_try_advisory_lock(k.key), true)
                    FROM pg_catalog.unnest(keys) AS k (key));
    IF false = ANY (locked) THEN
        SELECT pg_catalog.array_agg(w.thread_id), pg_catalog.array_agg(w.lease_id)
        INTO thread_ids, lease_ids
        FROM unnest(thread_ids, lease_ids, locked) AS w (thread_id, lease_id, locked)
        WHERE w.locked;
        IF thread_ids IS NULL THEN
            RETURN;
        END IF;
    END IF;
    PERFORM pg_catalog.set_config('lock_timeout', '5', true);
-- include: checkpoints.raise_free
    INTO raised, tokens;
    -- greatest: of no thread at all, to plan it.
    IF pg_catalog.cardinality(raised) < greatest(pg_catalog.cardinality(thread_ids), 1) THEN
-- include: checkpoints.make_missing
        INTO made, unknown, waiting;
    END IF;
END $lease$

-- name: lease
-- params: thread_ids, lease_ids, keys
-- The function above.
SELECT pg_catalog.pg_backend_pid(), l.locked, l.raised, l.tokens, l.made, l.unknown, l.waiting
FROM pg_temp.aiodurable_lease(:thread_ids::text[], :lease_ids::bigint[], :keys::bigint[])
    AS l (locked, raised, tokens, made, unknown, waiting)

-- name: flags
-- params: lower_keys, raise_keys
-- No table. A waiter's flag is a shared lock on the same 64 bits in the key space of two integers:
-- it dies with the waiter. Each flag also takes one shared hold on a fixed marker lock (the letters
-- aiod, wait), so that a releaser can tell with one probe whether anybody waits. Answers which were
-- raised: not a flag that a releaser probes in that moment, nor any while one probes the marker.
-- The marker comes last: once it is held another hold needs no slot, so undo finds it held as often
-- as there are flags.
WITH down AS MATERIALIZED (
    SELECT CASE WHEN pg_catalog.pg_advisory_unlock_shared(
                         (u.key >> 32)::integer, (u.key << 32 >> 32)::integer)
                THEN pg_catalog.pg_advisory_unlock_shared(1634299748, 2002872692) END
    FROM pg_catalog.unnest(:lower_keys::bigint[]) AS u (key)
)
SELECT pg_catalog.pg_backend_pid(),
       ARRAY(SELECT CASE WHEN NOT pg_catalog.pg_try_advisory_lock_shared(
                                      (u.key >> 32)::integer, (u.key << 32 >> 32)::integer)
                         THEN false
                         WHEN pg_catalog.pg_try_advisory_lock_shared(1634299748, 2002872692)
                         THEN true
                         ELSE NOT pg_catalog.pg_advisory_unlock_shared(
                                      (u.key >> 32)::integer, (u.key << 32 >> 32)::integer) END
             FROM pg_catalog.unnest(:raise_keys::bigint[]) AS u (key)
             WHERE (SELECT pg_catalog.count(*) FROM down) >= 0)

-- name: undo
-- params: keys, flag_keys
-- No table. After a statement failed (53200): what it locked before is still locked.
SELECT pg_catalog.count(pg_catalog.pg_advisory_unlock(u.key))
FROM pg_catalog.unnest(:keys::bigint[]) AS u (key)
UNION ALL
SELECT pg_catalog.count(
           CASE WHEN pg_catalog.pg_advisory_unlock_shared(
                         (u.key >> 32)::integer, (u.key << 32 >> 32)::integer)
                THEN pg_catalog.pg_advisory_unlock_shared(1634299748, 2002872692) END)
FROM pg_catalog.unnest(:flag_keys::bigint[]) AS u (key)

-- name: release_all
-- No table. Everything that this session holds, before it closes.
SELECT pg_catalog.pg_advisory_unlock_all()

-- name: audit
-- params: believed
-- pg_locks, the rows of this backend (the function has no index: it reads them all), and
-- pg_stat_activity. The keys themselves are sent only if their number is not the one we believe to
-- hold. Then the slots of the server's lock table, which the whole cluster shares, and how many
-- lock sessions share it: those of our own role in full, and of each other role at most as many.
-- Several applications, each with a role of its own, may share the cluster, or even the database,
-- so other roles count. But any role that may connect can open sessions under this name, so one
-- role counts at most as much as ours: however many sessions it opens, our share stays at least
-- half of what it would be without it.
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN mine.held <> :believed::bigint THEN mine.keys END,
       pg_catalog.current_setting('max_locks_per_transaction')::bigint
           * (pg_catalog.current_setting('max_connections')::bigint
              + pg_catalog.current_setting('max_prepared_transactions')::bigint),
       (SELECT pg_catalog.sum(least(r.sessions, r.ours))::bigint
        FROM (SELECT pg_catalog.count(*) AS sessions,
                     pg_catalog.max(pg_catalog.count(*))
                         FILTER (WHERE pg_catalog.pg_get_userbyid(a.usesysid)
                                 = session_user) OVER () AS ours
              FROM pg_catalog.pg_stat_activity a
              WHERE a.application_name LIKE 'aiodurable:lock@%'
              GROUP BY a.usesysid) r)
FROM (SELECT pg_catalog.count(*) AS held,
             pg_catalog.array_agg(l.classid::bigint << 32 | l.objid::bigint) AS keys
      FROM pg_catalog.pg_locks l
      WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'advisory' AND l.objsubid = 1
        AND l.mode = 'ExclusiveLock' AND l.granted) AS mine

-- name: rights
-- Catalogue only. Whether this role may draw a token.
SELECT pg_catalog.has_sequence_privilege('aiodurable_lock_tokens', 'USAGE, UPDATE')

-- name: is_read_only
-- pg_settings. Whether transactions of other sessions are read-only by default: this one's are not.
SELECT s.reset_val = 'on' FROM pg_catalog.pg_settings s
WHERE s.name = 'default_transaction_read_only'
