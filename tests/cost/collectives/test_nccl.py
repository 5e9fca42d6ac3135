from __future__ import annotations

import csv
from functools import cache
from statistics import median

import pytest

from sim.calibration.collective_points import is_modelled, read_points
from sim.calibration.collectives import errors, shipped
from sim.catalog import load_topology
from sim.cost.collectives.choice import CollectiveTiming, collective
from sim.cost.collectives.parameters import default_parameters
from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError
from sim.reading.data_files import measured

DATA = measured() / "collectives"
KIB, MIB, GIB = 2**10, 2**20, 2**30


@cache
def network(name: str, nodes: int | None = None) -> Network:
    return Network(load_topology(name, nodes=nodes).graph)


def all_reduce(
    name: str, ranks: int, n_bytes: float, library: str = "nccl", **options: str
) -> CollectiveTiming:
    there = network(name, 2 if ranks > 8 and name == "nd-h100-v5" else None)
    return collective(there, "all_reduce", n_bytes, there.gpus[:ranks], library=library, **options)


# Measured all-reduce in us; medians over versions of NVIDIA's aiconfigurator tables.
MEASURED = {
    ("nd-h100-v5", 4, "vllm"): {16: 4.83, 128: 5.80, 1024: 12.8, 8192: 53.5, 65536: 330, 524288: 2305},
    ("nd-h100-v5", 8, "vllm"): {16: 5.31, 128: 7.86, 1024: 15.0, 8192: 50.7, 65536: 344, 524288: 2117},
    ("nd-h100-v5", 8, "trtllm"): {16: 3.56, 128: 6.20, 1024: 26.0, 8192: 79.4, 65536: 322, 524288: 2109},
    ("nd-h100-v5", 8, "nccl"): {16: 16.6, 128: 19.0, 1024: 25.4, 8192: 79.3, 65536: 324, 524288: 2111},
    ("a100-x4", 4, "vllm"): {16: 6.00, 128: 7.78, 1024: 18.3, 8192: 118, 65536: 540, 524288: 3721},
    ("a100-x4", 4, "nccl"): {16: 16.3, 128: 17.8, 1024: 29.8, 8192: 111, 65536: 544, 524288: 3716},
    ("l40s-12", 2, "nccl"): {128: 18.8, 1024: 74.8, 8192: 429, 65536: 3359, 524288: 26700},
    ("l40s-x8", 4, "nccl"): {16: 16.1, 128: 57.7, 8192: 2459, 65536: 19699, 524288: 156034},
    ("gb200-nvl72", 4, "vllm"): {16: 5.40, 128: 5.95, 1024: 12.5, 8192: 50.6, 65536: 203, 524288: 1458},
}


@pytest.mark.parametrize(("name", "ranks", "library"), MEASURED)
def test_all_reduce_times_are_within_15_percent_of_measured(name: str, ranks: int, library: str) -> None:
    for kib, microseconds in MEASURED[name, ranks, library].items():
        total_s = all_reduce(name, ranks, kib * KIB, library).total_s
        assert total_s == pytest.approx(microseconds * 1e-6, rel=0.15), f"{kib} KiB"


@pytest.mark.parametrize(
    ("name", "ranks", "n_bytes", "algorithm", "gigabytes_per_s"),
    [
        ("nd-h100-v5", 8, 8 * GIB, "ring", 367.5),
        ("nd-h100-v5", 8, 16 * GIB, "nvls", 480.0),
        ("a100-x4", 4, 512 * MIB, "auto", 217.0),
        ("l40s-12", 2, GIB, "auto", 20.0),
        ("a100-x4-no-p2p", 4, 64 * MIB, "auto", 8.85),
        ("nd-h100-v5", 16, 8 * GIB, "auto", 483.3),
    ],
)
def test_bus_bandwidth_of_large_messages_is_within_5_percent_of_measured(
    name: str, ranks: int, n_bytes: float, algorithm: str, gigabytes_per_s: float
) -> None:
    busbw = all_reduce(name, ranks, n_bytes, algorithm=algorithm).busbw_bytes_per_s
    assert busbw == pytest.approx(gigabytes_per_s * 1e9, rel=0.05)


