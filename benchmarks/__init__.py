"""The programs behind the published figures: `python3 dev.py bench
checkpoints|locks|memory|soak|status`.

Each module that measures has a `main(argv)`; the others are its parts. The wheel does not hold
them.
"""
