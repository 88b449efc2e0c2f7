-- The leases among the rows of aiodurable_locks: those whose owner lives. `wanted` their keys, null: all of them. A function,
-- because a statement that names an unlogged table is refused on a standby before it has begun: there it answers none. Where
-- there are no such rows, pg_locks is not read.
CREATE OR REPLACE FUNCTION aiodurable_lock_rows(wanted bigint[])
RETURNS TABLE (key bigint, pid integer, since timestamptz)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED ROWS 1 AS $$
BEGIN
    IF pg_catalog.pg_is_in_recovery() THEN
        RETURN;
    ELSIF wanted IS NULL THEN
        IF EXISTS (SELECT FROM aiodurable_locks) THEN
            RETURN QUERY
            SELECT r.key, l.pid, r.since
            FROM aiodurable_locks r
            JOIN pg_catalog.pg_locks l ON l.classid::bigint << 32 | l.objid::bigint = r.owner
            WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.mode = 'ExclusiveLock' AND l.granted
              AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database());
        END IF;
    ELSIF EXISTS (SELECT FROM aiodurable_locks r WHERE r.key = ANY (wanted)) THEN
        RETURN QUERY
        SELECT r.key, l.pid, r.since
        FROM aiodurable_locks r
        JOIN pg_catalog.pg_locks l ON l.classid::bigint << 32 | l.objid::bigint = r.owner
        WHERE r.key = ANY (wanted)
          AND l.locktype = 'advisory' AND l.objsubid = 2 AND l.mode = 'ExclusiveLock' AND l.granted
          AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database());
    END IF;
END
$$;

-- Every lease of this database, whatever its lock mode: the key, and the backend that holds it. Advisory locks on one bigint
-- (objsubid 1; classid and objid are its halves), and rows. `since` is known of rows alone.
CREATE OR REPLACE VIEW aiodurable_leases AS
SELECT l.classid::bigint << 32 | l.objid::bigint AS key, l.pid, NULL::timestamptz AS since
FROM pg_catalog.pg_locks l
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ExclusiveLock' AND l.granted
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
UNION ALL
SELECT r.key, r.pid, r.since FROM aiodurable_lock_rows(NULL) r
