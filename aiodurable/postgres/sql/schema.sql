-- name: search_path
-- No table.
SELECT pg_catalog.current_setting('search_path') AS search_path

-- name: use_search_path
-- params: search_path
-- No table. Until the end of the transaction.
SELECT pg_catalog.set_config('search_path', :search_path, true)

-- name: create_schema
-- params: name
-- Catalog look-up. The statement that creates a schema which is missing, and no row otherwise: IF
-- NOT EXISTS needs the right to create one where it exists, too.
SELECT pg_catalog.format('CREATE SCHEMA %I', w.name) AS statement
FROM (SELECT :name::text AS name) w
WHERE w.name IS NOT NULL
  AND (SELECT true FROM pg_catalog.pg_namespace n WHERE n.nspname = w.name) IS NULL

-- name: version
-- aiodurable_migrations_pkey, backwards; and by key the name of the first step.
SELECT m.version, (SELECT f.name FROM aiodurable_migrations f WHERE f.version = 1) AS first
FROM aiodurable_migrations m
ORDER BY m.version DESC
LIMIT 1

-- name: langgraph_version
-- checkpoint_migrations_pkey, backwards.
SELECT v AS version FROM checkpoint_migrations ORDER BY v DESC LIMIT 1

-- name: try_lock
-- params: key
-- Never blocks; the transaction's end lets it go, and it may sit idle for as long as building an
-- index takes.
SELECT pg_catalog.pg_try_advisory_xact_lock(:key) AS got,
       pg_catalog.set_config('idle_in_transaction_session_timeout', '0', true)

-- name: create_migrations
-- Idempotent under the lock.
CREATE TABLE IF NOT EXISTS aiodurable_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.now()
)

-- name: record_migration
-- params: version, name
-- A step that ran but was killed before this line runs again: every step is idempotent.
INSERT INTO aiodurable_migrations (version, name) VALUES (:version, :name) ON CONFLICT DO NOTHING

-- name: record_langgraph_migration
-- params: version
-- As LangGraph's own setup records a migration; for SQL that is printed.
INSERT INTO checkpoint_migrations (v) VALUES (:version) ON CONFLICT DO NOTHING

-- name: invalid_indexes
-- Catalog look-up: invalid indexes of LangGraph's tables and of the ledger, those being built at
-- this moment excepted.
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY IF EXISTS %I.%I', n.nspname, c.relname)
    AS statement
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid
  AND t.oid IN (pg_catalog.to_regclass('checkpoints'), pg_catalog.to_regclass('checkpoint_blobs'),
                pg_catalog.to_regclass('checkpoint_writes'),
                pg_catalog.to_regclass('aiodurable_runs'))
  AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_progress_create_index p
                  WHERE p.index_relid = i.indexrelid)
