"""How big an NVLink domain is of use, by a talk's rooflines, with latency, and simulated.

A talk ("GPU systems and (LL) Models", NVIDIA) derives it from rooflines: spread one MLP layer over Y GPUs;
reading its weights takes 2DF/(Y Mem), the all-reduce of its result 2BD/Net whatever Y is. They are equal at
Y* = F Net/(B Mem): 200 GPUs for a batch of 16, 25 for 128. Here every number of the talk stands beside its
own formula, the formula beside a layer played on the simulator's clock and links, and both beside a GB200
NVL72 that serves Llama-3-70B with kernels and all-reduces as they have been measured.

Hand estimates (column "by hand") and how near the simulation should come: the played layer has its knee up to
one GPU later than the formula, for a ring of Y sends (Y - 1)/Y of what that counts; within a tray a decode
step takes 1 to 1.8 times the closed form with 3 us for an all-reduce and 34 us of fixed kernel time a layer.
Where it stops: layers of a dense model; DeepSeek's and LIMINAL's bounds are lines beside one simulated step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import simpy

import sim
from sim.cost.collectives.choice import collective
from sim.cost.kernels import kernels
from sim.cost.network import Network
from sim.deployment import memory_of, shards_of
from sim.runtime.fabric import Fabric
from sim.scenario.scenario import Scenario
from sim.theory import domain_sizing as theory
from sim.views.answer import Figure, Row, Section

from . import draw

TALK = "talk: GPU systems and (LL) Models"
BASE = Path(__file__).parents[1] / "nvl72_llama70b.yaml"

LLAMA, BLACKWELL = theory.LLAMA_3_70B, theory.BLACKWELL
GB200 = theory.Gpu(flop_per_s=5e15, hbm_bytes_per_s=8e12, hbm_bytes=186e9, link_bytes_per_s=9e11)  # FP8
TODAY, IDEAL = "libraries of today", "no latency"  # of all-reduces
LATENCIES_S = (0.0, 1e-6, 2e-6, 4e-6)  # of one all-reduce
BATCHES = (1, 16, 64, 128, 512)
RATES = (100e9, 225e9, 450e9, 900e9, 1800e9)  # NVLink of a GPU, one direction
WAITS_S = (0.5e-6, 1e-6, 2e-6, 5e-6, 10e-6)
SIZES = (1, 2, 4, 8, 16, 32, 64)  # the ways to split 64 attention heads; 72 is none
RACK_SIZES = (1, 2, 4, 6, 8, 9, 12, 16, 24, 32, 48, 64, 72)  # GPUs of a rack that share an MLP alone
RACK, RACKS = 72, 8

NOTES = (
    (
        "The slide's 'compute 0.37 us' for B = 16 is BDF/Flops; the formula beside it, 4BDF/Flops, gives "
        "1.50. Its 'comms 0.14 us' is BD/Net; 2BD/Net gives 0.29. The formula for Y uses the right ones."
    ),
    "Sizes in 'MB' are parameters; they are bytes at one byte each. FP8 bytes stand beside FP4 flops.",
    "The slide's layer has two matrices, Llama's MLP three: 88 us of reading instead of 59.",
    (
        "Y < 200 and 25 leave out the latency that the next slide calls dominant: with 1 us they are 45 and "
        "18. B = 128 moves 2.3 us of bytes, not 1."
    ),
    "NVFP4 values are E2M1 ('E3M1' would be 5 bits); with its scales 4.5 bits: a GEMV has 3.6 flop/B, not 4.",
    "750 K tokens leave nothing for the engine, activations and the 16-bit embedding; a B200 shows 180 GB.",
    "Total time is TTFT + (OSL - 1) TPOT: the first token came with TTFT.",
    "900 GB/s is one direction on one slide; Hopper's 900 and Blackwell's 1,800 are both on another.",
    (
        "72 divides neither 64 heads nor 28,672 columns: heads split 64 ways at most, which leaves 8 GPUs as "
        "spares; the MLP alone is padded to 399 columns a GPU."
    ),
    (
        "That so few are quickest rests on kernels that are missing, and not on the machine: vLLM's own "
        "all-reduce kernels end at a tray, and beyond it NCCL adds in the switch, which takes tens of "
        "microseconds on GB200. It was measured. The kernels of FlashInfer and TensorRT-LLM over NVLink "
        "between servers take 5 us on 16 GB300 (measured); at 32 and 64 they are taken to be alike (assumed)."
    ),
    (
        "Between racks the latencies are NCCL's planning constants, measured on no NVL72: the step from 72 "
        "to 144 GPUs is the least certain number here."
    ),
)


def section(quick: bool) -> Section:
    """The talk's bound, its correction, and the simulated knee."""
    base = sim.load_scenario(BASE)
    batches = (16, 128) if quick else BATCHES
    decoded = [point for batch in batches for size in SIZES for point in decode_points(base, batch, size)]
    played = knees(quick)
    layers = [layer for batch in (16, 128) for layer in layer_points(base, batch, 1 if quick else RACKS)]
    rows = [
        *roofline_rows(base),
        *model_rows(base),
        *slide_rows(),
        *knee_rows(played),
        *rate_rows(quick),
        *line_rows(),
        *rack_layer_rows(base, layers),
        *kernel_rows(base),
        *decode_rows(decoded),
        *([] if quick else racks_rows(base)),
    ]
    return Section(
        "A talk's bound, its correction, and the simulated knee",
        (
            (
                "A talk derives the size of a domain from two times. Spread over Y GPUs, an MLP layer's "
                "weights are read in 2DF/(Y Mem); adding up its result takes 2BD/Net whatever Y is. Where "
                "the two are equal, at Y* = F Net/(B Mem), more GPUs buy little: 200 of them for a "
                "batch of 16, 25 for 128."
            ),
            (
                "The talk's next slide calls latency dominant, and its bound leaves it out. With a latency a "
                "in the sum Y* is (2DF/Mem)/(a + 2BD/Net): 1 us makes 45 of the 200. The dots are the layer "
                "played on a clock with links. The rack's own layer, with kernels and all-reduces as they "
                "were measured, is the second chart."
            ),
            (
                "A switch that adds halves what an all-reduce sends, and moves Y* only where bytes count: "
                "with 1 us and a batch of 16 by an eighth, with 512 by two thirds."
            ),
        ),
        tuple(rows),
        _takeaway(layers, decoded),
        (
            "the talk's rooflines are its own figures; the rack's kernels and all-reduces are measured on "
            "GB200 (vLLM's and NCCL's; MNNVL kernels to 16 GPUs); between racks NCCL's planning constants, "
            "measured on no rack."
        ),
        (
            Figure(
                "knee",
                "latency, more than bandwidth, says how many GPUs are of use: all lines fall by a factor "
                "within the first microseconds.",
                lambda: knee_chart(played),
            ),
            Figure(
                "rate",
                "ten times the rate of NVLink moves Y* by less than ten times as soon as there is latency; "
                "adding in the switch helps large batches most.",
                rate_chart,
            ),
            Figure(
                "layer",
                f"on the rack a layer is quickest on {quickest(layers)} GPUs with the libraries that most "
                "services run: beyond a tray NCCL's latency outlasts everything. What would be left without "
                "it is the lower part.",
                lambda: layer_chart(layers),
            ),
            Figure(
                "tokens",
                f"Llama-3-70B's users gain to TP{fastest(decoded, TODAY)['size']} and lose beyond; without "
                f"the latency of all-reduces they would gain to TP{fastest(decoded, IDEAL)['size']}.",
                lambda: decode_chart(decoded),
            ),
            Figure("lines", lines_takeaway(), lines_chart),
        ),
    )


