"""Properties are searched in the same order everywhere; `--refresh` saves texts anew; runs are checked.

In the folders of `CHECKED` every run looks at every invariant as it goes, except in tests that are marked
`unchecked`: they plant a bug, or count events. Elsewhere that would cost several times the tests' time.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "same-everywhere", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same-everywhere")

CHECKED = ("golden", "laws", "runtime")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh", action="store_true", help="save golden texts anew")
    parser.addoption("--exhaustive", action="store_true", help="all cases of the longest laws, not a sample")


@pytest.fixture
def refresh(request: pytest.FixtureRequest) -> bool:
    """True when saved texts are to be written anew."""
    return bool(request.config.getoption("--refresh"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    if folder in CHECKED and item.get_closest_marker("unchecked") is None:
        os.environ["SIM_CHECK"] = "1"
    else:
        os.environ.pop("SIM_CHECK", None)


@pytest.fixture
def exhaustive(request: pytest.FixtureRequest) -> bool:
    """True when the longest laws go through all of their cases."""
    return bool(request.config.getoption("--exhaustive"))
