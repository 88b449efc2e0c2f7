"""Tests in random order: what one needs of another shows. `--order random`, and `--order SEED`
again.
"""

from __future__ import annotations

import os
import random
from itertools import groupby

import pytest

# so that xdist's processes, which must agree, draw no seeds of their own
_VARIABLE = "AIODURABLE_TEST_ORDER"


def seed(config: pytest.Config) -> str | None:
    """The seed of this run; None: the order of the files."""
    wanted = str(config.getoption("--order"))
    if wanted == "files":
        return None
    if wanted == "random":
        wanted = os.environ.setdefault(_VARIABLE, str(random.SystemRandom().randrange(10**6)))
    return wanted


def shuffle(items: list[pytest.Item], by: str) -> None:
    """Files in random order, and the tests of each; a file's tests stay together, for what its
    fixtures share.
    """
    drawn = random.Random(by)
    files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    drawn.shuffle(files)
    for tests in files:
        drawn.shuffle(tests)
    items[:] = [test for tests in files for test in tests]
