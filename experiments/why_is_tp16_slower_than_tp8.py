"""Why does Qwen2.5-72B answer a single user more slowly on sixteen H100 than on eight?

A public write-up served it with vLLM 0.17 on two Azure ND H100 v5 nodes in four ways: A (TP4) and B (TP8)
on one node, C (TP8 on each of two nodes as pipeline stages) and D (TP16 over both). It blames InfiniBand.
Here the four are simulated from one scenario file, then once more with what the write-up could not change:
host work that overlaps the GPUs, and InfiniBand that works.

Fitted to the write-up: the constant before the first token (`engine.frontend_s`, A and B), the host time of
an engine that does not schedule ahead (C), latency and rate of NCCL over TCP (D), and the memory that an
engine reserves (A and B). The time per token of A and B has nothing fitted to it, and one assumption: a gap
of 0.3 ms between steps, without which A is 5 % short and B 2 %. The what-ifs keep C's host time where they do
not overlap it, and fit nothing more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sim
from sim.cost.collectives.choice import collective
from sim.cost.network import Network
from sim.deployment import memory_of, shards_of
from sim.results.blame import CAUSES
from sim.views.answer import Answer, Row, tell
from sim.views.cause_bars import Bar, cause_bars
from sim.views.files import save_chart

SCENARIO = Path(__file__).with_name("qwen72b_two_nodes.yaml")
SOURCE = "'LLM Inference Across NVLink and InfiniBand', Qwen2.5-72B on two ND H100 v5"
OUTPUT_TOKENS = 512
GIB = 2.0**30

ONE_NODE = {"engine.pipeline_parallel_size": 1, "engine.executor": "mp"}
TWO_NODES = {"engine.pipeline_parallel_size": 1, "engine.tensor_parallel_size": 16}
CASES: dict[str, dict[str, Any]] = {
    "A: TP4": {**ONE_NODE, "engine.tensor_parallel_size": 4},
    "B: TP8": {**ONE_NODE, "engine.tensor_parallel_size": 8},
    "C: TP8 x PP2": {},
    "D: TP16": TWO_NODES,
}
# tok/s, s for 512 tokens, ms to the first token; ms per further token is (latency - TTFT) / 511.
PUBLISHED = {
    "A: TP4": (60.8, 8.42, 25.0),
    "B: TP8": (99.5, 5.14, 19.0),
    "C: TP8 x PP2": (67.5, 7.59, 25.8),
    "D: TP16": (34.3, 14.93, 58.5),
}
PUBLISHED_MEMORY = {"A: TP4": (34.01, 430_800), "B: TP8": (None, 1_300_336)}  # GiB of weights, KV tokens
# What was fitted to a published number: the one calibrated cause of each case.
FRONTEND = "engine.frontend_s, of A and B together"
HOST = "engine.host: 2.6 ms a step, 47 us a sequence, 1.9 ms a further stage"
TCP = "hop_s of the transport tcp-eth0, given the host time of C"
TCP_RATE = "efficiency of the link azure-ethernet"
SWITCHES = "rate of NVLS"
RESERVED = "memory reserved beside weights and activations"
FITTED: dict[str, dict[str, str]] = {
    "NCCL all-reduce, 8 GPUs": {"bus bandwidth": SWITCHES},
    "A: TP4": {"TTFT": FRONTEND, "KV cache": RESERVED},
    "B: TP8": {"TTFT": FRONTEND, "KV cache": RESERVED},
    "C: TP8 x PP2": {"TPOT": HOST, "latency": HOST, "throughput": HOST},
    "D: TP16": {"TPOT": TCP, "latency": TCP, "throughput": TCP, "TTFT": TCP_RATE},
}
C_AHEAD = "C, host work overlapped"
D_ON_INFINIBAND = "D on InfiniBand, NCCL's own model"
BOTH_MENDED = "D on InfiniBand, host work overlapped"
AHEAD = {"engine.async_scheduling": True}
WHAT_IF: dict[str, dict[str, Any]] = {
    C_AHEAD: AHEAD,
    D_ON_INFINIBAND: {**TWO_NODES, "engine.inter_node": "ib-nccl-model"},
    "D on InfiniBand, as often logged": {**TWO_NODES, "engine.inter_node": "ib-typical"},
    "D on InfiniBand without GPUDirect": {**TWO_NODES, "engine.inter_node": "ib-degraded"},
    BOTH_MENDED: {
        **TWO_NODES,
        "engine.inter_node": "ib-nccl-model",
        **AHEAD,
    },
}

NOTES = (
    (
        "'900 GB/s bisection' is one GPU's rate in both directions together. One direction is 450 "
        "GB/s, and the bisection of eight GPUs 1,800 GB/s per direction."
    ),
    (
        "482.5 GB/s is no rate on a wire, 'near the maximum' or not: a ring cannot pass 450 GB/s; "
        "NVSwitches that reduce can, and so can a tree over two nodes that have 400 GB/s of "
        "InfiniBand."
    ),
    "'34.01 GiB across 4 GPUs, ~8.5 each': it is 34 GiB on each, a quarter of 145.4 GB.",
    (
        "'Zero variance, so compute-bound': one request does one multiplication per weight it reads; "
        "its time goes into reading HBM."
    ),
    (
        "'7 us per transfer accumulates': 3.6 ms over 512 tokens, where C lost 2,450 ms against B. "
        "That is the engine's host work, which asynchronous scheduling hides and which Ray turns off."
    ),
    (
        "'Half the GPUs idle, so PP is slower': idle stages waste GPUs but delay nobody. The two "
        "stages together do for a token what TP8 does."
    ),
    (
        "'InfiniBand is 18 times slower than NVLink' compares one direction of a NIC with two of a "
        "GPU, and 16 kB at 50 GB/s is 0.33 us: rates explain nothing in decode."
    ),
    (
        "D needs 122 us for an all-reduce of 16 kB, five times what InfiniBand does. TCP over eth0 "
        "fits that and the slope to the first token; the containers had no InfiniBand devices. "
        "Inferred: no log shows it. Only the sum with host time is known: 1 ms more on the host is 6 us "
        "less per all-reduce."
    ),
    (
        "The engine pads the 57 prompt tokens to a graph of 64. D's time to the first token then implies "
        "7.6 GB/s over TCP, where 57 tokens would imply 6.6."
    ),
    (
        "Tokens per second are 512 over the whole latency; time per further token (TPOT) is (latency "
        "- TTFT) / 511."
    ),
)

# For the estimate by hand: an H100 streams weights at 0.886 of 3.35 TB/s; a layer has four products of
# 3.56 us start-up, four small kernels of 2.25 us and 12.4 us of attention; a step ends with 0.4 ms of
# sampling and gaps.
READ_BYTES, HBM_BYTES_PER_S, LAYERS = 142.9e9, 0.886 * 3.35e12, 80
LAYER_S, TAIL_S = (4 * 3.56 + 4 * 2.25 + 12.4) * 1e-6, 0.4e-3
ESTIMATE_WITHIN = 1.10


def by_hand_ms(ranks: int, all_reduce_s: float, host_s: float = 0.0) -> float:
    """Milliseconds per token: weights, start-up of a layer's kernels, two all-reduces a layer, the host."""
    read_s = READ_BYTES / ranks / HBM_BYTES_PER_S
    return 1e3 * (read_s + LAYERS * (LAYER_S + 2.0 * all_reduce_s) + TAIL_S + host_s)


