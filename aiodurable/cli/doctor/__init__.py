"""`aiodurable doctor`: whether this host can work on that Postgres, and what to change. It is made
for when it cannot.

A finding is `ok`; `warn`, it works, but something is weaker or slower than it need be; or `fail`,
it does not work so. Each check is one function that looks at one thing; `examination.py` has their
order, for some only make sense once others went well. A check that fails in a way nobody thought of
is a finding too, never a traceback.
"""
