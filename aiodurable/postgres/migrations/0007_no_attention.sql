-- Replaced by aiodurable_writes_noted.
DROP INDEX CONCURRENTLY IF EXISTS aiodurable_writes_attention
