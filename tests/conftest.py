"""Properties are searched in the same order everywhere; `--refresh` saves golden texts anew."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "same-everywhere", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same-everywhere")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh", action="store_true", help="save golden texts anew")


@pytest.fixture
def refresh(request: pytest.FixtureRequest) -> bool:
    """True when saved texts are to be written anew."""
    return bool(request.config.getoption("--refresh"))
