"""Links and chips that fail during a run: what slows down, what comes back, what is refused."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import simpy

from sim.catalog import list_workloads, load_topology
from sim.cost.collectives.choice import collective
from sim.cost.collectives.expert_exchange import ExpertChoice, exchange
from sim.cost.network import Network
from sim.inputs.errors import InputError, UnfinishedError
from sim.inputs.faults import Fault
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.faults import Losses
from sim.scenario import Scenario, load_scenario, with_changes
from sim.scenario.references import faultable_places
from sim.simulate import simulate
from tests.cost.small_graphs import servers


def scenario(topology: str = "nd-h100-v5", **rest: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "topology": topology,
            "model": "llama-3-8b",
            "engine": {"tensor_parallel_size": 8},
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": 1},
                "prompt_tokens": 4096,
                "output_tokens": 20,
                "requests": 3,
            },
            **rest,
        }
    )


def bytes_s(run: Scenario) -> float:
    """Time of the collectives' bytes, and what they lost to slower links."""
    blame = simulate(run).blame
    return float((blame["collective_bytes"] + blame["sharing"]).sum())


def test_a_link_at_half_its_capacity_makes_the_ring_through_it_twice_as_slow() -> None:
    whole = scenario(engine={"tensor_parallel_size": 8, "disable_custom_all_reduce": True})
    half = with_changes(whole, {"faults": [{"at_s": 0, "link": "node0.gpu3->nvlink0", "capacity": 0.5}]})
    assert bytes_s(half) > 1.3 * bytes_s(whole)


def test_a_lost_chip_costs_every_gpu_its_share_of_the_links() -> None:
    rack = scenario("gb200-nvl72")
    chip = with_changes(rack, {"faults": [{"at_s": 0, "place": "node0.nvswitch5"}]})
    links = simulate(chip).links
    nvlinks = links.filter(links["link"].str.contains("nvlink0"))["bytes_per_s"]
    built = simulate(rack).links
    before = built.filter(built["link"].str.contains("nvlink0"))["bytes_per_s"]
    assert (nvlinks / before).to_list() == pytest.approx([17 / 18] * 144)


@pytest.mark.slow
@pytest.mark.parametrize("until_s", [0.02, 0.0731])
def test_what_is_repaired_is_as_it_was_and_folding_does_not_show(until_s: float) -> None:
    fault = {"at_s": 0.01, "until_s": until_s, "place": "node0.gpu1", "capacity": 0.1}
    run = scenario(faults=[fault])
    folded, played = simulate(run), simulate(run, fold=False)
    assert folded.requests.equals(played.requests)
    assert folded.steps.equals(played.steps)
    whole = simulate(scenario())
    assert folded.end_s > whole.end_s
    last, of_whole = folded.requests.row(-1, named=True), whole.requests.row(-1, named=True)
    lasted, lasts = (one["finished_s"] - one["arrival_s"] for one in (last, of_whole))
    assert lasted == pytest.approx(lasts, rel=1e-9)


@pytest.mark.parametrize("fold", [True, False])
def test_an_engine_stops_before_a_step_that_would_end_at_that_instant(fold: bool) -> None:
    engine = {"service_time": {"step_s": 1.0}, "max_num_seqs": 1}
    fault = {"at_s": 2.0, "replica": 0}
    run = scenario(engine=engine, faults=[fault], on_failure="abort", time_limit_s=5.0)
    stopped = simulate(run, fold=fold)
    assert stopped.requests.row(0, named=True)["generated_tokens"] == 1


def test_a_run_that_waits_for_a_dead_link_says_so() -> None:
    dead = scenario(faults=[{"at_s": 0.01, "link": "nvlink0->node0.gpu2"}])
    with pytest.raises(UnfinishedError, match=r"nvlink0->node0\.gpu2, which is down"):
        simulate(dead)


