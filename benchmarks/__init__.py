"""The programs behind the published figures: `python3 dev.py bench NAME`.

`all` writes every table of the docs, and `compare BASE` says what a change costs.

Each module that measures has a `main(argv)`; the others are its parts. The wheel does not hold
them.
"""
