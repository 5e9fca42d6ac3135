from __future__ import annotations

import math
import re

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from sim.inputs import quantities
from sim.inputs.quantities import (
    COMPUTE_RATE,
    LATENCY,
    LINK_RATE,
    MEMORY,
    RATE,
    SECONDS,
    Count,
    Fraction,
    QuantityKind,
)


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (LINK_RATE, "450 GB/s", 450e9),
        (LINK_RATE, "400 Gbit/s", 50e9),
        (LINK_RATE, "1 GiB/s", 2.0**30),
        (LINK_RATE, 450e9, 450e9),
        (LINK_RATE, "2 GB/minute", 2e9 / 60),
        (LINK_RATE, "10gigabyte / second", 10e9),
        (LATENCY, "3.4 us", 3.4e-6),
        (LATENCY, "3.4µs", 3.4e-6),
        (LATENCY, "120ns", 120e-9),
        (SECONDS, "2 h", 7200.0),
        (MEMORY, "80 GB", 80e9),
        (MEMORY, "80 GiB", 80 * 2.0**30),
        (COMPUTE_RATE, "989 TFLOP/s", 989e12),
        (COMPUTE_RATE, "989 TFLOPS", 989e12),
        (RATE, "2.5/s", 2.5),
        (RATE, "30 requests/minute", 0.5),
    ],
)
def test_a_quantity_is_read_into_its_base_unit(kind: QuantityKind, written: object, value: float) -> None:
    assert kind(written) == pytest.approx(value, rel=1e-15)


def test_a_microsecond_has_no_rounding_noise() -> None:
    assert LATENCY("3.4 us") == 3.4e-6
    for tenths in range(1, 100):
        assert LATENCY(f"{tenths / 10} us") == float(f"{tenths / 10}e-6")


@pytest.mark.parametrize(
    ("kind", "written", "says"),
    [
        (LINK_RATE, "450 GB", "'450 GB' is not a bandwidth: 'GB' is of another kind"),
        (LINK_RATE, "3 us", "of another kind"),
        (LATENCY, "450 GB/s", "'450 GB/s' is not a latency"),
        (RATE, "1 GB/s", "not a rate"),
        (LINK_RATE, "400 Gb/s", "bits or bytes"),
        (LINK_RATE, "400 Gbps", "bits or bytes"),
        (LINK_RATE, "5 parsec/s", "'parsec/s' is not a unit that is known here"),
        (LINK_RATE, "fast", "write a bandwidth in bytes/s or with a unit, as in '450 GB/s'"),
        (LINK_RATE, "", "is not a quantity"),
        (LINK_RATE, None, "is not a quantity"),
        (LINK_RATE, [450], "is not a quantity"),
        (LINK_RATE, True, "True is not a quantity"),
        (LINK_RATE, "-3 GB/s", "negative"),
        (LINK_RATE, -1, "negative"),
        (LINK_RATE, 0, "must be at least 1 kB/s"),
        (LINK_RATE, 450, "a bare number is in bytes/s"),
        (LINK_RATE, "900 TB/s", "must be at most 100 TB/s"),
        (LATENCY, "11 s", "must be at most 10 s"),
        (LATENCY, math.nan, "not a finite number"),
        (LATENCY, math.inf, "not a finite number"),
        (LATENCY, "1e999 s", "not a finite number"),
        (LATENCY, 10**400, "not a finite number"),
        (LATENCY, "nan", "is not a quantity"),
        (COMPUTE_RATE, 989, "must be at least 1 GFLOP/s"),
        (MEMORY, 80, "a bare number is in bytes"),
        (MEMORY, "80 " + "G" * 500, "has no unit of a memory"),
    ],
)
def test_a_wrong_quantity_is_refused_with_what_would_be_right(
    kind: QuantityKind, written: object, says: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as refusal:
        kind(written)
    assert len(str(refusal.value)) < 250


def test_a_field_takes_text_and_number_alike_and_says_so_in_its_schema() -> None:
    class Port(BaseModel):
        bytes_per_s: quantities.BytesPerSecond
        latency_s: quantities.LatencySeconds = 0.0

    assert Port(bytes_per_s="50 GB/s") == Port(bytes_per_s=50e9)  # type: ignore[arg-type]
    schema = Port.model_json_schema()["properties"]["bytes_per_s"]
    assert schema["anyOf"] == [{"type": "number"}, {"type": "string"}]
    with pytest.raises(ValidationError, match="of another kind"):
        Port(bytes_per_s="50 GB")  # type: ignore[arg-type]


def test_a_fraction_lies_between_0_and_1_and_may_be_a_percentage() -> None:
    fraction = TypeAdapter(Fraction)
    assert fraction.validate_python("82 %") == pytest.approx(0.82)
    assert fraction.validate_python(1) == 1.0
    for wrong in (1.1, -0.1, "0.5", math.nan, True, None):
        with pytest.raises(ValidationError):
            fraction.validate_python(wrong)


def test_a_count_is_a_whole_number() -> None:
    count = TypeAdapter(Count)
    assert count.validate_python(8) == 8
    assert count.validate_python(8.0) == 8
    for wrong in (8.5, -1, "8", True, None, 10**30, math.inf):
        with pytest.raises(ValidationError):
            count.validate_python(wrong)
