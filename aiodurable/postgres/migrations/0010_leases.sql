-- Every lease of this database, whatever its lock mode: the key, and the backend that holds it. Advisory locks on one bigint
-- (objsubid 1; classid and objid are its halves), and rows of owners that live: who hold the lock of that number on two
-- integers (objsubid 2). `since` is known of rows alone. Where there are no rows, pg_locks is read once.
CREATE OR REPLACE VIEW aiodurable_leases AS
SELECT l.classid::bigint << 32 | l.objid::bigint AS key, l.pid, NULL::timestamptz AS since
FROM pg_catalog.pg_locks l
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ExclusiveLock' AND l.granted
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
UNION ALL
SELECT r.key, l.pid, r.since
FROM aiodurable_locks r
JOIN pg_catalog.pg_locks l ON l.classid::bigint << 32 | l.objid::bigint = r.owner
WHERE EXISTS (SELECT 1 FROM aiodurable_locks)
  AND l.locktype = 'advisory' AND l.objsubid = 2 AND l.mode = 'ExclusiveLock' AND l.granted
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database());
