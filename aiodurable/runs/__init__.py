"""Runs: how a thread is taken, looked at, advanced, and let go.

The way of a thread_id through this room, and the file that knows each step:

1. `guard`: the lease. A lock on the thread, then a fencing token that grows; both together are the right to advance it.
   When the lock is lost the guard takes it again and compares the token: unchanged proves that nobody held the lease
   in between. Otherwise the fence is revoked, the graph asked to drain, and the body cancelled.
2. `resume`: the decision. A pure table from what the thread is and what the caller wants to what is done.
3. `ledger`: the record. One row a run, written before its graph starts and closed after, only by the attempt that
   holds the newest token.
4. `run`: the story that calls the other three, in order. Only it knows the order.

A *run* is one accepted input on a thread until it completes; an *attempt* is one try of it. A run keeps its run_id
through crashes, failures and interrupts; every checkpoint it writes carries that id in its metadata, which is how a
successor tells whether the stored input was consumed before the process died.
"""
