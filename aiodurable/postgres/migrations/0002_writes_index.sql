-- Threads that need a person or a retry, among millions that do not. Errors and questions are rare
-- rows: some 130 bytes for each. By channel first: where every thread once asked a question, the
-- few that failed are still found at once.
CREATE INDEX CONCURRENTLY IF NOT EXISTS aiodurable_writes_errors_interrupts_idx
    ON checkpoint_writes (channel, thread_id, checkpoint_id)
    WHERE checkpoint_ns = '' AND channel IN ('__error__', '__interrupt__')
