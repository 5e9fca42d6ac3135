"""What one KV transfer puts on the links, worked out once for each pair of ranks.

A transfer is priced at `TOKENS_PRICED` tokens, long enough for large messages, and scaled to its length.

Where it stops: a short prompt pays no more per byte than a long one, though its messages are smaller; every
transfer pays the start-up latency once.
"""

from __future__ import annotations

from dataclasses import replace

from sim.cost import kv_transfer
from sim.cost.collectives.demands import Demand
from sim.cost.network import Network
from sim.runtime.engine.replica import Replica

TOKENS_PRICED = 4096


class TransferDemands:
    """(sender, receiver, their data-parallel ranks, tokens) -> the demand of the KV cache of these tokens."""

    def __init__(self, network: Network, without: frozenset[str]) -> None:
        self.network = network
        self.without = without
        self._per_token: dict[tuple[int, int, tuple[int, int]], Demand] = {}

    def __call__(self, sender: Replica, receiver: Replica, groups: tuple[int, int], tokens: float) -> Demand:
        key = sender.index, receiver.index, groups
        one = self._per_token.get(key)
        if one is None:
            one = self._per_token[key] = self._one_token(sender, receiver, groups)
        n_bytes = tuple(amount * tokens for amount in one.n_bytes)
        return replace(one, n_bytes=n_bytes, min_flow_s=one.min_flow_s * tokens, aside_s=one.aside_s * tokens)

    def _one_token(self, sender: Replica, receiver: Replica, groups: tuple[int, int]) -> Demand:
        priced = kv_transfer.kv_cache(
            self.network, sender.shards, receiver.shards, TOKENS_PRICED, groups, without=self.without
        )
        n_bytes = tuple(amount / TOKENS_PRICED for amount in priced.n_bytes)
        return replace(
            priced,
            n_bytes=n_bytes,
            min_flow_s=priced.min_flow_s / TOKENS_PRICED,
            aside_s=priced.aside_s / TOKENS_PRICED,
        )
