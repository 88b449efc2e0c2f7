-- Beside the token a random number drawn for each lease: a token that a crash or a failover gives out twice is no lease of
-- the first holder's. With a constant default no row is rewritten; 0 is nobody's.
ALTER TABLE aiodurable_fences ADD COLUMN IF NOT EXISTS lease_id bigint NOT NULL DEFAULT 0;
