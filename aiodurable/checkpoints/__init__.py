"""Checkpoints: LangGraph's rows, byte for byte, written by many runs at once and by nobody who lost
the right to.

A thread that is leased has a fence: a row with a token that every lease raises, and the lease's id.
A write of such a thread queues up in this process; a few writer connections flush whatever waits,
of all threads, as one statement (`writer.py`). That statement first locks the fence rows of the
tokens it carries, FOR SHARE and in thread_id order, then writes only rows of threads whose token it
found. So:

- a stale write changes nothing: it finds no row with its token, is left out of the batch alone, and
  raises `LeaseLostError`; a bump meanwhile waits for the batch, and a batch after a bump sees the
  new token;
- a lone write goes at once (there is no timer), and under load batches form by themselves while a
    commit is under way;
- a write succeeds only after the commit, and one thread's writes keep their order: a thread is in
  one batch at a time;
- a connection that dies in mid-batch is replaced and the same rows are sent again: they are
  idempotent, and the fence is checked again;
- the first write of a run through a new connection proves that the newest row acknowledged to the
  run is still there (`history.py`): a failover that lost commits ends the run.

A thread that nobody leased through this process goes through LangGraph's own statements, exactly as
with the stock saver.
"""

from aiodurable.checkpoints.pool import AsyncCheckpointerPool, create_checkpointer
from aiodurable.checkpoints.saver import DurableSaver

__all__ = ["AsyncCheckpointerPool", "DurableSaver", "create_checkpointer"]