# ---- the talk's numbers and formulas


def roofline_rows(base: Scenario) -> list[Row]:
    """The machine: the shipped topology of the rack against the talk."""
    gpu, nvlink = base.topology.gpus["gb200"], base.topology.links["nvlink5"]
    graph = base.topology.graph
    links = sum(
        edge["count"]
        for source, target, edge in graph.edges(data=True)
        if graph.nodes[source]["kind"] == "gpu" and graph.nodes[target]["kind"] == "nvswitch"
    )
    net = nvlink.bytes_per_s * links / RACK
    nic = sim.load_topology("gb300-nvl72").links["infiniband-xdr"].bytes_per_s
    return [
        Row("NVL72", "links from a GPU to the switches", "links", 18, links / RACK, source=TALK),
        Row("NVL72", "cables of two 200 Gbit/s lanes each way", "cables", 2600, 2.0 * links, source=TALK),
        Row("NVL72", "NVLink of a GPU, one direction", "GB/s", 900, net / 1e9, source=TALK),
        Row("NVL72", "NVLink / 800 Gbit/s NIC", "ratio", 9, net / nic, source=TALK),
        Row("roofline", "FP4 flop per byte of HBM", "flop/B", 1250, gpu.flops["fp4"] / gpu.hbm_bytes_per_s,
            source=TALK, estimate=BLACKWELL.flop_per_hbm_byte),
        Row("roofline", "bytes of HBM per byte of NVLink", "B/B", 9, gpu.hbm_bytes_per_s / net, source=TALK,
            estimate=BLACKWELL.hbm_byte_per_link_byte),
        Row("N x N x N in FP4", "bound by compute from N =", "", 940, compute_bound_from(gpu), source=TALK,
            estimate=BLACKWELL.flop_per_hbm_byte / theory.square_product_intensity(1.0)),
        Row("N x N x 1 in FP4, N = 8192", "flop per byte", "flop/B", 4,
            theory.matrix_vector_intensity(8192, 0.5625), source=TALK,
            estimate=theory.matrix_vector_intensity(8192)),
    ]  # fmt: skip


def compute_bound_from(gpu: Any) -> float:
    """The smallest N whose N x N x N product computes longer than it moves, as the kernel was measured."""
    low, high = 64, 65536
    while high - low > 1:
        middle = (low + high) // 2
        timing = kernels.gemm(gpu, middle, middle, middle, "fp4")
        low, high = (low, middle) if timing.compute_s > timing.memory_s else (middle, high)
    return float(high)


