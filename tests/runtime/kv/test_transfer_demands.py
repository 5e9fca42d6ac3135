"""A transfer's bytes are those of its tokens, and its latency that of one message, whatever its length."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sim.cost import kv_transfer
from sim.cost.network import Network
from sim.deployment import deployment_of
from sim.runtime.kv.transfer_demands import TOKENS_PRICED, TransferDemands
from sim.scenario.scenario import Scenario


def pair() -> tuple[Network, Any, Any]:
    one = Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "nodes": 2,
            "model": "llama-3-8b",
            "pools": {
                "prefill": {"engine": {"tensor_parallel_size": 8}},
                "decode": {"engine": {"tensor_parallel_size": 4}},
            },
            "workload": {
                "arrivals": {"kind": "burst"}, "prompt_tokens": 8, "output_tokens": 2, "requests": 1
            },
        }
    )  # fmt: skip
    network = Network(one.wired.graph)
    plans = deployment_of(one, network).replicas
    return network, *(SimpleNamespace(index=plan.index, shards=list(plan.shards)) for plan in plans)


def test_bytes_grow_with_tokens_and_latency_does_not() -> None:
    network, sender, receiver = pair()
    demands = TransferDemands(network, frozenset())
    whole = kv_transfer.kv_cache(network, sender.shards, receiver.shards, TOKENS_PRICED, (0, 0))
    same, half = (demands(sender, receiver, (0, 0), tokens) for tokens in (TOKENS_PRICED, TOKENS_PRICED / 2))
    assert same.n_bytes == pytest.approx(whole.n_bytes)
    assert half.n_bytes == pytest.approx([amount / 2 for amount in whole.n_bytes])
    assert half.min_flow_s == pytest.approx(whole.min_flow_s / 2)
    assert half.latency_s == same.latency_s == whole.latency_s > 0.0
    assert half.links == whole.links


def test_what_a_kernel_does_without_links_grows_with_tokens() -> None:
    network, sender, receiver = pair()
    demands = TransferDemands(network, frozenset())
    whole = kv_transfer.kv_cache(network, sender.shards, receiver.shards, TOKENS_PRICED, (0, 0))
    aside = replace(whole, aside_s=4096.0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kv_transfer, "kv_cache", lambda *_, **__: aside)
        assert demands(sender, receiver, (0, 0), 10).aside_s == pytest.approx(10.0)


def test_what_costs_nothing_has_no_latency_or_no_bytes() -> None:
    network, sender, receiver = pair()
    assert (
        TransferDemands(network, frozenset({"collective_latency"}))(sender, receiver, (0, 0), 9).latency_s
        == 0
    )
    assert not any(
        TransferDemands(network, frozenset({"collective_bytes"}))(sender, receiver, (0, 0), 9).n_bytes
    )


def test_each_pair_of_ranks_is_priced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, sender, receiver = pair()
    priced = []
    kv_cache = kv_transfer.kv_cache

    def noted(*args: Any, **more: Any) -> Any:
        priced.append(args)
        return kv_cache(*args, **more)

    monkeypatch.setattr(kv_transfer, "kv_cache", noted)
    demands = TransferDemands(network, frozenset())
    for tokens in (1, 10, 100):
        demands(sender, receiver, (0, 0), tokens)
    demands(receiver, sender, (0, 0), 1)
    assert len(priced) == 2
