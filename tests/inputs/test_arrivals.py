from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from sim.inputs.arrivals import Arrivals, ClosedLoop, Gamma, OnOff, Poisson

READ: TypeAdapter[Any] = TypeAdapter(Arrivals)


def test_the_kind_decides_which_process_is_read() -> None:
    assert READ.validate_python({"kind": "poisson", "rate_per_s": "2/s"}) == Poisson(rate_per_s=2.0)
    assert READ.validate_python({"kind": "closed_loop", "users": 3}) == ClosedLoop(users=3)


def test_a_coefficient_of_variation_is_a_burstiness() -> None:
    assert Gamma(rate_per_s=1.0, cv=2.0).shape == 0.25
    assert Gamma(rate_per_s=1.0, burstiness=0.25).shape == 0.25


def test_on_and_off_are_two_states() -> None:
    on, off = OnOff(on_rate_per_s=5.0, mean_on_s=1.0, mean_off_s=3.0).states
    assert (on.rate_per_s, on.mean_stay_s) == (5.0, 1.0)
    assert (off.rate_per_s, off.mean_stay_s) == (0.0, 3.0)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"kind": "gamma", "rate_per_s": 1}, "write either"),
        ({"kind": "gamma", "rate_per_s": 1, "cv": 1, "burstiness": 1}, "write either"),
        ({"kind": "mmpp", "states": [{"rate_per_s": 0, "mean_stay_s": 1}] * 2}, "every state has rate zero"),
        (
            {"kind": "time_varying", "pieces": [{"duration_s": 1, "rate_per_s": 0}]},
            "every piece has rate zero",
        ),
        ({"kind": "trace"}, "`name`"),
        ({"kind": "trace", "name": "a", "path": "b"}, "not both"),
    ],
)
def test_a_process_that_cannot_be_is_refused(written: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        READ.validate_python(written)