def test_two_nodes_load_each_nic_with_32_gigabytes_per_s() -> None:
    timing = all_reduce("nd-h100-v5", 16, 8 * GIB)
    there = network("nd-h100-v5", 2)
    assert timing.algorithm == "nvls_tree"
    nics = [
        n
        for link, n in zip(timing.demand.links, timing.demand.n_bytes, strict=True)
        if "->leaf" in there.links[link]
    ]
    assert max(nics) / timing.total_s == pytest.approx(32.2e9, rel=0.05)


# NCCL's own formula for 2 x 8 H100, evaluated by hand from src/graph/tuning.cc.
@pytest.mark.parametrize(
    ("n_bytes", "microseconds"),
    [(128, 25.2), (16 * KIB, 26), (128 * KIB, 39), (512 * KIB, 54), (934_000, 58), (2 * MIB, 71)],
)
def test_two_nodes_take_what_nccl_s_own_formula_says(n_bytes: float, microseconds: float) -> None:
    assert all_reduce("nd-h100-v5", 16, n_bytes).total_s == pytest.approx(microseconds * 1e-6, rel=0.08)


def test_protocols_and_algorithms_follow_the_size() -> None:
    assert all_reduce("nd-h100-v5", 8, 4 * KIB).protocol == "LL"
    assert all_reduce("nd-h100-v5", 8, 64 * MIB).algorithm == "nvls"
    assert [all_reduce("a100-x4", 4, n).protocol for n in (16 * KIB, 256 * KIB, 64 * MIB)] == [
        "LL",
        "LL128",
        "Simple",
    ]
    assert [all_reduce("nd-h100-v5", 16, n).algorithm for n in (16 * KIB, 512 * KIB, GIB)] == [
        "tree",
        "tree",
        "nvls_tree",
    ]
    assert all_reduce("nd-h100-v5", 16, 512 * KIB).protocol == "LL128"
    assert all_reduce("l40s-12", 2, 8 * KIB).protocol == "LL"
    assert all_reduce("l40s-12", 2, 64 * MIB).protocol == "Simple"


def test_ll128_does_not_cross_pcie() -> None:
    with pytest.raises(InfeasibleError, match="protocol = 'LL128'"):
        all_reduce("l40s-12", 2, MIB, protocol="LL128")


def test_protocol_bytes_are_on_the_wire() -> None:
    bare = all_reduce("nd-h100-v5", 8, MIB, library="none", algorithm="ring").demand
    for protocol, wire in (("LL", 2.0), ("LL128", 128 / 120), ("Simple", 1.0)):
        timing = all_reduce("nd-h100-v5", 8, MIB, algorithm="ring", protocol=protocol)
        assert max(timing.demand.n_bytes) == pytest.approx(wire * max(bare.n_bytes), rel=1e-3)


def test_tcp_costs_122_us_and_7_6_gigabytes_per_s() -> None:
    described = load_topology("nd-h100-v5", nodes=2).model_copy(update={"inter_node": "tcp"})
    there = Network(described.graph)

    def seconds(n_bytes: float) -> float:
        return collective(there, "all_reduce", n_bytes, there.gpus).total_s

    assert seconds(16 * KIB) == pytest.approx(121.8e-6, rel=0.01)
    assert (934_000 - 16_384) / (seconds(934_000) - seconds(16_384)) == pytest.approx(7.6e9, rel=0.02)


def test_a_launch_from_python_takes_at_least_the_launch() -> None:
    small = all_reduce("nd-h100-v5", 8, 16 * KIB, "vllm", launch="eager")
    assert small.total_s == pytest.approx(20.7e-6, rel=0.02)
    assert small.demand.latency_s == small.latency_s
    large, graph = (all_reduce("nd-h100-v5", 8, GIB, "vllm", launch=launch) for launch in ("eager", "graph"))
    assert large.total_s == graph.total_s


def test_the_model_is_within_12_percent_of_the_median_measured_point() -> None:
    tables = read_points([DATA / "nccl.csv", DATA / "engines.csv"])
    measured = [point for point in tables if is_modelled(point)]
    found = errors(measured, shipped())
    assert len(found) > 400
    for system in {point.system for point, _ in found}:
        assert median(abs(error) for point, error in found if point.system == system) <= 0.12, system
    for low, high in ((0, 64 * KIB), (64 * KIB, 16 * MIB), (16 * MIB, 64 * GIB)):
        assert abs(median(error for point, error in found if low <= point.n_bytes < high)) < 0.05


