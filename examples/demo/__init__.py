"""The demo: a workflow is killed with SIGKILL in the middle, another process finishes it, nothing
finished runs twice.

The workflow is a real one (`workflow`): it reads documents (`documents`), analyses their sections
in parallel and compares them (`analysis`), and writes a Markdown report (`report`).

Two processes run it (`worker`, each with its `job`). Each logs what it begins and ends (`log`), and
waits for a command before each step, so that the result does not depend on luck or on the speed of
a machine. `story` starts, commands and kills them, and tries to take the thread itself as a third
process. It gathers `facts` from Postgres and from the logs. The promises are checked against the
facts alone, and `screen` shows both.
"""
