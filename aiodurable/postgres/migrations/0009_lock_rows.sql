-- Leases of lock mode "rows": a row is a lease while its owner, a lock session, holds the advisory lock of that number (two
-- integers, exclusive). Unlogged: a crash empties it, and has ended every session as well. Rows come and go with their
-- leases, so it is vacuumed early; never truncated, for that would stop everybody.
CREATE UNLOGGED TABLE IF NOT EXISTS aiodurable_locks (
    key   bigint PRIMARY KEY,
    owner bigint NOT NULL,
    since timestamptz NOT NULL DEFAULT now()
) WITH (vacuum_truncate = off, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.1,
        autovacuum_vacuum_cost_delay = 0);
