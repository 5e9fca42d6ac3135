"""What a scenario names of its topology must be there."""

from __future__ import annotations

import re

import pytest

import sim
from sim.cost.network import Network
from sim.inputs.faults import Fault
from sim.scenario.references import faultable_places, faults_of_nothing, gpus_of_nothing

GRAPH = sim.load_topology("nd-h100-v5", nodes=2).graph


def test_a_fault_may_name_links_their_ends_chips_gpus_and_servers() -> None:
    places = faultable_places(Network(GRAPH))
    assert set(places) == {"link", "place", "gpu", "node"}
    assert places["node"] == ["node0", "node1"]
    assert len(places["gpu"]) == 16
    assert "node1.nvswitch3" in places["place"]  # a chip of a crossbar: no link of the network ends there


@pytest.mark.parametrize(
    ("fault", "key", "message"),
    [
        ({"gpu": "node0.gpu8"}, "gpu", "there is no gpu 'node0.gpu8'; there are .* and 8 more"),
        ({"node": "node2"}, "node", "there is no node 'node2'; there are node0, node1"),
        ({"replica": 3}, "replica", "there is no replica 3; 0 to 2 are"),
    ],
)
def test_a_fault_of_nothing_is_found_with_its_key(fault: dict[str, object], key: str, message: str) -> None:
    good = Fault.model_validate({"at_s": 0, "gpu": "node1.gpu7"})
    bad = Fault.model_validate({"at_s": 0, **fault})
    ((where, what),) = faults_of_nothing(GRAPH, [good, bad], 3)
    assert where == ("faults", 1, key)
    assert re.match(message, what), what


def test_a_kind_of_gpu_that_is_not_there_is_found_with_its_pool() -> None:
    ((where, what),) = gpus_of_nothing(GRAPH, {"a": "h100-sxm", "b": "h100"})
    assert where == ("pools", "b", "gpu")
    assert what.endswith("there are h100-sxm; did you mean 'h100-sxm'?")


def test_weights_that_come_from_no_place_are_refused_with_the_nearest() -> None:
    written = {"topology": "nd-h100-v5", "model": "llama-3-8b", "workload": "single-user"}
    message = r"recovery\.weights_from.*there is no place 'node0.host7'.*did you mean 'node0.host"
    with pytest.raises(sim.InputError, match=message):
        sim.with_changes(sim.Scenario.model_validate(written), {"recovery": {"weights_from": "node0.host7"}})
