-- name: relations
-- params: names, kinds
-- pg_class_relname_nsp_index. The catalogue alone: even to read from a relation runs code of its
-- owner. kinds: the kinds (relkind) that each may be. A row for each that is visible on the search
-- path; `stranger` is a role whose code would run with our rights: the owner, or that of a function
-- which a trigger or a rule calls. No stranger is this role, a superuser, the owner of the database
-- or of the relation's schema, or, unless this role is a superuser, a role of which it is a member.
-- To a superuser the owner of a schema with the superuser's name is a stranger: a role that may
-- create schemas can put one of that name before all others, by "$user".
WITH self AS (
    SELECT r.oid, r.rolsuper AS super, r.rolname AS name FROM pg_catalog.pg_roles r
    WHERE r.rolname = current_user
),
found AS MATERIALIZED (
    SELECT c.oid, c.relname, c.relowner, n.nspname, n.nspowner,
           pg_catalog.strpos(w.kinds, c.relkind::text) > 0 AS expected,
           CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table'
                          WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                          WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence'
                          WHEN 'c' THEN 'type' ELSE 'index' END AS kind
    FROM unnest(:names::text[], :kinds::text[]) AS w (name, kinds)
    JOIN pg_catalog.pg_class c ON c.relname = w.name
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE pg_catalog.pg_table_is_visible(c.oid)
),
code AS (
    SELECT f.oid AS relation, f.relowner AS owner, NULL::oid AS function FROM found f
    UNION ALL
    SELECT f.oid, p.proowner, p.oid
    FROM found f
    JOIN pg_catalog.pg_trigger t ON t.tgrelid = f.oid
    JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
    UNION ALL
    SELECT f.oid, p.proowner, p.oid
    FROM found f
    JOIN pg_catalog.pg_rewrite r ON r.ev_class = f.oid
    JOIN pg_catalog.pg_depend d
      ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass::oid AND d.objid = r.oid
                               AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass::oid
    JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid
)
SELECT f.relname::text AS name, f.nspname::text AS schema, f.kind, f.expected, s.stranger,
       s.function
FROM found f
LEFT JOIN LATERAL (
    SELECT o.rolname::text AS stranger, c.function::pg_catalog.regprocedure::text AS function
    FROM code c
    JOIN pg_catalog.pg_roles o ON o.oid = c.owner
    CROSS JOIN self
    WHERE c.relation = f.oid
      AND NOT (c.owner = self.oid
               OR o.rolsuper
               OR c.owner = (SELECT d.datdba FROM pg_catalog.pg_database d
                             WHERE d.datname = pg_catalog.current_database())
               OR (c.owner = f.nspowner AND NOT (self.super AND f.nspname = self.name))
               OR (NOT self.super AND pg_catalog.pg_has_role(self.oid, c.owner, 'MEMBER')))
    ORDER BY c.function NULLS FIRST
    LIMIT 1
) s ON true
