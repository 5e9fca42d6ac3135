"""Expert parallelism's traffic: dispatch of tokens to the ranks that hold their experts, and combine of the
results.

A token is sent once to every other rank that holds one of its experts (the rank passes it on to its
experts), so a rank sends tokens x distinct remote ranks x hidden x bytes. Inside an NVLink domain that is a
direct all-to-all; between domains it goes over the sender's rail to the GPU of the same index and from there
by NVLink (DeepEP).

Latencies are those of kernels made for it (TensorRT-LLM's one-sided all-to-all on NVLink, DeepEP over
InfiniBand), fitted as base + per doubling of the ranks; the bytes run at a fraction of the links, fitted too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log2

from sim.cost.demands import Demand, load_per_byte
from sim.cost.expert_load import distinct_ranks
from sim.cost.network import Network
from sim.cost.pricing import alone_s


@dataclass(frozen=True, slots=True)
class ExchangeKernel:
    """Start-up of a phase, and the share of the links' payload rate that its bytes reach."""

    base_s: float
    doubling_s: float
    fraction: float

    def latency_s(self, ranks: int) -> float:
        return self.base_s + self.doubling_s * log2(max(ranks, 2))


# NVLink: GB200, TensorRT-LLM one-sided, hidden 7168, top-8 of 256: dispatch 18 / 19.5 / 21 us and combine 25
# / 27 / 34 us at EP 8 / 16 / 32 and few tokens; 195-225 us and 661-740 us at 4,096 tokens, 0.43-0.62 of 900
# GB/s (fitted).
NVLINK = {
    "dispatch": ExchangeKernel(13.5e-6, 1.5e-6, 0.65),
    "combine": ExchangeKernel(11.0e-6, 4.5e-6, 0.65),
}
# InfiniBand: DeepEP low latency on H800 with one 400 Gbit/s NIC a GPU, 128 tokens: dispatch 155 / 173 / 194
# us and combine 273 / 314 / 360 us at EP 32 / 64 / 256, 39-40 GB/s of a NIC's 50 (fitted).
INFINIBAND = {
    "dispatch": ExchangeKernel(6.0e-6, 5.0e-6, 0.80),
    "combine": ExchangeKernel(12.0e-6, 8.0e-6, 0.80),
}


def exchange(
    network: Network,
    phase: str,
    ranks: tuple[str, ...],
    tokens: float,
    hidden: int,
    experts: int,
    topk: int,
    n_bytes: float,
    *,
    load: float = 1.0,
) -> Demand:
    """`phase` is `dispatch` or `combine`; `tokens` of each rank, `n_bytes` a value, `load` of the busiest
    rank over even.

    The busiest rank's share and the kernel's pace bound the time from below; the bytes on the links are all
    there are.
    """
    n = len(ranks)
    inside = network.same_domain(ranks)
    kernel = (NVLINK if inside else INFINIBAND)[phase]
    remote = distinct_ranks(experts, topk, n) * (n - 1) / n
    sent = tokens * remote * hidden * n_bytes  # bytes out of each rank
    per_rank = sent * n / (n - 1) if n > 1 else 0.0  # nccl-tests' size: S (n-1) / n leaves a rank
    algorithm = "direct" if inside else "relayed"
    loads = load_per_byte(network, "all_to_all", algorithm, ranks)
    even = Demand(tuple(loads), tuple(per_rank * share for share in loads.values()), kernel.latency_s(n))
    return replace(even, least_s=alone_s(even, network) * load / kernel.fraction)
