"""Writes checkpoints: LangGraph's rows, byte for byte, from many runs at once, fenced.

A leased thread has a fence: a row with a token, which every lease raises, and the lease's id. A
write of such a thread joins a queue of this process. A few writer connections commit the queued
writes of all threads, each batch as one statement (`group_commit`). The statement first locks the
fence rows of the batch, FOR SHARE and in thread_id order, and then writes only the rows of threads
whose token matches. So:

- A stale write changes nothing: its token does not match, so the statement leaves it out, and it
  raises `LeaseLostError`. A bump waits for a running batch, and a batch after a bump sees the new
  token.
- A single write goes at once: there is no timer. Under load, batches form while a commit runs.
- A write succeeds only after its commit, and the writes of a thread keep their order: a thread is
  in one batch at a time.
- If a connection dies during a batch, the same rows are sent again on a new one: they are
  idempotent, and the statement checks the fence again.
- The first write of a run through a new connection proves that the newest row acknowledged to the
  run still exists (`history`): a failover that lost commits ends the run.

Threads that this process has not leased are written with the stock saver's own statements.
"""

from aiodurable.checkpoints.pool import AsyncCheckpointerPool, create_checkpointer
from aiodurable.checkpoints.saver import DurableSaver

__all__ = ["AsyncCheckpointerPool", "DurableSaver", "create_checkpointer"]
