-- Replaced by aiodurable_runs_noted.
DROP INDEX CONCURRENTLY IF EXISTS aiodurable_runs_open
