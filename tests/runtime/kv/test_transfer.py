"""KV transfers: blocks before bytes, first come first served, and the sender's blocks until the last byte."""

from __future__ import annotations

from typing import Any

import pytest
import simpy

from sim.runtime.engine.queue import HeldBlocks
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.transfer import KvTransfers
from sim.scenario import Scenario, with_changes
from sim.simulate import Result, simulate
from tests.laws.folding_scenarios import small

NIC = "topology.links.infiniband-ndr.bytes_per_s"


def scenario(
    decode: dict[str, Any] | None = None, hand_over: dict[str, Any] | None = None, **workload: Any
) -> Scenario:
    """Two servers of H100: one replica prefills in the first, others decode in the second."""
    tp8 = {"tensor_parallel_size": 8}
    return Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "nodes": 2,
            "model": small("llama-3-8b"),
            "pools": {"prefill": {"engine": tp8}, "decode": {"engine": tp8, **(decode or {})}},
            "hand_over": hand_over or {},
            "workload": {
                "arrivals": {"kind": "burst"},
                "prompt_tokens": 1600,
                "output_tokens": 4,
                "requests": 4,
                **workload,
            },
        }
    )


def run(*args: Any, **more: Any) -> Result:
    return simulate(scenario(*args, **more))


def test_transfers_to_a_full_receiver_wait_in_line_and_none_overtakes() -> None:
    """Blocks for one long prompt at a time, with room for short ones beside it: those wait too."""
    blocks = {"engine": {"tensor_parallel_size": 8, "num_gpu_blocks_override": 120}}
    frame = run(blocks, prompt_tokens={"kind": "uniform", "low": 160, "high": 1600}, requests=12).hand_overs
    by_prefill = frame.sort("prefilled_s", "request_id")
    assert by_prefill["reserved_s"].is_sorted()
    waited = by_prefill.filter(by_prefill["reserved_s"] > by_prefill["prefilled_s"])
    assert len(waited) > 3


def test_a_router_sees_transfers_under_way_as_requests_of_their_receiver() -> None:
    two = {"replicas": 2, "engine": {"tensor_parallel_size": 4}}
    receivers = run(two, requests=4).hand_overs["receiver"].to_list()
    assert sorted(receivers) == [1, 1, 2, 2]
    seen = []

    def look(request: Any, replicas: Any, random: Any) -> int:
        seen.append([(one.requests, one.tokens) for one in replicas])
        return 0

    run(two, {"router": look}, requests=2, output_tokens=1, prompt_tokens=100)
    (first, second) = seen
    assert first == [(0, 0), (0, 0)]
    assert second == [(1, 100), (0, 0)]


def test_the_sender_holds_its_blocks_until_the_cache_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []
    free, arrived = HeldBlocks.free, KvTransfers._arrived

    def noted(held: HeldBlocks) -> None:
        assert held.block_pool.used > 0
        freed.append(1)
        free(held)

    def before(transfers: KvTransfers, pending: Any) -> None:
        already = len(freed)
        assert pending.target_queue.block_pool.used >= pending.blocks == -(-1601 // 16)
        arrived(transfers, pending)
        assert len(freed) == already + 1

    monkeypatch.setattr(HeldBlocks, "free", noted)
    monkeypatch.setattr(KvTransfers, "_arrived", before)
    run()
    assert len(freed) == 4


def test_a_cancelled_transfer_stops_and_gives_all_its_blocks_back() -> None:
    """Slow NICs, room for one prompt at the receiver: the second can go only when the first is given up."""
    blocks = {"engine": {"tensor_parallel_size": 8, "num_gpu_blocks_override": 120}}
    one = scenario(
        blocks, requests=2, arrivals={"kind": "constant", "rate_per_s": 10.0},
        classes={"hasty": {"share": 0.5, "timeout_s": 0.35}, "calm": {"share": 0.5}},
    )  # fmt: skip
    slow = with_changes(one, {NIC: "5 MB/s"})
    result = next(
        found
        for found in (simulate(slow, seed=seed) for seed in range(20))
        if found.requests["request_class"].to_list() == ["hasty", "calm"]
    )
    gone, stays = result.requests.iter_rows(named=True)
    assert (gone["status"], stays["status"]) == ("aborted", "finished")
    assert result.hand_overs["request_id"].to_list() == [1]
    assert result.hand_overs["reserved_s"][0] == pytest.approx(gone["aborted_s"]) == gone["arrival_s"] + 0.35
    whole = result.summary()["kv_hand_over_bytes"]
    sent = result.links.filter(result.links["link"].str.contains(r"^leaf\d+->node1"))["n_bytes"].sum()
    assert whole < sent < 1.9 * whole


def test_what_other_traffic_takes_from_a_transfer_is_charged_to_sharing_and_the_rest_to_the_hand_over() -> (
    None
):
    def beside(env: simpy.Environment, fabric: Fabric) -> Any:
        nics = [link for link in fabric.links if str(link).startswith("leaf") and "node1.nic" in str(link)]
        yield fabric.transfer(dict.fromkeys(nics, 50e9))

    one = scenario(requests=1)
    alone, shared = simulate(one), simulate(one, beside=[beside])
    way, slower = (
        float((run.hand_overs["arrived_s"] - run.hand_overs["prefilled_s"])[0]) for run in (alone, shared)
    )
    assert alone.blame["hand_over"][0] == pytest.approx(way)
    assert slower > 1.5 * way
    assert shared.blame["hand_over"][0] == pytest.approx(way, rel=1e-6)
    assert shared.blame["sharing"][0] - alone.blame["sharing"][0] == pytest.approx(slower - way, rel=1e-6)


def test_layerwise_sends_all_but_the_last_layer_behind_the_step_and_that_one_after_it() -> None:
    starts: list[tuple[float, float]] = []
    send = KvTransfers._send

    def noted(transfers: KvTransfers, pending: Any, part: float, on_sent: Any, behind_s: float = 0.0) -> None:
        starts.append((part, behind_s))
        send(transfers, pending, part, on_sent, behind_s)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(KvTransfers, "_send", noted)
        result = run(hand_over={"kv": "layerwise"}, requests=1)
    (early, behind_s), (last, after_s) = starts
    assert (early, last, after_s) == (3 / 4, 1 / 4, 0.0)
    assert behind_s == pytest.approx(result.steps["first_step_s"][0])
    assert result.hand_overs["reserved_s"][0] < result.hand_overs["prefilled_s"][0]


def test_a_receiver_counts_what_was_sent_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []
    choose = KvTransfers._choose

    def noted(transfers: KvTransfers, *what: Any) -> Any:
        chosen.append(choose(transfers, *what))
        return chosen[-1]

    monkeypatch.setattr(KvTransfers, "_choose", noted)
    run({"replicas": 2, "engine": {"tensor_parallel_size": 4}}, requests=5)
    assert len(chosen) == 5 == sum({one.index: one.routed for one in chosen}.values())


def test_while_transfers_wait_every_block_has_its_holder_and_none_waits_for_what_is_free() -> None:
    blocks = {"engine": {"tensor_parallel_size": 8, "num_gpu_blocks_override": 120}}
    lengths = {"kind": "uniform", "low": 160, "high": 1600}
    assert simulate(scenario(blocks, prompt_tokens=lengths, requests=8), check=True).is_complete