def model_rows(base: Scenario) -> list[Row]:
    """Llama-3-70B: the model card against the talk, and what one GPU holds."""
    model = base.model
    attention, mlp = model.attention_parameters_per_layer, model.dense_mlp_parameters
    embedding = model.embedding_parameters + model.lm_head_parameters
    b200 = sim.with_changes(base, {"topology": "hgx-b200", "engine.tensor_parallel_size": 1})
    pool = b200.all_pools[""]
    memory, _ = memory_of(pool, shards_of(pool, b200, tuple(b200.topology.graph.graph["gpus"][:1])))
    token = model.kv_bytes_per_token("fp8")
    case = "Llama-3-70B"
    return [
        Row(case, "attention of a layer", "M parameters", 151, attention / 1e6, source=TALK,
            estimate=LLAMA.attention_parameters / 1e6),
        Row(case, "MLP of a layer", "M parameters", 704, mlp / 1e6, source=TALK,
            estimate=LLAMA.mlp_parameters / 1e6),
        Row(case, "MLP's share of a layer", "fraction", 0.82, mlp / (attention + mlp), source=TALK),
        Row(case, "embedding and output head", "G parameters", 2.1, embedding / 1e9, source=TALK,
            estimate=LLAMA.embedding_parameters / 1e9),
        Row(case, "FP8 KV of a token, a layer", "B", 2048, token / model.layers, source=TALK),
        Row(case, "FP8 KV of a token", "B", 160 * 1024, token, source=TALK,
            estimate=LLAMA.kv_bytes_per_token(1)),
        Row(case, "tokens beside FP8 weights on a B200", "tokens", 750e3, memory.kv_tokens, source=TALK,
            estimate=theory.tokens_that_fit(192e9, 70e9, token)),
    ]  # fmt: skip


def slide_rows() -> list[Row]:
    """One two-matrix MLP layer on the talk's machine, played; and the talk's bound from its own formula."""
    d, f = LLAMA.hidden, LLAMA.intermediate
    rows = []
    for batch, compute, memory, network in ((16, 0.37, 58.0, 0.14), (128, None, None, 1.0)):
        case = f"MLP layer, B = {batch}"
        parts = played_layer(batch, RACK, 0.0)
        rows += [
            Row(case, "compute, times Y", "us", compute, parts["compute"] * RACK * 1e6, source=TALK,
                estimate=theory.mlp_compute_s(batch, d, f, BLACKWELL) * 1e6),
            Row(case, "reading weights, times Y", "us", memory, parts["memory"] * RACK * 1e6, source=TALK,
                estimate=theory.mlp_memory_s(d, f, BLACKWELL) * 1e6),
            Row(case, "all-reduce over 72 GPUs", "us", network, parts["all_reduce"] * 1e6, source=TALK,
                estimate=theory.mlp_network_s(batch, d, BLACKWELL) * 1e6),
        ]  # fmt: skip
    return rows


# ---- the talk's machine, played


@cache
def talks_machine(gpus: int, rate: float = BLACKWELL.link_bytes_per_s) -> Network:
    """A graph of GPUs on one switch that adds, 900 GB/s each way, without latency."""
    graph: nx.DiGraph[str] = nx.DiGraph(name="the talk's machine")
    graph.add_node("chip", kind="nvswitch", node=0, index=0, domain=0, reduces=True)
    for index in range(gpus):
        graph.add_node(f"gpu{index}", kind="gpu", node=0, index=index, domain=0, model="gb200")
        for source, target in ((f"gpu{index}", "chip"), ("chip", f"gpu{index}")):
            graph.add_edge(source, target, bytes_per_s=rate, latency_s=0.0, link="nvlink")
    return Network(sim.load_topology(graph).graph)


def played_layer(
    batch: int,
    size: int,
    latency_s: float,
    rate: float = BLACKWELL.link_bytes_per_s,
    algorithm: str = "ring",
) -> dict[str, float]:
    """The layer over `size` GPUs on the clock: roofline of two products, then a ring of FP8 activations, or
    the switch that adds them (`nvls`).
    """
    d, f = LLAMA.hidden, LLAMA.intermediate
    compute_s = theory.mlp_compute_s(batch, d, f, BLACKWELL, size)
    memory_s = theory.mlp_memory_s(d, f, BLACKWELL, size)
    network = talks_machine(256 if size <= 256 else 4096, rate)
    ranks = network.gpus[:size]
    reduced = collective(
        network, "all_reduce", float(batch * d), ranks, library="none", algorithm=algorithm
    ).demand
    env = simpy.Environment()
    fabric = Fabric(env, network)

    def layer() -> Iterator[Any]:
        yield env.timeout(max(compute_s, memory_s))
        by_link = {network.links[link]: n for link, n in zip(reduced.links, reduced.n_bytes, strict=True)}
        yield fabric.transfer(by_link, latency_s=latency_s)

    env.process(layer())
    env.run()
    return {
        "compute": compute_s,
        "memory": memory_s,
        "all_reduce": env.now - max(compute_s, memory_s),
        "total": env.now,
    }


