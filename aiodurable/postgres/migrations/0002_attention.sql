-- Threads that need a person or a retry, among millions that do not: errors and questions are rare rows.
CREATE INDEX CONCURRENTLY IF NOT EXISTS aiodurable_writes_attention
    ON checkpoint_writes (thread_id, checkpoint_id, channel)
    WHERE checkpoint_ns = '' AND channel IN ('__error__', '__interrupt__')
