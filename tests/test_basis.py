"""What an answer rests on: measured, borrowed, by the datasheet; and the band that says how far that goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import pytest

import sim
from sim import basis
from sim.catalog import load_gpu, load_topology
from sim.cost.kernels import formula
from sim.inputs.engine import Engine
from sim.inputs.gpu_kinds import distance, kind_of
from sim.inputs.hardware import Gpu
from sim.inputs.precision import Precision
from sim.results.basis import Basis, basis_lines, basis_notes, kernel_note, part_of, together, weighed
from tests.cost.small_graphs import servers, wire

# The datasheets of GPUs that no table here has: FLOP/s of bf16, bytes/s, SMs.
MI300X = {
    "hbm_bytes": "192 GB", "hbm_bytes_per_s": "5.3 TB/s", "sms": 304, "l2_bytes": "256 MB",
    "pcie_generation": 5, "flops": {"bf16": "1307 TFLOP/s", "fp16": "1307 TFLOP/s", "fp8": "2614 TFLOP/s"},
}  # fmt: skip
GB10 = {
    "hbm_bytes": "128 GB", "visible_hbm_bytes": "119 GiB", "hbm_bytes_per_s": "273 GB/s", "sms": 48,
    "l2_bytes": "24 MB", "pcie_generation": 5, "flops": {"bf16": "125 TFLOP/s", "nvfp4": "500 TFLOP/s"},
}  # fmt: skip


def box(gpu: str, datasheet: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """GPUs behind one host, as a user describes them."""
    return {
        "name": f"{gpu}-box",
        "parts": {
            "gpu": {"kind": "gpu", "count": 2, "model": gpu},
            "host": {"kind": "host", "latency_s": "0.4 us"},
        },
        "wires": [{"from": "gpu", "to": "host", "pattern": "all", "link": "pcie5-x16"}],
        "links": {"pcie5-x16": {"name": "pcie5-x16", "bytes_per_s": "63 GB/s", "efficiency": 0.85}},
        "gpus": {gpu: {"name": gpu, **datasheet}},
        **parts,
    }


def run(topology: Any, model: str = "llama-3-8b", **more: Any) -> Any:
    described = {"topology": topology, "model": model, "workload": "single-user", **more}
    return sim.simulate(sim.Scenario.model_validate(described))


# ---- GPUs


def test_a_run_on_a_measured_gpu_says_so_and_has_no_note() -> None:
    numbers = run("a100-x4").summary()
    assert numbers["basis"]["kernels"]["basis"] == "measured"
    assert numbers["basis"]["kernels"]["of"] == "a100-80gb-sxm"
    assert 0.0 < numbers["basis"]["kernels"]["median_error"] < 0.1
    assert "collectives" not in numbers["basis"]  # one GPU
    assert basis_notes(numbers) == []


def test_a_gpu_without_kernels_of_its_own_names_its_stand_in_and_has_a_wider_band() -> None:
    scenario = sim.Scenario.model_validate(
        {"topology": "a100-x4", "model": "llama-3-8b", "workload": "single-user"}
    )
    bare = sim.simulate(sim.with_changes(scenario, {"topology.gpus.a100-80gb-sxm.kernels": None}))
    assert bare.basis is not None
    assert (bare.basis.kernels.kind, bare.basis.kernels.of) == ("stand-in", "h100-sxm")
    measured, borrowed = (
        one.summary()["basis"]["bands"]["mean_tpot_ms"] for one in (sim.simulate(scenario), bare)
    )
    assert borrowed[1] / borrowed[0] > 1.5 * measured[1] / measured[0]
    assert any(
        "not measured on a100-80gb-sxm: kernels of h100-sxm stand in" in one
        for one in basis_notes(bare.summary())
    )


def test_a_table_of_ones_own_is_a_measurement() -> None:
    from sim.cost.kernels.measured import MeasuredKernels
    from sim.reading.measurements import Measurement

    sizes = {"m": 64, "n": 8192, "k": 8192, "dtype": "bf16"}
    table = MeasuredKernels(
        [Measurement("mine", "vllm", "gemm", "bf16", sizes, seconds=5e-5)], source="k.csv"
    )
    mine = load_gpu("h100-sxm").model_copy(update={"name": "mine", "kernels": None})
    assert (
        str(basis.kernel_basis(mine, table, "vllm", [("gemm", "bf16")], "dense"))
        == "measured on mine, table k.csv"
    )
    assert basis.kernel_basis(mine, len, "vllm", [("gemm", "bf16")], "dense").kind == "given"


@pytest.mark.parametrize(
    ("gpu", "kernel", "lender"),
    [
        (load_gpu("h100-sxm"), ("gemm", "bf16"), None),
        (load_gpu("h100-sxm"), ("gemm", "nvfp4"), "h100-sxm in bf16"),
        (load_gpu("l40s"), ("moe", "w4a8"), "rtx-pro-6000"),
        (load_gpu("b300-sxm"), ("gemm", "bf16"), "b200-sxm"),
        (load_gpu("h100-sxm").model_copy(update={"kernels": None}), ("gemm", "bf16"), "h100-sxm"),
        (load_gpu("h100-sxm").model_copy(update={"sms": 66}), ("gemm", "bf16"), "h100-sxm as shipped"),
    ],
)  # fmt: skip
def test_a_kernel_says_whose_constants_it_takes(
    gpu: Gpu, kernel: tuple[str, str], lender: str | None
) -> None:
    found = basis.kernel_basis(gpu, formula, "vllm", [kernel], "memory")
    assert (found.kind, found.of) == (("measured", gpu.name) if lender is None else ("stand-in", lender))
    assert found.band is not None
    assert found.n >= 10


def test_kernels_that_were_measured_under_another_engine_say_so_aloud() -> None:
    experts = [("moe", "fp8_block"), ("moe", "w4a8")]
    own = basis.kernel_basis(load_gpu("b200-sxm"), formula, "vllm", experts[:1], "memory")
    lent = basis.kernel_basis(load_gpu("b200-sxm"), formula, "vllm", experts[1:], "memory")
    both = basis.kernel_basis(load_gpu("b200-sxm"), formula, "sglang", [("gemm", "bf16"), *experts], "moe")
    assert (own.under, lent.under) == ("", "not measured under vllm: moe in w4a8 as under trtllm")
    assert (
        both.under == "not measured under sglang: moe in fp8_block as under vllm; moe in w4a8 as under trtllm"
    )
    assert kernel_note("b200-sxm", lent) == "on b200-sxm not measured under vllm: moe in w4a8 as under trtllm"
    assert part_of(lent.as_dict()) == lent
    untuned = basis.kernel_basis(load_gpu("h100-sxm"), formula, "vllm", [("moe", "fp8")], "memory")
    assert untuned.under == "not measured under vllm: moe in fp8 as under trtllm"


def test_the_farther_the_stand_in_the_wider_the_band() -> None:
    sheet = load_gpu("h100-sxm").model_copy(update={"kernels": None})
    widths = []
    for name in ("h20", "gb10", "mi300x", "my-own"):
        gpu = sheet.model_copy(update={"name": name})
        band = basis.kernel_basis(gpu, formula, "vllm", [("attention_decode", "bf16")], "memory").band
        assert band is not None
        widths.append(band[1] / band[0])
    hopper, nvidia, amd, unknown = widths
    assert hopper < nvidia < amd == unknown


def test_gpus_are_known_by_their_names() -> None:
    assert kind_of("rtx-5090") == ("nvidia", "blackwell rtx")
    assert distance("l4", "l40s") == "architecture"
    assert distance("", "h100-sxm") == "none"


# ---- published numbers of GPUs that were not measured lie inside


def test_qwen3_8b_on_one_mi300x_lies_in_its_band() -> None:
    """TPOT 9.42 ms and 2,701 tokens/s with 32 users of 1024/1024 (vllm-project/recipes, pull request 431)."""
    load = {
        "arrivals": {"kind": "closed_loop", "users": 32}, "prompt_tokens": 1024, "output_tokens": 1024,
        "requests": 64,
    }  # fmt: skip
    bands = run(box("mi300x", MI300X), "llama-3-8b", workload=load).summary()["basis"]["bands"]
    assert bands["mean_tpot_ms"][0] < 9.42 < bands["mean_tpot_ms"][1]
    assert bands["output_throughput"][0] < 2701 < bands["output_throughput"][1]


def test_llama_70b_on_one_gb10_lies_in_its_band() -> None:
    """4.0 to 4.2 tokens/s in NVFP4, one stream (dgx-spark-playbooks 79 and 91)."""
    load = {
        "arrivals": {"kind": "closed_loop", "users": 1},
        "prompt_tokens": 128,
        "output_tokens": 64,
        "requests": 2,
    }
    engine = {"max_model_len": 4096}
    result = run(
        box("gb10", GB10), "llama-3.1-70b", workload=load, engine=engine, precision={"weights": "nvfp4"}
    )  # fmt: skip
    low, high = result.summary()["basis"]["bands"]["output_throughput"]
    assert low < 4.0 < 4.2 < high


# ---- machines


def test_a_shipped_machine_is_measured_and_one_that_is_changed_or_drawn_is_described() -> None:
    shipped = load_topology("nd-h100-v5", nodes=2)
    assert basis.machine_origin(shipped) == "measured"
    assert basis.machine_origin(load_topology("hgx-b300")) == "idealised"
    assert basis.machine_origin(shipped.model_copy(update={"name": "mine"})) == "described"
    assert basis.machine_origin(shipped.model_copy(update={"peer_to_peer": False})) == "described"
    assert basis.machine_origin(sim.load_topology(nx.DiGraph(shipped.graph))) == "described"


def test_a_collective_on_a_described_machine_has_a_band_of_other_kinds_of_gpu(tmp_path: Path) -> None:
    own = sim.collective("nd-h100-v5", "all_reduce", 8e6, 8)
    assert (own.basis.kind, own.basis.of) == ("measured", "h100-sxm")
    other = sim.collective(load_topology("nd-h100-v5").model_copy(update={"acs": True}), "all_reduce", 8e6, 8)
    assert other.basis.kind == "stand-in"
    assert own.basis.band is not None
    assert other.basis.band is not None
    assert other.basis.band[1] / other.basis.band[0] > own.basis.band[1] / own.basis.band[0]
    assert sim.collective("nd-h100-v5", "all_reduce", 8e6, 8, library="none").basis.kind == "datasheet"


def test_collectives_between_servers_rest_on_the_one_cluster_that_was_measured() -> None:
    across = sim.collective("nd-h100-v5", "all_reduce", 8e6, nodes=2).basis
    assert (across.kind, across.of) == ("measured", "nd-h100-v5 over InfiniBand")
    assert "error of the fit" in str(across)
    assert sim.collective("hgx-b200", "all_reduce", 8e6, nodes=2).basis.kind == "stand-in"


def test_of_a_pcie_box_pairs_were_measured_and_of_nvlink_whole_servers() -> None:
    assert sim.collective("l40s-8", "all_reduce", 8e6, 2).basis.kind == "measured"
    assert sim.collective("l40s-8", "all_reduce", 8e6, 4).basis.kind == "measured"
    assert sim.collective("l40s-12", "all_reduce", 8e6, 4).basis.of == "pairs of l40s"
    assert sim.collective("hgx-h200", "all_reduce", 8e6, 8).basis.kind == "measured"
    assert sim.collective("hgx-b300", "all_reduce", 8e6, 8).basis.of == "b200, gb200"
    assert sim.collective("a100-x4", "all_reduce", 8e6, 4).basis.kind == "measured"
    assert (
        sim.collective("a100-x4-no-p2p", "all_reduce", 8e6, 4).basis.kind == "stand-in"
    )  # no NVLink is used
    who = basis.Collectives("l40s", "ada", 4)
    assert basis.collective_basis(who, "measured", "nccl").kind == "measured"
    assert basis.collective_basis(who, "idealised", "nccl").kind == "stand-in"


# ---- bands


def test_a_borrowed_part_widens_the_band_by_its_share_of_the_time() -> None:
    assert weighed({"memory": (3.0, (0.5, 2.0)), "host": (1.0, (1.0, 1.0))}) == (0.625, 1.75)
    assert weighed({}) == (1.0, 1.0)
    assert together((0.5, 2.0), (1.0, 1.0)) == pytest.approx((0.5, 2.0))
    low, high = together((0.5, 2.0), (0.5, 2.0))
    assert (low, high) == pytest.approx((2.0 ** -(2.0**0.5), 2.0 ** (2.0**0.5)))


def test_what_arrives_by_itself_bands_no_throughput() -> None:
    load = {
        "arrivals": {"kind": "constant", "rate_per_s": 1},
        "prompt_tokens": 64,
        "output_tokens": 8,
        "requests": 20,
    }
    assert set(run("nd-h100-v5", workload=load).summary()["basis"]["bands"]) == {
        "mean_tpot_ms",
        "mean_ttft_ms",
    }
    queued = {**load, "arrivals": {"kind": "burst"}}
    assert "output_throughput" in run("nd-h100-v5", workload=queued).summary()["basis"]["bands"]


def test_a_given_service_time_rests_on_nothing() -> None:
    engine = {"service_time": {"step_s": 0.1}}
    load = {
        "arrivals": {"kind": "constant", "rate_per_s": 1},
        "prompt_tokens": 1,
        "output_tokens": 1,
        "requests": 3,
    }
    result = run("nd-h100-v5", engine=engine, workload=load)
    assert result.basis is None
    assert "basis" not in result.summary()


def test_the_weakest_gpu_of_a_run_speaks_for_it_and_each_has_its_own() -> None:
    h100, mine = (
        load_gpu("h100-sxm"),
        load_gpu("h100-sxm").model_copy(update={"name": "mine", "kernels": None}),
    )
    model = sim.load_model("llama-3-8b")
    served = [basis.Served(gpu, model, Precision(), Engine()) for gpu in (h100, mine)]
    found = basis.run_basis(
        {"mean_tpot_ms": 10.0}, served, formula, (), load_topology("nd-h100-v5"), basis.Load("closed", 8)
    )
    assert found.kernels.kind == "stand-in"
    assert {name: one.kind for name, one in found.by_gpu.items()} == {
        "h100-sxm": "measured",
        "mine": "stand-in",
    }


def test_the_lines_name_every_part_and_every_band() -> None:
    written = {
        "kernels": Basis("measured", "h100-sxm", 50, 0.06, (0.9, 1.1), "shapes").as_dict(),
        "host": Basis("fitted", "for vLLM").as_dict(),
        "kernels_by_gpu": {},
        "bands": {"mean_tpot_ms": [9.4, 11.3]},
        "bands_of": "8 of 10 of 50 measured services",
    }  # fmt: skip
    assert basis_lines({"basis": written, "mean_tpot_ms": 10.2}) == [
        "Rests on: kernels measured on h100-sxm (held-out error 6 %); host fitted for vLLM",
        "Bands: TPOT 10.2 ms, 9.4 to 11.3 (8 of 10 of 50 measured services)",
    ]
    assert basis_lines({}) == basis_notes({}) == []


def test_host_and_memory_say_what_is_given_and_what_the_driver_reports() -> None:
    assert basis.host_basis(Engine()).kind == "fitted"
    assert basis.host_basis(Engine(step_gap_s=1e-3)).kind == "given"
    assert basis.host_basis(Engine.model_validate({"host": {"step_s": "1 ms"}})).kind == "given"
    assert basis.memory_basis(load_gpu("h100-sxm")).kind == "measured"
    bare = load_gpu("h100-sxm").model_copy(update={"visible_hbm_bytes": None})
    assert basis.memory_basis(bare).kind == "datasheet"
    told = load_gpu("h100-sxm").model_copy(update={"visible_hbm_bytes": 90e9})
    for mine in (told, load_gpu("h100-sxm").model_copy(update={"name": "mine"})):
        assert str(basis.memory_basis(mine)) == f"given by the description of {mine.name}"


def test_a_change_of_something_else_gives_no_host_times() -> None:
    scenario = sim.Scenario.model_validate(
        {"topology": "nd-h100-v5", "model": "llama-3-8b", "workload": "single-user"}
    )
    changed = sim.with_changes(scenario, {"engine.max_num_seqs": 8})
    assert basis.host_basis(changed.engine) == basis.host_basis(scenario.engine)
    assert basis.host_basis(changed.engine).kind == "fitted"


# ---- GPUs over PCIe


def test_a_described_server_over_pcie_has_the_band_of_measured_ones_in_tables_and_runs() -> None:
    large, small = (sim.collective("l40s-12", "all_gather", size, 12).basis for size in (2.0**28, 2.0**12))
    assert large.band is not None
    assert large.band[1] > 15.3
    assert small.band is not None
    assert small.band[1] < 2.0
    assert "measured servers over PCIe on both sockets" in str(large)
    assert "PCIe" not in str(sim.collective("l40s-8", "all_gather", 2.0**28, 8).basis)
    apart = basis.Collectives("l40s", "ada", 4, span="one socket")
    plain = basis.Collectives("l40s", "ada", 4)
    wide, narrow = (basis.collective_basis(who, "described", "nccl").band for who in (apart, plain))
    assert wide is not None
    assert narrow is not None
    assert wide[1] > 4.27 > narrow[1]
    numbers = run("l40s-12", engine={"tensor_parallel_size": 4}).summary()["basis"]
    assert numbers["collectives"]["band"][1] > 4.27
    (_, tpot), (_, ttft) = (numbers["bands"][f"mean_{name}_ms"] for name in ("tpot", "ttft"))
    assert ttft > tpot  # a prompt's messages are large, a token's are small


def test_a_collective_that_goes_over_nvlink_has_no_band_of_pcie() -> None:
    graph = servers(chips=0)
    for gpu in range(8):
        wire(graph, f"node0.gpu{gpu}", f"node0.gpu{(gpu + 1) % 8}", 250e9)
    ring, pairs = (sim.collective(graph, op, 2.0**26) for op in ("all_reduce", "all_to_all"))
    assert ring.pcie_span is None
    assert "PCIe" not in str(ring.basis)
    assert pairs.pcie_span == "both sockets"
    assert "PCIe" in str(pairs.basis)


# ---- launches


def test_steps_that_wait_for_launches_have_the_band_of_measured_hosts() -> None:
    eager = Engine(enforce_eager=True)
    assert basis._launches_band({"host": 5.0, "memory": 10.0}, eager) == (0.85, 1.42)
    assert basis._launches_band({"host": 1.0, "memory": 9.0}, eager) == (0.9, 1.42)
    assert basis._launches_band({"memory": 9.0}, eager) == (1.0, 1.0)
    assert basis._launches_band({"host": 5.0, "memory": 10.0}, Engine()) == (1.0, 1.0)
    given = Engine.model_validate({"enforce_eager": True, "host": {"launch_s": "10 us"}})
    assert basis._launches_band({"host": 5.0, "memory": 10.0}, given) == (1.0, 1.0)
    low, high = run("dgx-a100", engine={"enforce_eager": True}).summary()["basis"]["bands"]["mean_tpot_ms"]
    assert high / low > 1.5


def test_a_kv_cache_in_four_bits_was_measured_on_no_gpu() -> None:
    model = sim.load_model("llama-3-8b")
    for cache, kind in (("bf16", "measured"), ("fp8", "measured"), ("int4", "stand-in")):
        kernels = basis.kernels_of(model, Precision(kv_cache=cache))
        found = basis.kernel_basis(load_gpu("h100-sxm"), formula, "vllm", kernels, "dense")
        assert found.kind == kind, cache


# ---- what was not measured as a whole


@pytest.mark.slow
def test_a_machine_that_lost_a_switch_chip_was_not_measured_so() -> None:
    engine, chip = {"tensor_parallel_size": 8}, {"at_s": 0.01, "place": "node0.nvswitch1", "capacity": 0}
    late = {**chip, "at_s": 1e4}
    kinds = [
        run("nd-h100-v5", engine=engine, faults=faults).summary()["basis"]["collectives"]["basis"]
        for faults in ([], [chip], [late])
    ]
    assert kinds == ["measured", "stand-in", "measured"]


def test_services_of_other_kinds_of_models_stand_in_with_their_wider_band_and_say_so() -> None:
    gpu, model = load_gpu("h100-sxm"), sim.load_model("deepseek-v3")
    served = basis.Served(gpu, model, Precision(), Engine())
    found = basis.run_basis(
        {"mean_tpot_ms": 10.0}, [served], formula, (), load_topology("nd-h100-v5"), basis.Load("closed", 1)
    )
    errors = basis.service_errors("mean_tpot_ms", served, basis.Load("closed", 1))
    assert errors is not None
    assert "model" not in errors.of
    assert found.bands["mean_tpot_ms"] == tuple(10.0 * side for side in errors.nine_in_ten)
    assert "of all models" in found.points
    assert found.points.endswith("too few of latent-attention models")
