"""The tests: `unit`, `integration` (real Postgres), `faults`, `contract`, `cli`, `examples`, and
what they share.
"""