BY_HAND_MS = {
    "A: TP4": by_hand_ms(4, 4.8e-6),
    "B: TP8": by_hand_ms(8, 5.3e-6),
    "C: TP8 x PP2": by_hand_ms(8, 5.3e-6, host_s=4.7e-3),
    "D: TP16": by_hand_ms(16, 122e-6, host_s=2.65e-3),
    C_AHEAD: by_hand_ms(8, 5.3e-6),
    D_ON_INFINIBAND: by_hand_ms(16, 25e-6, host_s=2.65e-3),
    "D on InfiniBand, as often logged": by_hand_ms(16, 40e-6, host_s=2.65e-3),
    BOTH_MENDED: by_hand_ms(16, 25e-6),
}


def answer(quick: bool) -> Answer:
    """Why does Qwen2.5-72B answer more slowly on sixteen H100 than on eight? Four ways, and what-ifs."""
    base = sim.load_scenario(SCENARIO)
    if quick:
        base = sim.with_changes(base, {"workload.requests": 1})
    scenarios = {case: sim.with_changes(base, changes) for case, changes in {**CASES, **WHAT_IF}.items()}
    results = {case: sim.simulate(scenario) for case, scenario in scenarios.items()}
    summaries = {case: result.summary() for case, result in results.items()}

    rows = _nccl_rows()
    for case in CASES:
        rows += _memory_rows(case, scenarios[case])
        rows += _serving_rows(case, summaries[case])
    for case in WHAT_IF:
        rows.append(_row(case, "throughput", "tok/s", None, summaries[case]["output_throughput"]))
        rows.append(_row(case, "TPOT", "ms", None, summaries[case]["mean_tpot_ms"], BY_HAND_MS.get(case)))
        rows.append(_row(case, "TTFT", "ms", None, summaries[case]["mean_ttft_ms"]))

    rate = {case: f"{numbers['output_throughput']:.0f}" for case, numbers in summaries.items()}
    takeaway = (
        "The second node costs two things, and neither is InfiniBand: host work that no longer overlaps the "
        f"GPUs (C: {rate['C: TP8 x PP2']} tok/s, {rate[C_AHEAD]} with it overlapped) and all-reduces over "
        f"TCP (D: {rate['D: TP16']} tok/s, {rate[D_ON_INFINIBAND]} on InfiniBand). With both mended sixteen "
        f"GPUs give one user {rate[BOTH_MENDED]} tok/s and eight give {rate['B: TP8']}: what TP16 saves in "
        "reading weights it pays in 160 all-reduces per token."
    )

    def charts(folder: Path) -> list[Path]:
        return [_picture(results, folder / "why_is_tp16_slower_than_tp8.png")]

    return Answer("Why is TP16 slower than TP8?", tuple(rows), takeaway, NOTES, charts)


