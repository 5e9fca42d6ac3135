from __future__ import annotations

import pytest

from sim.inputs.parts import ScaleOut, members, part_of


def test_a_selection_picks_members_of_a_part() -> None:
    assert part_of("gpu[0:4]") == part_of("gpu") == "gpu"
    assert members("gpu", 8) == range(8)
    assert members("gpu[3]", 8) == range(3, 4)
    assert list(members("gpu[2:6]", 8)) == [2, 3, 4, 5]
    assert list(members("gpu[1::3]", 8)) == [1, 4, 7]


@pytest.mark.parametrize("selection", ["gpu[8]", "gpu[4:9]", "gpu[5:5]"])
def test_a_selection_beyond_the_part_is_refused_with_its_indices(selection: str) -> None:
    with pytest.raises(ValueError, match="indices run from 0 to 7"):
        members(selection, 8)


def test_a_leaf_keeps_ports_for_the_way_up() -> None:
    scale_out = {"of": "nic", "link": "ndr", "latency_s": "0.3 us", "switch_ports": 64}
    assert ScaleOut.model_validate(scale_out | {"down_ports": 48}).down_ports == 48
    with pytest.raises(ValueError, match="32 keeps full bisection"):
        ScaleOut.model_validate(scale_out | {"down_ports": 64})


def test_oversubscription_and_down_ports_are_one_thing_said_twice() -> None:
    network = {"of": "nic", "link": "ndr", "latency_s": "0.3 us", "switch_ports": 64}
    assert ScaleOut.model_validate(network | {"oversubscription": 2}).ports_down == 42
    for more, told in (
        ({"oversubscription": 2, "down_ports": 40}, "both divide the ports of a leaf; keep one"),
        ({"oversubscription": 64}, "leaves none of 64 switch_ports to go up; 63 is the most"),
        ({"oversubscription": 0.5}, "greater than or equal to 1"),
        ({"routing": "random"}, "'adaptive' or 'static'"),
    ):
        with pytest.raises(ValueError, match=told):
            ScaleOut.model_validate(network | more)
