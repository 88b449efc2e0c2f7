"""Runs: one durable run of a thread, from taking its lease to releasing it.

The steps of a run, and the module of each:

1. `acquire` and `lease`: acquire the lease, a lock on the thread and a fencing token that grows. If
   the lock is lost, the lease reacquires it and compares the token: an unchanged token proves that
   nobody held the lease in between. Otherwise it revokes the fence and cancels the body.
2. `plan`: look up the runs that a call concerns, and match its answers (`answers`) and its input
   (`same_input`) to them. `decision` is the pure table: thread status and arguments to action.
3. `graph_fit` and `graph_check`: before a resumption, check that the graph fits the stored
   superstep; `renamed_nodes` gives it its old names. `repair` makes failed tasks run again that
   LangGraph would skip.
4. `attempt_opener` and `ledger`: write the run's row before its graph starts; `attempt` closes it.
   `ledger_writes` sends these statements for many runs at once, `accepted` reads rows,
   `stored_value` encodes what a run was accepted with. `answer_delivery` passes answers to the
   graph, once `answer_rows` has stored them. `outcome` says how the attempt ended.
5. `run`: the order of these steps. `durable_run` has the calls on a run, `held_thread` begins and
   ends the attempt of each, `attempt_config` makes its config. `stored_result`: what a call
   returns when nothing has to run.

Beside them: `threads` and `thread_reads` (`durable.threads`), `fork`, `cancel`, `check`, `pruner`,
and `leader`, which gives a duty to one process of many. `graphs` binds a graph to the saver;
`services` are what a run uses, and `open_services` opens them.

A *run* is one accepted input on a thread until it completes; an *attempt* is one try of it. A run
keeps its run_id through crashes, failures and interrupts. Every checkpoint it writes has that id in
its metadata, so a successor can tell whether the input was consumed before the process died.
"""