def test_a_transfer_waits_for_its_link_to_come_back() -> None:
    down = scenario(faults=[{"at_s": 0.01, "until_s": 5.0, "link": "nvlink0->node0.gpu2"}])
    assert simulate(down).requests["finished_s"].min() > 5.0


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"place": "node0.gpu77"}, r"faults\[0\]\.place: there is no place .*did you mean 'node0.gpu7'\?"),
        (
            {"gpu": "gpu3"},
            r"faults\[0\]\.gpu: there is no gpu 'gpu3'; there are node0.gpu0, .*'node0.gpu3'\?",
        ),
        (
            {"node": "node1"},
            r"faults\[0\]\.node: there is no node 'node1'; there are node0; did you mean 'node0'",
        ),
        (
            {"link": "node0.gpu1->nvlink"},
            r"faults\[0\]\.link: .* and 66 more; did you mean 'node0.gpu1->nvlink0'",
        ),
        ({"replica": 1}, r"faults\[0\]\.replica: there is no replica 1; 0 is the only one$"),
    ],
)
def test_what_does_not_exist_is_refused_before_the_run_with_what_does(
    named: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        with_changes(scenario(), {"faults": [{"at_s": 0, **named}]})
    with pytest.raises(Exception, match="one link or of one place"):
        scenario(faults=[{"at_s": 0}])


def test_all_faults_of_nothing_come_at_once_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    faults = ["{at_s: 0, gpu: node0.gpu8}", "{at_s: 0, gpu: node0.gpu7}", "{at_s: 0, replica: 2}"]
    path.write_text(
        "topology: nd-h100-v5\nmodel: llama-3-8b\nreplicas: 2\n"
        f"workload: {list_workloads()[0]}\nfaults:\n" + "".join(f"  - {fault}\n" for fault in faults)
    )
    with pytest.raises(InputError) as refusal:
        load_scenario(path)
    first, last = refusal.value.problems
    assert (first.file, first.line, first.key) == (str(path), 6, "faults[0].gpu")
    assert (last.file, last.line, last.key) == (str(path), 8, "faults[2].replica")
    assert last.what == "there is no replica 2; 0 to 1 are"


def test_a_fault_that_nothing_can_have_felt_is_told_apart_from_one_that_was() -> None:
    """Two of eight GPUs serve, over NVLink and the host."""
    felt = [
        {"at_s": 0.01, "until_s": 0.02, "gpu": "node0.gpu1"},
        {"at_s": 0.01, "until_s": 0.02, "node": "node0"},
        {"at_s": 0.01, "until_s": 0.02, "replica": 0},
        {"at_s": 0.0, "place": "node0.gpu0", "capacity": 0.5},
        {"at_s": 0.0, "place": "node0.nvswitch0", "capacity": 0.5},
        {"at_s": 0.0, "link": "nvlink0->node0.gpu1", "capacity": 0.5},
    ]
    idle = [
        {"at_s": 0.01, "gpu": "node0.gpu2"},
        {"at_s": 0.0, "place": "node0.nic0"},
        {"at_s": 0.0, "link": "nvlink0->node0.gpu2"},
        {"at_s": 1e6, "replica": 0},
    ]
    run = simulate(scenario(engine={"tensor_parallel_size": 2}, faults=[*felt, *idle]))
    told = dict(run.faults_without_effect())
    assert list(told) == [
        ("faults", 6, "gpu"),
        ("faults", 7, "place"),
        ("faults", 8, "link"),
        ("faults", 9, "at_s"),
    ]
    assert told["faults", 6, "gpu"] == "nothing fails: no engine runs on node0.gpu2"
    without = simulate(scenario(engine={"tensor_parallel_size": 2}, faults=felt))
    assert run.requests.equals(without.requests)


CHIP = {"at_s": 0.0, "place": "node0.nvswitch1", "capacity": 0}
SLOWER_BY = 18 / 14
"""The chip has 4 of the 18 links of every GPU."""


@pytest.mark.parametrize(
    ("op", "library", "algorithm"),
    [
        ("all_reduce", "nccl", "ring"),
        ("all_reduce", "nccl", "nvls"),
        ("all_reduce", "nccl", "tree"),
        ("all_reduce", "vllm", "one_shot"),
        ("all_reduce", "vllm", "two_shot"),
        ("all_reduce", "vllm", "multimem"),
        ("all_to_all", "nccl", "direct"),
        ("send_recv", "nccl", "direct"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_a_dead_nvswitch_chip_slows_every_kernel_by_its_share_of_the_links(
    op: str, library: str, algorithm: str, beside: bool
) -> None:
    """As a machine does that was built without it; also while another transfer shares the links."""
    n_bytes = 2.0**28
    graph = load_topology("nd-h100-v5").graph

    def seconds(nvlink: float, dead: bool) -> float:
        changed = graph.copy()
        for _, _, edge in changed.edges(data=True):
            if edge["link"] == "nvlink4":
                edge["bytes_per_s"] *= nvlink
        network = Network(changed)
        demand = collective(
            network, op, n_bytes, network.gpus, library=library, algorithm=algorithm, protocol="auto"
        ).demand
        env = simpy.Environment()
        fabric = Fabric(env, network)
        done = fabric.start(demand)
        if beside:
            fabric.start(replace(demand, n_bytes=tuple(0.5 * n for n in demand.n_bytes), min_flow_s=0.0))
        if dead:
            for link in demand.links:
                fabric.set_capacity(link, network.capacity[link] * 14 / 18)
        env.run()
        return done.end_s - demand.latency_s

    assert seconds(1.0, True) == pytest.approx(seconds(14 / 18, False), rel=1e-3)
    assert seconds(1.0, True) == pytest.approx(SLOWER_BY * seconds(1.0, False), rel=0.05)


@pytest.mark.parametrize("phase", ["dispatch", "combine"])
@pytest.mark.parametrize("has_prefill", [False, True])
def test_expert_exchanges_feel_a_dead_chip(phase: Any, has_prefill: bool) -> None:
    network = Network(load_topology("nd-h100-v5").graph)
    demand = exchange(
        network, phase, network.gpus, 4096, 7168.0, ExpertChoice(256, 8), has_prefill=has_prefill
    )
    env = simpy.Environment()
    fabric = Fabric(env, network)
    done = fabric.start(demand)
    for link in demand.links:
        fabric.set_capacity(link, network.capacity[link] * 14 / 18)
    env.run()
    assert done.end_s - demand.latency_s == pytest.approx(SLOWER_BY * demand.flow_s(network.capacity))


def test_a_repaired_link_gives_back_the_whole_rate() -> None:
    """Half of the bytes at 14/18 of the rate, half at the whole."""
    network = Network(load_topology("nd-h100-v5").graph)
    demand = collective(network, "all_reduce", 2.0**28, network.gpus, library="nccl", algorithm="nvls").demand
    flow_s = demand.flow_s(network.capacity)
    env = simpy.Environment()
    fabric = Fabric(env, network)
    done = fabric.start(demand)

    def repair() -> Generator[simpy.Event, object, object]:
        for link in demand.links:
            fabric.set_capacity(link, network.capacity[link] * 14 / 18)
        yield env.timeout(demand.latency_s + SLOWER_BY * flow_s / 2)
        for link in demand.links:
            fabric.set_capacity(link, network.capacity[link])

    env.process(repair())
    env.run()
    assert done.end_s == pytest.approx(demand.latency_s + (SLOWER_BY + 1.0) * flow_s / 2)


@pytest.mark.slow
def test_a_chip_that_is_dead_from_the_start_is_a_machine_built_without_it() -> None:
    """Folded as any other machine, with the records of the played run."""
    dead = scenario(faults=[CHIP])
    folded, played = simulate(dead), simulate(dead, fold=False)
    assert folded.requests.equals(played.requests)
    assert folded.steps.equals(played.steps)
    built = with_changes(scenario(), {"topology.links.nvlink4.bytes_per_s": 25e9 * 14 / 18})
    ends = zip(folded.requests["finished_s"], simulate(built).requests["finished_s"], strict=True)
    for one, other in ends:
        assert one == pytest.approx(other, rel=1e-9)
    healthy = simulate(scenario()).requests
    ttft = (folded.requests["first_token_s"] - folded.requests["arrival_s"]).mean()
    assert ttft > 1.05 * (healthy["first_token_s"] - healthy["arrival_s"]).mean()


@pytest.mark.slow
def test_a_loss_for_good_folds_and_a_later_fault_beside_it_adds_up() -> None:
    later: dict[str, Any] = {"at_s": 0.05, "until_s": 0.08, "place": "node0.nvswitch0", "capacity": 0}
    run = scenario(faults=[CHIP, later])
    quiet: list[bool] = []

    def look(env: simpy.Environment, fabric: Fabric) -> Generator[simpy.Event, object, object]:
        quiet.extend(fabric.is_quiet((link,)) for link in range(len(fabric.links)))
        yield env.timeout(0.0)

    simulate(run, beside=[look])
    assert quiet
    assert all(quiet)
    folded, played = simulate(run), simulate(run, fold=False)
    assert folded.requests.equals(played.requests)
    capacity = folded.links.filter(folded.links["link"] == "node0.gpu0->nvlink0")["bytes_per_s"][0]
    lost = (later["until_s"] - later["at_s"]) / folded.end_s * 5 / 18  # the mean over the run
    assert capacity == pytest.approx(369e9 * (14 / 18 - lost))
    assert folded.end_s > simulate(scenario(faults=[CHIP])).end_s


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        ({"place": "spine2"}, {"leaf1->spines": 0.75, "spines->leaf6": 0.75, "node0.nic1->leaf1": 1.0}),
        ({"place": "spine2", "capacity": 0.5}, {"leaf1->spines": 0.875, "spines->leaf6": 0.875}),
        ({"link": "leaf1->spine2"}, {"leaf1->spines": 0.75, "spines->leaf1": 1.0, "leaf2->spines": 1.0}),
        ({"link": "leaf1->spines", "capacity": 0.5}, {"leaf1->spines": 0.5}),
    ],
)
def test_a_dead_spine_or_uplink_costs_its_share_of_the_way_up(
    fault: dict[str, Any], left: dict[str, float]
) -> None:
    network = Network(servers(nodes=4, chips=0, spines=4))
    assert next(iter(fault.values())) in [
        *faultable_places(network)["link"],
        *faultable_places(network)["place"],
    ]
    built = list(network.capacity)
    Losses(network, [Fault.model_validate({"at_s": 0.0, **fault})])
    for link, share in left.items():
        number = network.link_id[link]
        assert network.capacity[number] / built[number] == pytest.approx(share), link


def test_a_dead_trunk_of_a_static_fabric_is_all_its_links() -> None:
    graph = servers(nodes=4, chips=0, spines=2)
    for place in graph:
        graph.nodes[place]["routing"] = "static"
    graph.edges["leaf1", "spine0"]["count"] = 3
    network = Network(graph)
    losses = Losses(network, [Fault.model_validate({"at_s": 0.0, "link": "leaf1->spine0"})])
    assert [network.links[link] for link in losses.down] == [f"leaf1->spine0#{lane}" for lane in range(3)]
