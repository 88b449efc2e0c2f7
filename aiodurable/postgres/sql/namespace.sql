-- name: namespace
-- aiodurable_namespace: one row.
SELECT n.namespace FROM aiodurable_namespace n

-- name: declare
-- aiodurable_namespace_pkey.
INSERT INTO aiodurable_namespace (namespace) VALUES ($1) ON CONFLICT DO NOTHING
