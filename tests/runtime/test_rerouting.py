"""Links that die under traffic: what stalls, goes another way, fails, and comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import simpy

from sim.catalog import load_topology
from sim.cost.collectives.choice import collective
from sim.cost.network import Network
from sim.inputs.recovery import Recovery
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.transfer import Bytes
from sim.scenario import Scenario
from sim.simulate import Result, simulate
from tests.laws.key_scenarios import small

NIC = {"at_s": 0.2, "place": "node0.nic3"}


def service(**rest: Any) -> Scenario:
    """Prompts that sixteen GPUs of two servers compute together, over one leaf switch."""
    return Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "nodes": 2,
            "model": small("llama-3-8b"),
            "engine": {"tensor_parallel_size": 8, "pipeline_parallel_size": 2},
            "workload": {
                "arrivals": {"kind": "constant", "rate_per_s": 20.0},
                "prompt_tokens": 4096,
                "output_tokens": 20,
                "requests": 30,
            },
            "recovery": {"transport_timeout_s": 1.0, "executor_timeout_s": 2.0},
            "time_limit_s": 20.0,
            **rest,
        }
    )


def with_both_ways(scenario: Scenario) -> Result:
    """The run, which is the same played op by op and keeps every invariant."""
    folded, played = simulate(scenario, check=True), simulate(scenario, fold=False)
    assert folded.requests.equals(played.requests)
    assert folded.steps.equals(played.steps)
    causes, of_played = folded.blame.to_numpy(), played.blame.to_numpy()
    assert np.allclose(causes, of_played, rtol=1e-6, atol=1e-9)
    return folded


def finished(result: Result) -> int:
    whole = result.requests.filter(result.requests["status"] == "finished")
    assert (whole["generated_tokens"] == whole["output_tokens"]).all()
    return len(whole)


def test_what_is_left_of_a_transfer_goes_the_other_way_and_what_went_stays() -> None:
    env = simpy.Environment()
    fabric = Fabric(env, {"a": 10.0, "b": 5.0})
    sent = fabric.transfer({"a": 100.0})
    beside = fabric.transfer({"b": 1000.0})
    env.run(until=4.0)
    fabric.set_capacity("a", 0.0)
    env.run(until=7.0)
    fabric.divert(sent, Bytes((1,), (100.0,)))
    env.run(until=40.0)
    fabric.check()
    carried = {row.link: row.n_bytes for row in fabric.rows()}
    assert carried["a"] == pytest.approx(40.0)
    assert sent.end_s == pytest.approx(7.0 + 60.0 / (5.0 / 2))  # it shares b
    assert not beside.triggered


def test_a_network_around_a_dead_nic_has_the_paths_of_a_machine_built_without_it() -> None:
    graph = load_topology("nd-h100-v5", nodes=2).graph
    network, built = Network(graph), Network(graph.subgraph(set(graph) - {"node0.nic3"}).copy())
    down = [link for link, ends in enumerate(network.ends) if set(ends) == {"node0.nic3", "leaf0"}][:1]
    around = network.without(down)
    for op in ("all_reduce", "all_to_all", "send_recv"):
        ranks = network.gpus if op != "send_recv" else ("node0.gpu3", "node1.gpu3")
        ways = []
        for one in (around, built):
            demand = collective(one, op, 2.0**24, ranks, library="nccl").demand
            on = {one.links[link]: n for link, n in zip(demand.links, demand.n_bytes, strict=True)}
            ways.append((on, demand.latency_s, demand.flow_s(one.capacity)))
        assert ways[0][0] == pytest.approx(ways[1][0])
        assert ways[0][1:] == pytest.approx(ways[1][1:])
    assert network.path("node0.gpu3", "node1.gpu3") != around.path("node0.gpu3", "node1.gpu3")


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({"tensor_parallel_size": 8, "pipeline_parallel_size": 2}, marks=pytest.mark.slow),
        {"tensor_parallel_size": 16},
        pytest.param(None, marks=pytest.mark.slow),
    ],
    ids=["pipeline", "tensor", "prefill and decode"],
)
def test_a_dead_nic_stalls_for_its_timeout_and_then_every_request_finishes(engine: Any) -> None:
    apart = {"prefill": {"role": "prefill"}, "decode": {"role": "decode"}}
    shape = {"engine": engine} if engine else {"engine": {"tensor_parallel_size": 8}, "pools": apart}
    result, without = with_both_ways(service(faults=[NIC], **shape)), simulate(service(**shape))
    assert finished(result) == finished(without) == 30
    assert np.isfinite(result.summary()["median_ttft_ms"])
    finished_s = np.sort(result.requests["finished_s"].to_numpy())
    silence_s = np.diff(finished_s).max()
    assert 0.9 < silence_s < 1.3
    carried = dict(zip(result.links["link"], result.links["n_bytes"], strict=True))
    as_built = dict(zip(without.links["link"], without.links["n_bytes"], strict=True))
    assert 0.0 < carried["node0.nic3->leaf0"] < 0.5 * as_built["node0.nic3->leaf0"]
    assert not result.faults_without_effect()


def test_a_nic_that_is_dead_from_the_start_stalls_nothing_and_costs_what_it_costs() -> None:
    result = simulate(service(faults=[{"at_s": 0.0, "place": "node0.nic3"}]))
    assert finished(result) == 30
    assert result.requests["finished_s"].max() < 3.0
    carried = dict(zip(result.links["link"], result.links["n_bytes"], strict=True))
    assert carried["node0.nic3->leaf0"] == 0.0
    assert not result.faults_without_effect()


def test_a_link_that_is_back_before_the_timeout_is_only_waited_for() -> None:
    result = simulate(service(faults=[{**NIC, "until_s": 0.9}]))
    assert finished(result) == 30
    assert not result.around


def test_without_another_way_the_engine_fails_and_starts_again_when_there_is_one() -> None:
    for fault in ({"place": "leaf0"}, {"place": "node0.nic3"}):
        how = {"transport_timeout_s": 1.0, "reroute": fault["place"] == "leaf0"}
        result = simulate(service(faults=[{**fault, "at_s": 0.2, "until_s": 5.0}], recovery=how))
        assert finished(result) == 30
        assert result.requests["resubmissions"].max() == 1
        assert result.requests["finished_s"].max() > 5.0
    never = simulate(service(faults=[{"at_s": 0.2, "place": "leaf0"}]))
    assert finished(never) < 30
    assert any("replica 0 has failed: its traffic has no way around" in line for line in never.unfinished)


def test_a_step_that_stands_still_within_a_server_is_given_up_and_the_other_replica_takes_over() -> None:
    result = simulate(
        service(
            engine={"tensor_parallel_size": 8},
            replicas=2,
            faults=[{"at_s": 0.2, "link": "nvlink0->node0.gpu2"}],
        )
    )
    assert finished(result) == 30
    assert result.requests["resubmissions"].max() == 1
    assert 2.2 < result.requests["finished_s"].max() < 4.0


def test_timeouts_are_those_of_the_transport() -> None:
    recovery = Recovery()
    assert recovery.stalls_s("infiniband") == pytest.approx(30.06, abs=0.01)
    assert recovery.stalls_s("tcp") == pytest.approx(924.6)
    assert Recovery(transport_timeout_s=2.0).stalls_s("tcp") == 2.0
