-- What was written lately. Checkpoint ids sort by time and rows are stored in the order they came:
-- a block range index is a few kilobytes and costs a write nothing, where a btree would cost every
-- checkpoint of every app on this database.
CREATE INDEX CONCURRENTLY IF NOT EXISTS aiodurable_checkpoints_id_brin
    ON checkpoints USING brin (checkpoint_id) WITH (pages_per_range = 32, autosummarize = on)