def knees(quick: bool) -> list[dict[str, Any]]:
    """For each batch and latency, the Y at which a played layer's all-reduce takes as long as its weights."""
    return [
        {"batch": batch, "latency_us": latency_s * 1e6, "knee": knee(batch, latency_s)}
        for latency_s in LATENCIES_S
        for batch in BATCHES
        if not (quick and batch == 1 and latency_s == 0.0)  # 3,227 GPUs
    ]


def knee(
    batch: int, latency_s: float, rate: float = BLACKWELL.link_bytes_per_s, algorithm: str = "ring"
) -> float:
    """Bisected over whole numbers of GPUs, then on a straight line between the two."""

    def surplus(size: int) -> float:
        parts = played_layer(batch, size, latency_s, rate, algorithm)
        return parts["memory"] - parts["all_reduce"]

    low, high = 2, 256 if surplus(256) < 0.0 else 4096
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if surplus(middle) > 0.0 else (low, middle)
    above, below = surplus(low), surplus(high)
    return low + above / (above - below)


def knee_rows(played: list[dict[str, Any]]) -> list[Row]:
    """The talk's bound, with the latency that it leaves out."""
    talk = {(16, 0.0): 200.0, (128, 0.0): 25.0}
    rows = []
    for point in played:
        batch, latency_us = point["batch"], point["latency_us"]
        formula = theory.largest_domain(batch, LLAMA.hidden, LLAMA.intermediate, BLACKWELL, latency_us * 1e-6)
        case = f"largest useful domain, latency {latency_us:.0f} us"
        rows.append(
            Row(
                case,
                f"B = {batch}",
                "GPUs",
                talk.get((batch, latency_us)),
                point["knee"],
                source=TALK if (batch, latency_us) in talk else "",
                estimate=formula,
            )
        )
    return rows  # fmt: skip


def largest(batch: int, latency_s: float, rate: float, in_switch: bool) -> float:
    """Y* at any rate of the links, by a ring, or by a switch that adds: from M/Y = a + BD(1 + 1/Y)/Net."""
    d, f = LLAMA.hidden, LLAMA.intermediate
    gpu = replace(BLACKWELL, link_bytes_per_s=rate)
    if not in_switch:
        return theory.largest_domain(batch, d, f, gpu, latency_s)
    sent_s = batch * d / rate
    return (theory.mlp_memory_s(d, f, gpu) - sent_s) / (latency_s + sent_s)


def rate_rows(quick: bool) -> Iterator[Row]:
    """Y* against rate and latency of NVLink, by a ring and in the switch; played and in closed form."""
    for algorithm in ("ring", "nvls"):
        how = "a ring" if algorithm == "ring" else "added in the switch"
        for batch in (16, 128):
            for rate in (RATES[0], RATES[3]) if quick else RATES:
                for latency_s in (1e-6,) if quick else WAITS_S:
                    case = f"largest useful domain, B = {batch}, {how}"
                    what = f"{rate / 1e9:.0f} GB/s, {latency_s * 1e6:g} us"
                    estimate = largest(batch, latency_s, rate, algorithm == "nvls")
                    if estimate < 3.0:
                        continue  # no domain: two GPUs are slower than one
                    yield Row(case, what, "GPUs", None, knee(batch, latency_s, rate, algorithm),
                              estimate=estimate)  # fmt: skip


# ---- bounds that others have derived


def deepseek_bound(rate: float) -> float:
    """Tokens/s of a user if only expert traffic took time: in each of 61 layers 32 tokens go to 9 experts,
    7,000 values there in one byte each and back in two, twice in turn for two halves of a batch.

    Example: over a NIC of 50 GB/s, and over NVLink.
        >>> round(deepseek_bound(50e9)), round(deepseek_bound(900e9))
        (68, 1220)
    """
    return 1.0 / (61 * 2 * (1 + 2) * 32 * 9 * 7000 / rate)


def sync_bound(latency_s: float) -> float:
    """Tokens/s of a user if only synchronisation took time: four times a layer of Llama-3.1-405B's 126, for
    an all-reduce is a reduce-scatter and an all-gather.

    Example:
        >>> round(sync_bound(1e-6))
        1984
    """
    return 1.0 / (126 * 4 * latency_s)


@cache
def simulated_lines() -> dict[str, float]:
    """Tokens/s of a user: DeepSeek-V3 with 32 sequences a GPU, Llama-3.1-405B with one over 64 GPUs."""
    from .machines import Machine, Replica, changed
    from .sizes import DEEPSEEK, base

    found = {}
    for domain, rate in ((8, 50), (RACK, 900)):
        keys = {"engine.data_parallel_size": 64, "engine.enable_expert_parallel": True,
                "engine.max_num_seqs": 32}  # fmt: skip
        replica = Replica(changed(base(DEEPSEEK), Machine(RACK, domain), keys))
        found[f"DeepSeek-V3, EP64, domains of {domain}, {rate} GB/s"] = 1.0 / replica.step(2048, 4096).seconds
    dense = sim.with_changes(base("llama-3-70b"), {"model": "llama-3.1-405b"})
    replica = Replica(changed(dense, Machine(RACK, RACK), {"engine.tensor_parallel_size": 64}))
    found["Llama-3.1-405B, TP64"] = 1.0 / replica.step(1, 4096).seconds
    return found


