from __future__ import annotations

from functools import cache

import pytest

import sim
from sim.catalog import load_topology
from sim.cost.collectives import engine_allreduce
from sim.cost.collectives.choice import CollectiveTiming, collective
from sim.cost.collectives.parameters import default_parameters
from sim.cost.network import Network
from tests.cost.small_graphs import NVLINK, servers

KIB, MIB, GIB = 2**10, 2**20, 2**30


@cache
def network(name: str, nodes: int | None = None) -> Network:
    return Network(load_topology(name, nodes=nodes).graph)


def all_reduce(
    name: str, ranks: int, n_bytes: float, library: str = "nccl", **options: str
) -> CollectiveTiming:
    there = network(name, 2 if ranks > 8 and name == "nd-h100-v5" else None)
    return collective(there, "all_reduce", n_bytes, there.gpus[:ranks], library=library, **options)


def test_vllm_uses_its_own_kernels_inside_a_node_and_nccl_elsewhere() -> None:
    def way(name: str, ranks: int, n_bytes: float) -> tuple[str, str]:
        timing = all_reduce(name, ranks, n_bytes, "auto")
        return timing.library, timing.algorithm

    assert way("nd-h100-v5", 8, 16 * KIB) == ("vllm", "one_shot")
    assert way("nd-h100-v5", 4, 4 * MIB) == ("vllm", "two_shot")
    assert way("nd-h100-v5", 8, 4 * MIB) == ("vllm", "multimem")
    assert way("nd-h100-v5", 8, GIB)[0] == "nccl"
    assert way("nd-h100-v5", 16, 16 * KIB)[0] == "nccl"
    assert way("nd-h100-v5", 3, 16 * KIB)[0] == "nccl"
    assert way("l40s-12", 2, 16 * KIB) == ("vllm", "one_shot")
    assert way("l40s-12", 4, 16 * KIB)[0] == "nccl"
    assert way("a100-x4-no-p2p", 2, 16 * KIB)[0] == "nccl"


def test_a_kernel_is_its_start_its_ranks_and_its_share_of_the_busiest_link() -> None:
    there = Network(servers())
    parameters = default_parameters()
    engine = parameters.architecture(there, there.gpus[0]).engines["vllm"]
    values = engine.kernels["two_shot"]
    curve = engine_allreduce.kernel_curve(there, "two_shot", there.gpus, engine, parameters)
    assert curve.latency_s(0.0) == pytest.approx(values.base_s + 8 * values.rank_s)
    wire_s = 2 * 7 / 8 / NVLINK
    assert curve.pace_s == pytest.approx(wire_s / values.efficiency + 1 / 8 / values.local_bytes_per_s)


def test_windows_are_in_order_of_size_and_empty_without_peer_to_peer() -> None:
    parameters = default_parameters()
    there = Network(servers())
    found = engine_allreduce.windows(there, "vllm", there.gpus, parameters)
    assert found
    assert [to_bytes for to_bytes, _ in found] == sorted(to_bytes for to_bytes, _ in found)
    staged = Network(servers(peer_to_peer=False))
    assert engine_allreduce.windows(staged, "vllm", staged.gpus, parameters) == []


def test_multimem_needs_a_switch_that_adds() -> None:
    assert engine_allreduce.usable(Network(servers()), "multimem", Network(servers()).gpus)
    plain = Network(servers(reduces=False))
    assert not engine_allreduce.usable(plain, "multimem", plain.gpus)
    assert engine_allreduce.usable(plain, "one_shot", plain.gpus)


@pytest.mark.parametrize(("kernel", "crossings"), [("one_shot", 3), ("two_shot", 4), ("multimem", 3)])
def test_a_kernel_waits_for_its_peers_so_many_times_one_after_the_other(kernel: str, crossings: int) -> None:
    parameters = default_parameters()

    def start_s(link_s: float) -> float:
        graph = load_topology("nd-h100-v5").graph.copy()
        for _, _, edge in graph.edges(data=True):
            if edge["link"] == "nvlink4":
                edge["latency_s"] = link_s
        there = Network(graph)
        engine = parameters.architecture(there, there.gpus[0]).engines["vllm"]
        return engine_allreduce.kernel_curve(there, kernel, there.gpus, engine, parameters).latency_s(0.0)

    assert start_s(6e-6) - start_s(5e-6) == pytest.approx(crossings * 2 * 1e-6)  # to the switch, and on


