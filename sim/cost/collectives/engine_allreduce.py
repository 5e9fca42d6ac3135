"""The all-reduce kernels of inference engines, and when the engine uses them instead of NCCL.

One kernel launch, no channels and no protocol: each rank reads its peers' buffers straight over NVLink
(one-shot: whole buffers; two-shot: its part of each, then the sums), or lets the switch add (multimem).
That takes 3 to 6 us where NCCL takes 10 to 25, and it is what a tensor-parallel decode step runs. The
engine's table of sizes per number of ranks decides; ranks that are not in the table, that reach over
islands, or that are more than two on PCIe alone, go to NCCL. Over NVLink between servers FlashInfer and
TensorRT-LLM have kernels of their own (`mnnvl_one_shot`, `mnnvl_two_shot`), in which the switch multicasts
what a rank sends: its link up then carries less than here, the link down, the busiest, as much (vLLM
`custom_all_reduce.py`, `all_reduce_utils.py`; TensorRT-LLM's automatic strategy as its timings show it). All
others map their peers' memory with handles that are of one server (`cudaIpcOpenMemHandle`: vllm#52778,
sglang#32339): over NVLink between servers their engines call NCCL.
"""

from __future__ import annotations

from sim.cost.collectives.curves import Curve
from sim.cost.collectives.demands import load_per_byte
from sim.cost.collectives.nccl import wire_s
from sim.cost.collectives.parameters import EngineAllReduce, Parameters
from sim.cost.collectives.path_latency import at_once, crossing
from sim.cost.network import Network

DEMAND_OF = {
    "one_shot": "one_shot",
    "two_shot": "two_shot",
    "multimem": "nvls",
    "mnnvl_one_shot": "one_shot",
    "mnnvl_two_shot": "two_shot",
}
"""Kernel -> the algorithm whose bytes it moves."""

CROSSINGS = {"one_shot": 3, "two_shot": 4, "multimem": 3, "mnnvl_one_shot": 1, "mnnvl_two_shot": 2}
"""How often one after the other a kernel waits for its peers: the flags at its start, a read (two for
two-shot: parts, then sums), the flags before its end (vLLM `csrc/custom_all_reduce.cuh`: a pair of barriers
around the reads). Assumed alike for the other engines' kernels. Lamport kernels have no barriers: what
arrives is its own flag (FlashInfer `trtllm_mnnvl_allreduce.cuh`).
"""


def kernel_curve(
    network: Network, kernel: str, ranks: tuple[str, ...], engine: EngineAllReduce, parameters: Parameters
) -> Curve:
    """One kernel on given ranks, whether or not the engine would choose it."""
    values = engine.kernels[kernel]
    load = load_per_byte(network, "all_reduce", DEMAND_OF[kernel], ranks)
    busiest_s = wire_s(network, load)
    own_share = 1.0 if DEMAND_OF[kernel] == "one_shot" else 1.0 / len(ranks)
    rated_s, aside_s = busiest_s / values.efficiency, own_share / values.local_bytes_per_s
    crossings = [crossing(network.path(ranks[0], other), parameters) for other in ranks[1:]]
    start_s = values.base_s + values.rank_s * len(ranks)
    return Curve(
        kernel,
        "",
        tuple(load),
        tuple(load.values()),
        busiest_s,
        at_once(start_s, crossings, CROSSINGS[kernel]),
        rated_s + aside_s,
        fill_s=values.fill_s,
        fill_bytes=values.fill_bytes,
        rated_s=rated_s,
        aside_s=aside_s,
    )


def usable(network: Network, kernel: str, ranks: tuple[str, ...]) -> bool:
    """True where the ranks are wired so that the engine can run the kernel at all."""
    if kernel.startswith("mnnvl"):
        return network.reduces(ranks)  # the switches that add are those that multicast
    if len({(network.node_of[rank], network.places[rank].get("tray")) for rank in ranks}) > 1:
        return False  # of a rack the trays are the servers
    if kernel == "multimem":
        return len(ranks) > 2 and network.reduces(ranks)
    if network.same_domain(ranks):
        return True
    media = {network.path(a, b).medium for a in ranks for b in ranks if a != b}
    return media == {"nvlink"} or (media == {"pcie"} and len(ranks) == 2)


def windows(
    network: Network, library: str, ranks: tuple[str, ...], parameters: Parameters
) -> list[tuple[float, Curve]]:
    """(up to this many bytes, kernel) in order of size; above the last the engine calls NCCL."""
    engine = parameters.architecture(network, ranks[0]).engines.get(library)
    if engine is None or not network.peer_to_peer:
        return []
    found = []
    for kernel, to_bytes in engine.choice.get(len(ranks), ()):
        if usable(network, kernel, ranks):
            found.append((to_bytes, kernel_curve(network, kernel, ranks, engine, parameters)))
    return found
