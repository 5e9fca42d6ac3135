from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sim.inputs.faults import Fault


def test_a_fault_takes_capacity_or_stops_engines() -> None:
    assert not Fault(at_s=1.0, link="a->b", capacity=0.5).stops_engines
    assert not Fault(at_s=1.0, place="node0.nic3").stops_engines
    assert Fault(at_s=1.0, replica=0).stops_engines
    assert Fault(at_s=1.0, node="node0").stops_engines


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({}, "write one of link, place, replica, gpu and node"),
        ({"link": "a->b", "gpu": "node0.gpu1"}, "not link and gpu"),
        ({"replica": 0, "capacity": 0.5}, "capacity applies to a link or a place; a replica"),
        ({"link": "a->b", "until_s": 1.0}, "until_s = 1: must be above at_s = 1"),
        ({"link": "a->b", "capacity": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_fault_of_nothing_or_of_two_things_is_refused(written: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Fault.model_validate({"at_s": 1.0} | written)
