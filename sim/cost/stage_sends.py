"""What a pipeline stage sends to the next one: the activations of a batch."""

from __future__ import annotations

from dataclasses import replace

from sim.cost.collectives.choice import collective
from sim.cost.collectives.demands import Demand
from sim.cost.network import Network
from sim.cost.pricing import stripped, together
from sim.cost.shard import Shard
from sim.inputs.quantities import DTYPE_BYTES


def activations(
    network: Network, source: Shard, target: Shard, tokens: int, without: frozenset[str] = frozenset()
) -> Demand:
    """The activations of `tokens` tokens from one stage to the next: hidden state and residual.

    Every tensor-parallel rank sends its share to its peer and the receivers gather the rest over their own
    links (vLLM `send_tensor_dict` with an all-gather group), so each rail carries 1/TP of the bytes.
    """
    n_bytes = 2.0 * tokens * source.model.hidden * DTYPE_BYTES[source.precision.activations]
    sends = []
    for senders, receivers in zip(source.groups, target.groups, strict=True):
        pairs = max(len(senders), len(receivers))
        for i in range(pairs):
            pair = (senders[i % len(senders)], receivers[i % len(receivers)])
            sends.append(collective(network, "send_recv", n_bytes / pairs / len(source.groups), pair).demand)
    sent = together(sends)
    if target.tensor_parallel_size == 1:
        return stripped(sent, without)
    gathers = [
        collective(network, "all_gather", n_bytes / len(target.groups), group).demand
        for group in target.groups
    ]
    gathered = together(gathers)
    both = together([sent, gathered])
    return stripped(replace(both, latency_s=sent.latency_s + gathered.latency_s), without)
