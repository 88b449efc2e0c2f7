-- name: backend
-- No table. Who answers: another backend than was announced means that something stands in between.
SELECT pg_catalog.pg_backend_pid() AS pid

-- name: fall_silent
-- No table. $1 milliseconds, written in: the simple protocol has no parameters.
SET idle_session_timeout = $1

-- name: sees
-- pg_locks. $1 the key of a lock that another connection holds.
SELECT EXISTS (
    SELECT 1 FROM pg_catalog.pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.classid::bigint << 32 | l.objid::bigint = $1::bigint
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
) AS sees

-- name: now
-- No table. The server's clock.
SELECT pg_catalog.clock_timestamp() AS now

-- name: settings
-- pg_settings, by name. $1 the names; numbers are in the unit beside them.
SELECT name, setting, unit FROM pg_catalog.pg_settings WHERE name = ANY ($1::text[])

-- name: facts
-- pg_locks, pg_stat_database, pg_stat_activity and catalogues; -1 where no limit is set on the role or the database. Lock
-- sessions are counted as a lock session of this role counts them (locks.sql, audit); all of them if this role has none.
SELECT pg_catalog.current_setting('server_version') AS version,
       pg_catalog.current_setting('server_version_num')::integer AS version_num,
       pg_catalog.pg_is_in_recovery() AS standby,
       pg_catalog.inet_client_addr() IS NOT NULL AS over_tcp,
       (SELECT pg_catalog.sum(numbackends) FROM pg_catalog.pg_stat_database)::integer AS backends,
       (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user) AS role_limit,
       (SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) AS database_limit,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks WHERE NOT fastpath)::integer AS locks,
       (SELECT coalesce(pg_catalog.sum(least(r.sessions, r.ours)), 0)
        FROM (SELECT pg_catalog.count(*) AS sessions,
                     pg_catalog.max(pg_catalog.count(*))
                         FILTER (WHERE pg_catalog.pg_get_userbyid(a.usesysid) = session_user) OVER () AS ours
              FROM pg_catalog.pg_stat_activity a
              WHERE a.application_name LIKE 'aiodurable:lock@%'
              GROUP BY a.usesysid) r)::integer AS sessions

-- name: rights
-- Catalogues. Privileges that are wanted and missing on what is there: $1 relations, $2 the privilege on each.
SELECT want.relation, want.privilege
FROM unnest($1::text[], $2::text[]) AS want (relation, privilege)
WHERE CASE WHEN pg_catalog.to_regclass(want.relation) IS NULL THEN false
           WHEN want.privilege = 'USAGE' THEN NOT pg_catalog.has_sequence_privilege(want.relation, 'USAGE')
           ELSE NOT pg_catalog.has_table_privilege(want.relation, want.privilege) END

-- name: may_create
-- No table. Where tables would be made (null: the search path names no schema there is), and whether this role may.
SELECT pg_catalog.current_schema() AS schema,
       pg_catalog.has_schema_privilege(pg_catalog.current_schema(), 'CREATE') AS may

-- name: grants
-- Catalogues. $1 the role, $2 what it may do in the schema of the tables, $3 tables and sequences, $4 what with each. Where the
-- tables are, or would be made; no row: nowhere.
WITH place AS MATERIALIZED (
    SELECT coalesce((SELECT n.nspname
                     FROM pg_catalog.pg_class c
                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                     WHERE c.oid = pg_catalog.to_regclass('aiodurable_runs')::oid), pg_catalog.current_schema()) AS name
)
SELECT pg_catalog.format('GRANT CONNECT ON DATABASE %I TO %I', pg_catalog.current_database(), $1::text) AS statement
FROM place
WHERE name IS NOT NULL
UNION ALL
SELECT pg_catalog.format('GRANT %s ON SCHEMA %I TO %I', $2::text, name, $1) FROM place WHERE name IS NOT NULL
UNION ALL
SELECT pg_catalog.format('GRANT %s ON %s %I.%I TO %I', w.rights,
                         CASE w.rights WHEN 'USAGE' THEN 'SEQUENCE' ELSE 'TABLE' END, p.name, w.relation, $1)
FROM place p
CROSS JOIN unnest($3::text[], $4::text[]) AS w (relation, rights)
WHERE p.name IS NOT NULL

-- name: public
-- Catalogues. What everybody may: create in these schemas of the search path, connect to this database. 0 is PUBLIC.
SELECT ARRAY(SELECT n.nspname::text
             FROM pg_catalog.pg_namespace n
             CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) AS a
             WHERE n.nspname = ANY (pg_catalog.current_schemas(false)) AND a.grantee = 0::oid
               AND a.privilege_type = 'CREATE') AS creates,
       EXISTS (SELECT 1
               FROM pg_catalog.pg_database d
               CROSS JOIN LATERAL pg_catalog.aclexplode(
                   coalesce(d.datacl, pg_catalog.acldefault('d'::"char", d.datdba))) AS a
               WHERE d.datname = pg_catalog.current_database() AND a.grantee = 0::oid
                 AND a.privilege_type = 'CONNECT') AS connects