def _row(
    case: str,
    quantity: str,
    unit: str,
    published: float | None,
    simulated: float,
    estimate: float | None = None,
) -> Row:
    if published is None:
        return Row(case, quantity, unit, None, simulated, estimate=estimate)
    fitted = FITTED.get(case, {}).get(quantity)
    source = f"{SOURCE}; fitted to it: {fitted}" if fitted else SOURCE
    return Row(
        case, quantity, unit, published, simulated, "fitted" if fitted else "predicted", source, estimate
    )


def _nccl_rows() -> list[Row]:
    """The all-reduces that were measured before any model was served."""
    n_bytes, rows = 8 * GIB, []
    for nodes, published in ((1, 482.5), (2, 483.3)):
        network = Network(sim.load_topology("nd-h100-v5", nodes=nodes).graph)
        timing = collective(network, "all_reduce", n_bytes, network.gpus, library="nccl")
        case = f"NCCL all-reduce, {len(network.gpus)} GPUs"
        rows.append(_row(case, "bus bandwidth", "GB/s", published, timing.busbw_bytes_per_s / 1e9))
    loads = zip(timing.demand.links, timing.demand.n_bytes, strict=True)
    nic_bytes = max(amount for link, amount in loads if ".nic0->leaf" in network.links[link])
    # two nodes send each other one buffer through eight NICs; bus bandwidth is 1.875 times size over time
    estimate = 483.3 / 1.875 / 8
    load = nic_bytes / timing.total_s / 1e9
    rows.append(_row(case, "load of one NIC, per direction", "GB/s", None, load, estimate))
    return rows


def _memory_rows(case: str, scenario: sim.Scenario) -> list[Row]:
    """What an engine reports at start-up: weights on a GPU, and the tokens that its KV cache holds."""
    if case not in PUBLISHED_MEMORY:
        return []
    pool = scenario.all_pools[""]
    gpus = tuple(scenario.topology.graph.graph["gpus"])[: pool.engine.world_size]
    memory, _ = memory_of(pool, shards_of(pool, scenario, gpus))
    weights, kv_tokens = PUBLISHED_MEMORY[case]
    return [
        _row(case, "weights on a GPU", "GiB", weights, memory.weight_bytes / GIB),
        _row(case, "KV cache", "tokens", kv_tokens, memory.blocks * pool.engine.block_size),
    ]


def _serving_rows(case: str, numbers: dict[str, Any]) -> list[Row]:
    throughput, latency_s, ttft_ms = PUBLISHED[case]
    tpot_ms = (1e3 * latency_s - ttft_ms) / (OUTPUT_TOKENS - 1)
    quantities = (
        ("throughput", "tok/s", throughput, numbers["output_throughput"], None),
        ("latency", "s", latency_s, numbers["mean_e2el_ms"] / 1e3, None),
        ("TPOT", "ms", tpot_ms, numbers["mean_tpot_ms"], BY_HAND_MS[case]),
        ("TTFT", "ms", ttft_ms, numbers["mean_ttft_ms"], None),
    )
    return [_row(case, *quantity) for quantity in quantities]


def _picture(results: dict[str, sim.Result], path: Path) -> Path:
    bars = []
    for case, result in results.items():
        blame = result.blame
        parts = {cause: 1e3 / OUTPUT_TOKENS * float(blame[cause].to_numpy().mean()) for cause in CAUSES}
        measured = 1e3 / OUTPUT_TOKENS * PUBLISHED[case][1] if case in PUBLISHED else None
        bars.append(Bar(case if case in CASES else f"what if: {case}", parts, measured))
    chart = cause_bars(
        bars,
        title="The second node adds host work (C) and all-reduces over TCP (D)",
        subtitle=[
            "Qwen2.5-72B in fp16, one request at a time, 57 tokens in, 512 out, on ND H100 v5",
            "bars: simulated, by cause; ticks: measured with vLLM 0.17; C and D have one fitted cause each",
        ],
        axis="milliseconds per output token, time to the first token included",
    )
    return save_chart(chart, path)


if __name__ == "__main__":
    tell(answer)
