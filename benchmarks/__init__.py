"""What is claimed about speed, as programs that anybody can repeat: `aiodurable bench checkpoints|locks|memory|soak|status`.

Each module that measures offers `main(argv)`; the rest are its parts. In a wheel they are `aiodurable.benchmarks`, so
they import each other relatively.
"""