def test_one_shot_reads_whole_buffers_and_adds_its_own() -> None:
    there = Network(servers())
    parameters = default_parameters()
    engine = parameters.architecture(there, there.gpus[0]).engines["vllm"]
    values = engine.kernels["one_shot"]
    curve = engine_allreduce.kernel_curve(there, "one_shot", there.gpus, engine, parameters)
    assert curve.pace_s == pytest.approx(7 / NVLINK / values.efficiency + 1 / values.local_bytes_per_s)


@pytest.mark.parametrize(
    ("ranks", "n_bytes", "measured_us", "within"),
    [
        (16, 14_336, 5.0, 0.10),  # vLLM PR 46392
        (16, 8_385_000, 36.92, 0.04),  # vLLM PR 53318
        (8, 67_106_000, 180.87, 0.06),
        (4, 83_879_000, 209.26, 0.02),
        (8, 917_504, 14.0, 0.03),  # tokenspeed PR 1234
        (16, 917_504, 15.0, 0.03),
    ],
)
def test_kernels_over_nvlink_between_servers_take_what_was_measured(ranks, n_bytes, measured_us, within):
    timing = sim.collective("gb300-nvl72", "all_reduce", n_bytes, ranks, library="flashinfer")
    assert timing.total_s * 1e6 == pytest.approx(measured_us, rel=within)
    assert timing.algorithm == ("mnnvl_one_shot" if ranks * n_bytes <= 1 << 20 else "mnnvl_two_shot")


def test_nccl_takes_nine_times_as_long_on_sixteen_gpus_of_a_rack():
    """46 us of vLLM PR 46392, for a message of 14 kB."""
    assert sim.collective("gb300-nvl72", "all_reduce", 14_336, 16, library="nccl").total_s == pytest.approx(
        46e-6, rel=0.05
    )


def test_tensorrt_llm_has_them_and_vllm_calls_nccl():
    algorithms = {
        library: sim.collective("gb200-nvl72", "all_reduce", 14_336, 32, library=library).algorithm
        for library in ("trtllm", "flashinfer", "vllm")
    }
    assert algorithms == {"trtllm": "mnnvl_one_shot", "flashinfer": "mnnvl_one_shot", "vllm": "nvls"}


@pytest.mark.parametrize("rack", ["gb200-nvl72", "gb300-nvl72", "vr-nvl72"])
def test_kernels_that_map_their_peers_memory_end_at_a_server(rack: str):
    """`cudaIpcOpenMemHandle` knows no other server (vllm#52778, sglang#32339)."""
    for library in ("vllm", "sglang"):
        for n_bytes in (14_336, 524_288, 4 << 20):
            own = sim.collective(rack, "all_reduce", n_bytes, 4, library=library)
            assert own.library == library
            plain = sim.collective(rack, "all_reduce", n_bytes, 8, library="nccl")
            assert sim.collective(rack, "all_reduce", n_bytes, 8, library=library).total_s == plain.total_s
    between = sim.collective(rack, "all_reduce", 14_336, 8, library="trtllm")
    assert between.algorithm == "mnnvl_one_shot"
    # a rack whose trays hold eight is one server for them, and TensorRT-LLM has its own kernel there
    kyber = sim.collective("vr-kyber", "all_reduce", 14_336, 8, library="trtllm")
    assert kyber.algorithm == "one_shot"


def test_they_need_switches_that_multicast_and_ranks_that_they_are_built_for():
    rack = sim.load_topology("gb200-nvl72")
    plain = {**rack.parts, "nvswitch": rack.parts["nvswitch"].model_copy(update={"reduces": False})}
    deaf = sim.Topology.model_validate({**dict(rack), "parts": plain})
    for topology, ranks in ((deaf, 16), (rack, 12), (rack, 72)):
        assert sim.collective(topology, "all_reduce", 14_336, ranks, library="flashinfer").library == "nccl"
