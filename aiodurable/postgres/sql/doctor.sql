-- name: backend
-- No table. Who answers: another backend than was announced means that something stands in between.
SELECT pg_catalog.pg_backend_pid() AS pid

-- name: fall_silent
-- params: timeout_ms
-- No table. timeout_ms is written in: SET has no parameters.
SET idle_session_timeout = :timeout_ms

-- name: sees
-- params: key
-- pg_locks. Whether a lock that another connection holds is visible here.
SELECT EXISTS (
    SELECT 1
    FROM (
-- include: holders.lease_locks
    ) l
    WHERE l.key = :key::bigint
) AS sees

-- name: now
-- No table. The server's clock.
SELECT pg_catalog.clock_timestamp() AS now

-- name: settings
-- params: names
-- pg_settings, by name; numbers are in the unit beside them.
SELECT name, setting, unit FROM pg_catalog.pg_settings WHERE name = ANY (:names::text[])

-- name: compression
-- pg_settings. How this session has large values compressed, and whether lz4 is there.
SELECT setting AS method, 'lz4' = ANY (enumvals) AS has_lz4
FROM pg_catalog.pg_settings
WHERE name = 'default_toast_compression'

-- name: own_compression
-- params: relations
-- Catalogues. Columns of these relations that do not follow the session.
SELECT want.relation || '.' || a.attname::text AS name,
       CASE WHEN a.attstorage IN ('e', 'p') THEN 'none' WHEN a.attcompression = 'l' THEN 'lz4'
           ELSE 'pglz' END AS method
FROM pg_catalog.unnest(:relations::text[]) AS want (relation)
JOIN pg_catalog.pg_attribute a
  ON a.attrelid = pg_catalog.to_regclass(want.relation)::oid AND a.attnum > 0 AND a.attlen = -1
WHERE a.attcompression <> '' OR a.attstorage IN ('e', 'p')
ORDER BY 1

-- name: facts
-- pg_locks, pg_stat_database, pg_stat_activity and catalogues; -1 where no limit is set on the role
-- or the database. Lock sessions are counted as a lock session of this role counts them (locks.sql,
-- audit); all of them if this role has none.
SELECT pg_catalog.current_setting('server_version') AS version,
       pg_catalog.current_setting('server_version_num')::integer AS version_num,
       pg_catalog.pg_is_in_recovery() AS standby,
       pg_catalog.inet_client_addr() IS NOT NULL AS over_tcp,
       (SELECT pg_catalog.sum(numbackends) FROM pg_catalog.pg_stat_database)::integer AS backends,
       (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user) AS role_limit,
       (SELECT datconnlimit FROM pg_catalog.pg_database
        WHERE datname = pg_catalog.current_database()) AS database_limit,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks WHERE NOT fastpath)::integer AS locks,
       (SELECT coalesce(pg_catalog.sum(least(r.sessions, r.ours)), 0)
        FROM (SELECT pg_catalog.count(*) AS sessions,
                     pg_catalog.max(pg_catalog.count(*))
                         FILTER (WHERE pg_catalog.pg_get_userbyid(a.usesysid)
                                 = session_user) OVER () AS ours
              FROM pg_catalog.pg_stat_activity a
              WHERE a.application_name LIKE 'aiodurable:lock@%'
              GROUP BY a.usesysid) r)::integer AS sessions

-- name: rights
-- params: relations, privileges
-- Catalogues. Privileges that are wanted and missing on the relations there are.
SELECT want.relation, want.privilege
FROM unnest(:relations::text[], :privileges::text[]) AS want (relation, privilege)
WHERE CASE WHEN pg_catalog.to_regclass(want.relation) IS NULL THEN false
           WHEN want.privilege = 'USAGE'
               THEN NOT pg_catalog.has_sequence_privilege(want.relation, 'USAGE')
           ELSE NOT pg_catalog.has_table_privilege(want.relation, want.privilege) END

-- name: may_create
-- No table. Where tables would be made (null: the search path names no schema there is), and
-- whether this role may.
SELECT pg_catalog.current_schema() AS schema,
       pg_catalog.has_schema_privilege(pg_catalog.current_schema(), 'CREATE') AS may

-- name: grants
-- params: role, schema_rights, relations, relation_rights
-- Catalogues. Grants on the schema and on each relation. Where the
-- tables are, or would be made; no row: nowhere.
WITH place AS MATERIALIZED (
    SELECT coalesce((SELECT n.nspname
                     FROM pg_catalog.pg_class c
                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                     WHERE c.oid = pg_catalog.to_regclass('aiodurable_runs')::oid),
                     pg_catalog.current_schema()) AS name
)
SELECT pg_catalog.format('GRANT CONNECT ON DATABASE %I TO %I', pg_catalog.current_database(),
                         :role::text) AS statement
FROM place
WHERE name IS NOT NULL
UNION ALL
SELECT pg_catalog.format('GRANT %s ON SCHEMA %I TO %I', :schema_rights::text, name, :role)
FROM place WHERE name IS NOT NULL
UNION ALL
SELECT pg_catalog.format('GRANT %s ON %s %I.%I TO %I', w.rights,
                         CASE w.rights WHEN 'USAGE' THEN 'SEQUENCE'
                             ELSE 'TABLE' END, p.name, w.relation, :role)
FROM place p
CROSS JOIN unnest(:relations::text[], :relation_rights::text[]) AS w (relation, rights)
WHERE p.name IS NOT NULL

-- name: public
-- Catalogues. What everybody may: create in these schemas of the search path, connect to this
-- database. 0 is PUBLIC.
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