V3_PAPER = "DeepSeek-V3 insights (arXiv 2505.09343)"
LIMINAL = "LIMINAL (arXiv 2507.14397): 2,000 and more if synchronisation takes about 1 us"


def line_rows() -> Iterator[Row]:
    for rate, published in ((50e9, 67.0), (900e9, 1200.0)):
        yield Row("DeepSeek's bound", f"a user over {rate / 1e9:.0f} GB/s", "tokens/s", published,
                  deepseek_bound(rate), source=V3_PAPER)  # fmt: skip
    yield Row("LIMINAL's bound", "a user with 1 us a synchronisation", "tokens/s", 2000.0, sync_bound(1e-6),
              source=LIMINAL)  # fmt: skip
    for name, per_user in simulated_lines().items():
        yield Row("a simulated step beside them", f"{name}: a user", "tokens/s", None, per_user)


def lines_takeaway() -> str:
    found = simulated_lines()
    over_nics, over_nvlink, dense = found.values()
    return (
        f"both bounds leave out all but one cause. DeepSeek's says 67 and 1,200 tokens/s over a NIC and over "
        f"NVLink; the simulated step gives {over_nics:.0f} and {over_nvlink:.0f}, for kernels and their "
        f"latencies do not shrink with the bytes. LIMINAL's says 2,000 at 1 us; Llama-3.1-405B on 64 GPUs "
        f"gives {dense:.0f}."
    )


def kernel_rows(base: Scenario) -> Iterator[Row]:
    """An all-reduce of 64 KiB by the library that does it: what the quickest number of GPUs rests on."""
    network = racks(1)
    for library, words in (("nccl", "NCCL"), ("vllm", "vLLM"), ("trtllm", "TensorRT-LLM"),
                           ("flashinfer", "vLLM with FlashInfer")):  # fmt: skip
        for size in (8, 16, 32, 64):
            timing = collective(network, "all_reduce", 65_536.0, network.gpus[:size], library=library)
            case = "an all-reduce of 64 KiB on GB200 NVL72"
            yield Row(case, f"{words}, {size} GPUs ({timing.algorithm})", "us", None, timing.total_s * 1e6)


# ---- Llama's MLP on the rack


@cache
def racks(nodes: int) -> Network:
    return Network(sim.load_topology("gb200-nvl72", nodes=nodes).graph)


def layer_points(base: Scenario, batch: int, most: int = RACKS) -> Iterator[dict[str, Any]]:
    """Llama's MLP (three matrices, FP8) on Y GPUs of the NVL72, and on whole racks beyond 72, by cause."""
    for size in (*RACK_SIZES, *(RACK * number for number in (2, 4, RACKS) if number <= most)):
        yield rack_layer(base, batch, size)


