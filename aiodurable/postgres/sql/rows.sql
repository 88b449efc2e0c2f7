-- Lock mode "rows". Whoever writes the row of a key holds that key's gate for the length of the statement: an advisory lock
-- that is only ever tried, on the key's 64 bits # 7019263971491471714 (a space of its own beside flags and owners). So no
-- row lock and no insert of another statement is ever waited for, in whatever order keys come.

-- name: configure
-- No table. Statements are planned once, perhaps while the table is empty: by its key it is never read whole. A row that
-- came since the statement began is left alone; a stricter isolation would make an error of it.
SELECT pg_catalog.set_config('enable_seqscan', 'off', false),
       pg_catalog.set_config('default_transaction_isolation', 'read committed', false)

-- name: live
-- No table. From here to the session's end its rows are leases. $1 its number, never used before. Held twice: statements
-- give one back and take it again, which proves the other and touches nothing but the backend's own memory. Whatever else
-- can end a session's locks (DISCARD ALL, pg_advisory_unlock_all) ends both.
SELECT pg_catalog.pg_try_advisory_lock(($1::bigint >> 32)::integer, ($1 << 32 >> 32)::integer),
       pg_catalog.pg_try_advisory_lock(($1 >> 32)::integer, ($1 << 32 >> 32)::integer)

