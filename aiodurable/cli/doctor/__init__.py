"""`aiodurable doctor`: checks whether this host can use a Postgres server, and says what to change.

A finding is `ok`, `warn` (it works, but weaker or slower than it could) or `fail` (it does not
work). Each check is one function. `runner` orders them, because some need the results of others.
An unexpected error in a check is a finding, too, never a traceback.
"""