def rack_layer(
    base: Scenario, batch: int, size: int, algorithm: str = "auto", library: str = "auto"
) -> dict[str, Any]:
    """Seconds of one MLP layer over `size` GPUs by cause, its columns padded to a whole number a GPU."""
    gpu, model = base.topology.gpus["gb200"], base.model
    width = -(-model.intermediate // size)
    parts = {"computing": 0.0, "memory": 0.0, "kernel latency": 0.0}
    for timing in (
        kernels.gemm(gpu, batch, 2 * width, model.hidden, "fp8"),
        kernels.elementwise(gpu, 3 * batch * width * 2),
        kernels.gemm(gpu, batch, model.hidden, width, "fp8"),
    ):
        bound = "computing" if timing.compute_s > timing.memory_s else "memory"
        parts[bound] += timing.total_s - timing.floor_s
        parts["kernel latency"] += timing.floor_s
    network = racks(1 if size <= RACK else RACKS)
    n_bytes = 2.0 * batch * model.hidden
    reduced = collective(
        network, "all_reduce", n_bytes, network.gpus[:size], algorithm=algorithm, library=library
    )
    parts["all-reduce latency"], parts["all-reduce bytes"] = reduced.latency_s, reduced.bytes_s
    return {"batch": batch, "size": size, **parts}


CAUSES = ("computing", "memory", "kernel latency", "all-reduce latency", "all-reduce bytes")


def total_s(layer: dict[str, Any]) -> float:
    return float(sum(layer[cause] for cause in CAUSES))


def all_reduce_s(layer: dict[str, Any]) -> float:
    return float(layer["all-reduce latency"] + layer["all-reduce bytes"])


def rack_layer_rows(base: Scenario, layers: list[dict[str, Any]]) -> list[Row]:
    """Where the rack's layer is quickest, and from which Y on its all-reduce outlasts its weights."""
    rows = []
    for batch, talk in ((16, 200.0), (128, 25.0)):
        of_batch = [layer for layer in layers if layer["batch"] == batch]
        forced = [
            rack_layer(base, batch, size, kernel, "trtllm")
            for size in RACK_SIZES
            for kernel in ("mnnvl_one_shot", "mnnvl_two_shot")
            if size > 2
        ]
        best = min(of_batch, key=total_s)
        crossed = next(one for one in of_batch if one["size"] > 1 and all_reduce_s(one) > one["memory"])
        case = f"Llama's MLP on NVL72, B = {batch}"
        rows.append(
            Row(case, "all-reduce outlasts reading from Y =", "GPUs", talk, crossed["size"], source=TALK)
        )
        rows.append(Row(case, "quickest at Y =", "GPUs", None, best["size"]))
        what = "quickest if TensorRT-LLM's kernels over NVLink served any Y, at Y ="
        rows.append(Row(case, what, "GPUs", None, min(forced, key=total_s)["size"]))
        for layer in of_batch:
            if layer["size"] in (1, 8, 16, RACK, 2 * RACK, RACKS * RACK):
                rows.append(Row(case, f"layer on Y = {layer['size']}", "us", None, total_s(layer) * 1e6))
    return rows


# ---- Llama-3-70B served by the rack


def decode_points(base: Scenario, batch: int, size: int) -> Iterator[dict[str, Any]]:
    """A decode step over `size` GPUs with the libraries of today, and with all-reduces without latency."""
    for case, without in ((TODAY, []), (IDEAL, ["collective_latency"])):
        step = decode_step(base, batch, {"engine.tensor_parallel_size": size, "without": without})
        if step is not None:
            yield {"case": case, "batch": batch, "size": size, **step}


def decode_step(base: Scenario, batch: int, changes: dict[str, Any]) -> dict[str, float] | None:
    """The first step of a run in which all `batch` sequences decode; None where their KV does not fit."""
    scenario = sim.with_changes(
        base,
        {
            "workload.arrivals.users": batch,
            "workload.requests": batch,
            "workload.output_tokens": batch // 2 + 64,  # no answer ends before the last prompt is computed
            **changes,
        },
    )
    for span in sim.simulate(scenario).steps.iter_rows(named=True):
        if span["sequences"] == batch and span["prefill_tokens"] == 0:
            return {"step_s": span["first_step_s"], "context": span["kv_tokens"] / batch}
    return None


def by_hand(point: dict[str, Any]) -> float:
    """Tokens per second and user by the closed form, with its own latency and fixed time."""
    assume = theory.Assumptions() if point["case"] == TODAY else theory.Assumptions(latency_s=0.0)
    context = round(point["context"])
    return theory.tokens_per_s(LLAMA, GB200, point["batch"], context, point["size"], assume)[0]


def decode_rows(decoded: list[dict[str, Any]]) -> list[Row]:
    """Per user and per GPU, by batch and size."""
    rows = []
    for point in decoded:
        batch, size, per_user = point["batch"], point["size"], 1.0 / point["step_s"]
        case = f"Llama-3-70B FP8, 4 K context, B = {batch}"
        if point["case"] == TODAY:
            rows.append(Row(case, f"TP{size}, per user", "tokens/s", None, per_user, estimate=by_hand(point)))
            rows.append(Row(case, f"TP{size}, per GPU", "tokens/s", None, per_user * batch / size))
        elif size > 1:
            what = f"TP{size}, all-reduces without latency, per user"
            rows.append(Row(case, what, "tokens/s", None, per_user, estimate=by_hand(point)))
    return rows


def racks_rows(base: Scenario) -> list[Row]:
    """TP64 in one rack, and the same 64 GPUs drawn from two and eight racks."""
    rows = []
    for batch in (16, 128):
        for nodes in (1, 2, RACKS):
            ranks = [rack * RACK + gpu for rack in range(nodes) for gpu in range(64 // nodes)]
            step = decode_step(
                base,
                batch,
                {
                    "topology.nodes": nodes,
                    "engine.tensor_parallel_size": 64,
                    "placement": {"kind": "explicit", "ranks": [ranks]},
                },
            )
            assert step is not None
            where = "one rack" if nodes == 1 else f"{nodes} racks"
            rows.append(
                Row(f"TP64, B = {batch}", f"{where}, per user", "tokens/s", None, 1.0 / step["step_s"])
            )
    return rows


def quickest(layers: list[dict[str, Any]]) -> int:
    """GPUs on which a layer of 16 sequences takes least."""
    return int(min((layer for layer in layers if layer["batch"] == 16), key=total_s)["size"])


def fastest(decoded: list[dict[str, Any]], case: str) -> dict[str, Any]:
    """The decode step of 16 sequences that takes least."""
    mine = [point for point in decoded if (point["batch"], point["case"]) == (16, case)]
    return min(mine, key=lambda point: float(point["step_s"]))


def _takeaway(layers: list[dict[str, Any]], decoded: list[dict[str, Any]]) -> str:
    today, ideal = fastest(decoded, TODAY), fastest(decoded, IDEAL)
    return (
        "Latency sizes the domain, not bandwidth. The talk's 200 GPUs for B = 16 are 45 with 1 us of it, and "
        f"with the all-reduces of today a layer is quickest on {quickest(layers)}: Llama-3-70B gives a user "
        f"{1 / today['step_s']:.0f} tokens/s at TP{today['size']}, and without that latency "
        f"{1 / ideal['step_s']:.0f} at TP{ideal['size']}."
    )


# ---- pictures


def rate_chart() -> draw.Chart:
    rates = [100e9 * 1.2**step for step in range(17)]
    waits = [0.5e-6 * 1.2**step for step in range(18)]
    hows = {False: "ring", True: "added in the switch"}
    by_rate = [
        {"rate": rate / 1e9, "domain": found, "batch": str(batch), "how": hows[how]}
        for batch in (16, 128, 512) for how in hows for rate in rates
        if (found := largest(batch, 1e-6, rate, how)) >= 1.0
    ]  # fmt: skip
    by_wait = [
        {"wait": wait * 1e6, "domain": found, "batch": str(batch), "how": hows[how]}
        for batch in (16, 128, 512) for how in hows for wait in waits
        if (found := largest(batch, wait, 900e9, how)) >= 1.0
    ]  # fmt: skip
    y = draw.axis("domain", "largest useful domain, GPUs (log)", log=True, values=draw.SIZES, domain=(1, 100))
    shared: dict[str, Any] = {"colour": "batch", "colours": ["16", "128", "512"], "legend": "batch",
                              "dash": "how", "order": list(hows.values())}  # fmt: skip
    return draw.beside(
        [
            draw.lines(by_rate, draw.axis("rate", "NVLink of a GPU, GB/s (log)", log=True), y, title="1 us",
                       **shared),
            draw.lines(by_wait, draw.axis("wait", "latency of an all-reduce, us (log)", log=True), y,
                       title="900 GB/s", **shared),
        ],
        "Y* by the rate and the latency of NVLink",
        "closed form of the talk's layer",
    )  # fmt: skip


def lines_chart() -> draw.Chart:
    import altair as alt

    from sim.views.files import rows

    rates = [50e9 * 1.2**step for step in range(20)]
    waits = [0.5e-6 * 1.2**step for step in range(18)]
    nics, nvlink, dense = simulated_lines().values()
    x, y = (
        draw.axis("rate", "bytes/s of a GPU, GB/s (log)", log=True),
        draw.axis("user", "tokens/s of a user (log)", log=True),
    )
    bound = draw.lines(
        [{"rate": rate / 1e9, "user": deepseek_bound(rate), "kind": "DeepSeek's bound"} for rate in rates],
        x, y, colour="kind", title="expert traffic alone",
    )  # fmt: skip
    dots = (
        alt.Chart(rows([{"rate": 50, "user": nics, "kind": "DeepSeek-V3, EP64, simulated"},
                        {"rate": 900, "user": nvlink, "kind": "DeepSeek-V3, EP64, simulated"}]))
        .mark_point(filled=True, size=80, opacity=1).encode(x="rate:Q", y="user:Q", color="kind:N")
    )  # fmt: skip
    x2 = draw.axis("wait", "us a synchronisation (log)", log=True)
    sync = draw.lines(
        [{"wait": wait * 1e6, "user": sync_bound(wait), "kind": "LIMINAL's bound"} for wait in waits]
        + [{"wait": wait, "user": dense, "kind": "Llama-3.1-405B, TP64, simulated"} for wait in (0.5, 11.0)],
        x2, y, colour="kind", title="synchronisation alone",
    )  # fmt: skip
    return draw.beside(
        [alt.layer(bound, dots), sync], "Bounds of others, and a simulated step", independent=True
    )


def layer_chart(layers: list[dict[str, Any]]) -> Any:
    import altair as alt

    from sim.views.files import rows

    shown = [cause for cause in CAUSES if any(layer[cause] > 0.0 for layer in layers)]
    ticks = [1, 2, 4, 8, 16, 32, 72, 144, 288, 576]
    x = alt.X(
        "size:Q",
        scale=alt.Scale(type="log", domain=[1, RACKS * RACK], nice=False),
        axis=alt.Axis(values=ticks, grid=False, labelOverlap=True),
        title="GPUs Y that share the layer (log scale)",
    )
    y = alt.Y(
        "us:Q",
        stack="zero",
        title="one MLP layer, us",
        scale=alt.Scale(domain=[0, 1.15e6 * max(map(total_s, layers))], nice=False),
    )
    panels = []
    for batch in (16, 128):
        mine = [layer for layer in layers if layer["batch"] == batch]
        areas = [
            {"size": layer["size"], "cause": cause, "us": layer[cause] * 1e6, "order": shown.index(cause)}
            for layer in mine
            for cause in shown
        ]
        d, f = LLAMA.hidden, LLAMA.intermediate
        marks = [
            {"size": min(mine, key=total_s)["size"], "what": "quickest here"},
            {"size": theory.largest_domain(batch, d, f, BLACKWELL), "what": "the talk's Y*"},
            {"size": theory.largest_domain(batch, d, f, BLACKWELL, 1e-6), "what": "Y* with 1 us"},
            {"size": RACK, "what": "one rack"},
        ]
        stack = (
            alt.Chart(rows(areas))
            .mark_area()
            .encode(
                x=x,
                y=y,
                color=alt.Color(
                    "cause:N",
                    title="time goes to",
                    sort=shown,
                    legend=alt.Legend(symbolType="square"),
                ),
                order="order:Q",
            )
        )
        rules = alt.Chart(rows(marks)).mark_rule(strokeDash=[4, 3]).encode(x=x)
        labels = (
            alt.Chart(rows(marks))
            .mark_text(angle=270, align="right", baseline="bottom", dx=-2, dy=-3, fontSize=12)
            .encode(x=x, y=alt.value(2), text="what:N")
        )
        panels.append(alt.layer(stack, rules, labels).properties(width=430, height=320, title=f"B = {batch}"))
    title = alt.Title(
        "One MLP layer of Llama-3-70B in FP8 over Y GPUs of GB200 NVL72",
        subtitle="vLLM's all-reduce in a tray of 4 GPUs, NCCL's beyond; past 72 whole racks, straight lines",
        anchor="start",
    )
    return draw.legible(alt.hconcat(*panels, title=title))


def decode_chart(decoded: list[dict[str, Any]]) -> Any:
    import altair as alt

    from sim.views.files import rows

    points = [
        {
            "size": point["size"],
            "batch": str(point["batch"]),
            "case": point["case"],
            "tokens_per_s": 1.0 / point["step_s"],
        }
        for point in decoded
    ]
    batches = [str(batch) for batch in sorted({point["batch"] for point in decoded})]
    title = alt.Title(
        "Llama-3-70B in FP8 on one NVL72: tokens per second of one user",
        subtitle="one decode batch, 4 K tokens of context a user, tensor parallel over Y GPUs",
        anchor="start",
    )
    x = alt.X(
        "size:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=list(SIZES), grid=False),
        title="GPUs Y (log scale)",
    )
    y = alt.Y("tokens_per_s:Q", title="tokens/s of one user")
    colour = alt.Color(
        "batch:N", title="users in the batch", sort=batches, legend=alt.Legend(symbolOpacity=1)
    )
    dash = alt.StrokeDash("case:N", title="all-reduces", sort=[TODAY, IDEAL])
    return draw.legible(
        alt.layer(
            alt.Chart(rows(points)).mark_line().encode(x=x, y=y, color=colour, strokeDash=dash),
            alt.Chart(rows(points))
            .mark_point(filled=True, size=45, opacity=1)
            .encode(x=x, y=y, color=colour),
            title=title,
        ).properties(width=560, height=360)
    )


def knee_chart(played: list[dict[str, Any]]) -> Any:
    import altair as alt

    from sim.views.files import rows

    d, f = LLAMA.hidden, LLAMA.intermediate
    latencies_us = [4.0 * (step / 60) ** 3 for step in range(61)]  # denser where the curves are steep
    lines = [
        {
            "batch": str(batch),
            "latency_us": latency_us,
            "domain": theory.largest_domain(batch, d, f, BLACKWELL, latency_us * 1e-6),
        }
        for batch in BATCHES
        for latency_us in latencies_us
    ]
    points = [
        {"batch": str(point["batch"]), "latency_us": point["latency_us"], "domain": point["knee"]}
        for point in played
    ]
    batches = [str(batch) for batch in BATCHES]
    colour = alt.Color("batch:N", title="batch", sort=batches, legend=alt.Legend(symbolOpacity=1))
    x = alt.X(
        "latency_us:Q",
        title="latency of one all-reduce, us",
        scale=alt.Scale(domain=[0, 4], nice=False),
        axis=alt.Axis(grid=False, values=[0, 1, 2, 3, 4]),
    )
    y = alt.Y(
        "domain:Q",
        scale=alt.Scale(type="log", domain=[4, 4096], nice=False),
        title="largest useful domain, GPUs (log scale)",
        axis=alt.Axis(values=[4, 8, 16, 32, 72, 144, 288, 576, 1152, 4096], format="d"),
    )
    title = alt.Title(
        "The largest useful domain by the latency of an all-reduce",
        subtitle="lines: closed form; dots: a layer played, whose ring sends (Y-1)/Y as much",
        anchor="start",
    )
    return draw.legible(
        alt.layer(
            alt.Chart(rows(lines)).mark_line(clip=True).encode(x=x, y=y, color=colour),
            alt.Chart(rows(points))
            .mark_point(filled=True, size=60, opacity=1)
            .encode(x=x, y=y, color=colour),
            title=title,
        ).properties(width=560, height=360)
    )
