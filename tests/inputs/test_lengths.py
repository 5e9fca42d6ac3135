from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from sim.inputs.lengths import FixedLength, FixedWait, Lengths, UniformLength, Waits

LENGTHS: TypeAdapter[Any] = TypeAdapter(Lengths)
WAITS: TypeAdapter[Any] = TypeAdapter(Waits)


def test_a_plain_number_is_a_fixed_length_and_a_plain_time_a_fixed_wait() -> None:
    assert LENGTHS.validate_python(57) == FixedLength(tokens=57)
    assert WAITS.validate_python("2 s") == FixedWait(value_s=2.0)


def test_a_distribution_is_read_by_its_kind() -> None:
    written = {"kind": "uniform", "low": 100, "high": 900}
    assert LENGTHS.validate_python(written) == UniformLength(low=100, high=900)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("512", "is not a length; write a number of tokens"),
        (None, "is not a length"),
        ({"kind": "uniform", "low": 9, "high": 3}, "low = 9: must be at most high = 3"),
        ({"kind": "zipf", "exponent": 1, "low": 9, "high": 3}, "low = 9"),
        ({"kind": "lognormal", "mean": 5, "cv": 1, "low": 9, "high": 3}, "low = 9"),
        ({"kind": "empirical", "values": [1, 2], "weights": [1]}, "1 weights for 2 values"),
        ({"kind": "empirical", "values": [1, 2], "weights": [0, 0]}, "all weights are zero"),
        ({"kind": "trace"}, "not both"),
    ],
)
def test_a_length_that_cannot_be_is_refused_with_what_can(written: Any, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        LENGTHS.validate_python(written)


def test_waits_stand_in_order_too() -> None:
    with pytest.raises(ValidationError, match="low = 3: must be at most high = 1"):
        WAITS.validate_python({"kind": "uniform", "low_s": 3, "high_s": 1})