def test_over_ten_nodes_the_model_is_within_20_percent_of_the_median_measured_point() -> None:
    with (DATA / "h100_cluster.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        there = network("nd-h100-v5", int(row["nodes"]))
        ranks = [
            f"node{node}.gpu{gpu}"
            for node in range(int(row["nodes"]))
            for gpu in range(int(row["gpus_per_node"]))
        ]
        timing = collective(there, row["op"], float(row["size_bytes"]), ranks, library="nccl")
        found.append(abs(timing.total_s / (float(row["latency_us_median"]) * 1e-6) - 1.0))
    assert median(found) < 0.10
    assert sorted(found)[int(0.9 * len(found))] < 0.30


CLUSTER = default_parameters().inter_node["nccl"]


def between_nodes(nodes: int, op: str, n_bytes: float, **options: str) -> CollectiveTiming:
    there = network("nd-h100-v5", nodes)
    return collective(there, op, n_bytes, there.gpus, library="nccl", **options)


@pytest.mark.parametrize(("nodes", "levels"), [(2, 1), (3, 2), (5, 3)])
def test_trees_start_with_their_hops_and_fill_with_their_levels(nodes: int, levels: int) -> None:
    tree, through_switch = CLUSTER["tree"]["LL"], CLUSTER["nvls_tree"]
    start_s = between_nodes(nodes, "all_reduce", 0.0, algorithm="tree", protocol="LL").latency_s
    hops_s = 2 * (7 * tree["hop_s"] + levels * tree["net_hop_s"])
    assert start_s == pytest.approx(tree["base_s"] + hops_s)
    start_s = between_nodes(nodes, "all_reduce", 0.0, algorithm="nvls_tree").latency_s
    assert start_s == pytest.approx(through_switch["base_s"] + 2 * levels * through_switch["net_hop_s"])
    switch = default_parameters().architecture(network("nd-h100-v5", nodes), "node0.gpu0").nccl.switch
    full_s = between_nodes(nodes, "all_reduce", 1e18, algorithm="nvls_tree").latency_s - start_s
    fill_s = switch.fill_s + 8 * switch.fill_rank_s + (levels - 1) * CLUSTER["level_fill_s"]
    assert full_s == pytest.approx(fill_s, rel=1e-6)
    tree, start_s, full_s = (
        CLUSTER["tree"]["Simple"],
        *(
            between_nodes(nodes, "all_reduce", n_bytes, algorithm="tree", protocol="Simple").latency_s
            for n_bytes in (0.0, 1e18)
        ),
    )
    assert full_s - start_s == pytest.approx((levels - 1) * CLUSTER["level_fill_s"], abs=1e-11)


@pytest.mark.parametrize(
    ("op", "steps", "crossings"), [("all_reduce", 46, 6), ("all_gather", 23, 2), ("reduce_scatter", 23, 2)]
)
def test_a_ring_over_three_nodes_crosses_between_them_in_so_many_of_its_steps(
    op: str, steps: int, crossings: int
) -> None:
    ring = CLUSTER["ring"]["Simple"]
    start_s = between_nodes(3, op, 0.0, algorithm="ring", protocol="Simple").latency_s
    inside_s = (steps - crossings) * max(ring["hop_s"], ring["post_s"])
    assert start_s == pytest.approx(ring["base_s"] + inside_s + crossings * ring["net_hop_s"])
    full_s = between_nodes(3, op, 1e18, algorithm="ring", protocol="Simple").latency_s
    assert full_s - start_s == pytest.approx(steps * ring["step_fill_s"], rel=1e-6)


def test_one_gpu_of_each_node_has_ll128_and_islands_of_unequal_size_have_rings_and_trees() -> None:
    there = network("nd-h100-v5", 2)
    pair = ("node0.gpu0", "node1.gpu0")
    for algorithm in ("ring", "tree"):
        timing = collective(there, "all_reduce", MIB, pair, "nccl", algorithm=algorithm, protocol="LL128")
        assert timing.protocol == "LL128"
    assert collective(there, "all_reduce", MIB, there.gpus[:12], "nccl").algorithm in ("ring", "tree")


def test_two_gpus_do_not_add_in_the_switch() -> None:
    with pytest.raises(InfeasibleError, match="on these ranks NCCL runs"):
        all_reduce("nd-h100-v5", 2, MIB, algorithm="nvls")
