-- name: namespace
-- aiodurable_namespace: one row.
SELECT (SELECT n.namespace FROM aiodurable_namespace n) AS namespace,
       pg_catalog.current_setting('transaction_read_only')::boolean AS read_only

-- name: declare
-- params: namespace
-- aiodurable_namespace_pkey.
INSERT INTO aiodurable_namespace (namespace) VALUES (:namespace) ON CONFLICT DO NOTHING
