-- Every lease of this database: the key, and the backend that holds it. Advisory locks on one bigint (objsubid 1; classid
-- and objid are its halves).
CREATE OR REPLACE VIEW aiodurable_leases AS
SELECT l.classid::bigint << 32 | l.objid::bigint AS key, l.pid
FROM pg_catalog.pg_locks l
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ExclusiveLock' AND l.granted
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database());
