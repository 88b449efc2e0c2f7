"""The demo: a workflow is killed with SIGKILL in the middle, another process finishes it, nothing finished runs twice.

The workflow is a real one (`workflow`): it reads documents (`documents`), analyses their sections in parallel and
compares them (`analysis`), and writes a Markdown report (`report`).

Two processes run it (`worker`, each with its `job`). Each says what it begins and ends (`log`), and begins no step before
it is told to, so that what happens does not hang on luck or on the speed of a machine. `story` starts, tells and kills
them, asks for the thread itself as a third, and gathers `facts`, from what Postgres holds and what the processes said;
the promises are checked against those alone, and `screen` shows both.
"""