-- name: acquire
-- aiodurable_locks_pkey, and the token sequence. $1 owner, $2 keys, each once, $3 how many tokens for keys that stay locked.
-- A key can be had whose row is not there, or whose owner's lock is free. Probes and gates stand in a select list over a
-- materialised CTE and nowhere else (see locks.sql). What we see may be out of date: a row that came meanwhile, or changed
-- its owner, is left alone. Answers whether our own lock is
-- held, and with the keys that are ours and their tokens.
WITH seen AS MATERIALIZED (
    SELECT u.key, r.owner
    FROM unnest($2::bigint[]) AS u (key)
    LEFT JOIN LATERAL (SELECT k.owner FROM aiodurable_locks k WHERE k.key = u.key LIMIT 1) r ON true
),
open AS MATERIALIZED (
    SELECT s.key, s.owner,
           CASE WHEN CASE WHEN s.owner IS NULL THEN true
                          ELSE pg_catalog.pg_try_advisory_xact_lock_shared((s.owner >> 32)::integer,
                                                                           (s.owner << 32 >> 32)::integer) END
                THEN pg_catalog.pg_try_advisory_xact_lock(((s.key # 7019263971491471714) >> 32)::integer,
                                                          ((s.key # 7019263971491471714) << 32 >> 32)::integer)
                ELSE false END AS passed
    FROM seen s
),
taken AS (
    INSERT INTO aiodurable_locks AS r (key, owner)
    SELECT o.key, $1::bigint FROM open o WHERE o.passed
    ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, since = excluded.since
    WHERE (r.key, r.owner) IN (SELECT o.key, o.owner FROM open o)
    RETURNING key
)
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN pg_catalog.pg_advisory_unlock(($1 >> 32)::integer, ($1 << 32 >> 32)::integer)
            THEN pg_catalog.pg_try_advisory_lock(($1 >> 32)::integer, ($1 << 32 >> 32)::integer) ELSE false END,
       array_agg(t.key), array_agg(t.token),
       ARRAY(SELECT nextval('aiodurable_lock_tokens') FROM generate_series(1, $3::integer))
FROM (SELECT key, nextval('aiodurable_lock_tokens') AS token FROM taken) t

-- name: release
-- aiodurable_locks_pkey. $1 owner, $2 keys. Answers whether our own lock is held, with the keys whose gate somebody else
-- had (try again), the keys that are free now, and of each of these what became of it: 1 nobody waits, 2 somebody waits
-- and was notified. A key that is in neither was not ours.
WITH open AS MATERIALIZED (
    SELECT u.key, pg_catalog.pg_try_advisory_xact_lock(((u.key # 7019263971491471714) >> 32)::integer,
                                                       ((u.key # 7019263971491471714) << 32 >> 32)::integer) AS passed
    FROM unnest($2::bigint[]) AS u (key)
),
gone AS (
    DELETE FROM aiodurable_locks r
    WHERE r.key = ANY (ARRAY(SELECT o.key FROM open o WHERE o.passed)) AND r.owner = $1::bigint
    RETURNING r.key
)
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN pg_catalog.pg_advisory_unlock(($1 >> 32)::integer, ($1 << 32 >> 32)::integer)
            THEN pg_catalog.pg_try_advisory_lock(($1 >> 32)::integer, ($1 << 32 >> 32)::integer) ELSE false END,
       ARRAY(SELECT o.key FROM open o WHERE NOT o.passed),
       array_agg(t.key), array_agg(t.became)
FROM (SELECT g.key,
             CASE WHEN pg_catalog.pg_try_advisory_xact_lock((g.key >> 32)::integer, (g.key << 32 >> 32)::integer) THEN 1
                  ELSE (SELECT 2 FROM pg_catalog.pg_notify('aiodurable_lock', g.key::text)) END AS became
      FROM gone g) t

-- name: acquire_one
-- The same for one key, at half the start-up cost: aiodurable_locks_pkey and the token sequence. $1 owner, $2 key.
WITH open AS MATERIALIZED (
    SELECT s.owner,
           CASE WHEN CASE WHEN s.owner IS NULL THEN true
                          ELSE pg_catalog.pg_try_advisory_xact_lock_shared((s.owner >> 32)::integer,
                                                                           (s.owner << 32 >> 32)::integer) END
                THEN pg_catalog.pg_try_advisory_xact_lock((($2::bigint # 7019263971491471714) >> 32)::integer,
                                                          (($2 # 7019263971491471714) << 32 >> 32)::integer)
                ELSE false END AS passed
    FROM (SELECT (SELECT k.owner FROM aiodurable_locks k WHERE k.key = $2) AS owner OFFSET 0) s
),
taken AS (
    INSERT INTO aiodurable_locks AS r (key, owner)
    SELECT $2, $1::bigint FROM open o WHERE o.passed
    ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, since = excluded.since
    WHERE r.owner = (SELECT o.owner FROM open o)
    RETURNING true
)
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN pg_catalog.pg_advisory_unlock(($1 >> 32)::integer, ($1 << 32 >> 32)::integer)
            THEN pg_catalog.pg_try_advisory_lock(($1 >> 32)::integer, ($1 << 32 >> 32)::integer) ELSE false END,
       (SELECT nextval('aiodurable_lock_tokens') FROM taken)

-- name: release_one
-- The same for one key: aiodurable_locks_pkey. $1 owner, $2 key. Answers whether our own lock is held, whether the gate
-- was open, and what became of the key; null: it was not ours.
WITH open AS MATERIALIZED (
    SELECT pg_catalog.pg_try_advisory_xact_lock((($2::bigint # 7019263971491471714) >> 32)::integer,
                                                (($2 # 7019263971491471714) << 32 >> 32)::integer) AS passed
),
gone AS (
    DELETE FROM aiodurable_locks r
    WHERE r.key = $2 AND r.owner = $1::bigint AND (SELECT o.passed FROM open o)
    RETURNING r.key
)
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN pg_catalog.pg_advisory_unlock(($1 >> 32)::integer, ($1 << 32 >> 32)::integer)
            THEN pg_catalog.pg_try_advisory_lock(($1 >> 32)::integer, ($1 << 32 >> 32)::integer) ELSE false END,
       (SELECT o.passed FROM open o),
       (SELECT CASE WHEN pg_catalog.pg_try_advisory_xact_lock((g.key >> 32)::integer, (g.key << 32 >> 32)::integer) THEN 1
                    ELSE (SELECT 2 FROM pg_catalog.pg_notify('aiodurable_lock', g.key::text)) END
        FROM gone g)

-- name: undo
-- aiodurable_locks_pkey. Of a batch of which one statement found no room for a gate (53200). Without gates, for there may
-- still be none: where somebody looks at such a row at this very moment, one waits for the other's statement to end.
-- $1 owner, $2 keys.
DELETE FROM aiodurable_locks r WHERE r.key = ANY ($2::bigint[]) AND r.owner = $1::bigint

-- name: audit
-- aiodurable_locks and pg_locks, both whole. $1 owner, $2 how many keys it believes to hold: they are sent only if that is
-- not so. Then whether it lives, the room for locks in the server, and how many lock sessions share it. In passing some of
-- the rows go that were left behind by owners who are gone. An owner's lock is there before its rows are, and it never
-- comes back: a row that we see and whose owner's lock we do not see is nobody's.
WITH live AS MATERIALIZED (
    SELECT l.pid, l.classid::bigint << 32 | l.objid::bigint AS owner
    FROM pg_catalog.pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.mode = 'ExclusiveLock' AND l.granted
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
),
dead AS MATERIALIZED (
    SELECT d.key, d.owner, pg_catalog.pg_try_advisory_xact_lock(((d.key # 7019263971491471714) >> 32)::integer,
                                                       ((d.key # 7019263971491471714) << 32 >> 32)::integer) AS passed
    FROM (SELECT r.key, r.owner
          FROM aiodurable_locks r
          WHERE NOT EXISTS (SELECT 1 FROM live l WHERE l.owner = r.owner)
          LIMIT $3::integer) d
),
swept AS (
    DELETE FROM aiodurable_locks r
    WHERE r.key = ANY (ARRAY(SELECT d.key FROM dead d WHERE d.passed)) AND r.owner IN (SELECT d.owner FROM dead d)
)
SELECT pg_catalog.pg_backend_pid(),
       CASE WHEN mine.held <> $2::bigint THEN coalesce(mine.keys, '{}') END,
       pg_catalog.current_setting('max_locks_per_transaction')::bigint
           * (pg_catalog.current_setting('max_connections')::bigint
              + pg_catalog.current_setting('max_prepared_transactions')::bigint),
       (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.application_name LIKE 'aiodurable:lock@%'),
       EXISTS (SELECT 1 FROM live l WHERE l.owner = $1::bigint AND l.pid = pg_catalog.pg_backend_pid())
FROM (SELECT count(*) AS held, array_agg(r.key) AS keys FROM aiodurable_locks r WHERE r.owner = $1::bigint) AS mine
