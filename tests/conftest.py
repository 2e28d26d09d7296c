import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Each worker of `pytest -n` has one core: more threads than that only wait for each other.
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
