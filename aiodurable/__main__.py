"""`python -m aiodurable`: the same as the command `aiodurable`."""

from aiodurable.cli import main

if __name__ == "__main__":
    main()
