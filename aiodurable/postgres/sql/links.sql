-- name: plan_once
-- No table. The plan of a statement over arrays never depends on them, yet Postgres would plan it anew each time: a third of
-- the cost of a commit. Not through a proxy ($1 is the backend that was announced at connection): there the session is
-- somebody else's in a moment. A row tells that it was done. $1 is written in: the simple protocol has no parameters, and
-- needs no statement.
SELECT set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_seqscan', 'off', false),
       set_config('jit', 'off', false)
WHERE pg_backend_pid() = $1
