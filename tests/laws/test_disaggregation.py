"""Laws of prefill apart from decode: nothing is lost on the way, and the way costs what its links say."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sim.catalog import load_model
from sim.cost.batch import Batch
from sim.cost.network import Network
from sim.cost.stage_cost import StageCost
from sim.deployment import shards_of
from sim.inputs.errors import InfeasibleError
from sim.scenario import Scenario, with_changes
from sim.simulate import simulate
from tests.laws.folded_and_played import differences
from tests.laws.folding_scenarios import small

TRAFFIC: dict[str, Any] = {
    "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
    "prompt_tokens": {"kind": "uniform", "low": 500, "high": 6000},
    "output_tokens": {"kind": "uniform", "low": 1, "high": 60},
    "requests": 40,
}
GB_PER_TOKEN = 2 * 80 * 8 * 128 * 2  # both, layers, KV heads, head size, bytes


def pools(prefill: dict[str, Any], decode: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Llama-3-70B on two servers of H100, its prefill and decode pools as given."""
    return {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": "llama-3-70b",
        "workload": TRAFFIC,
        "pools": {"prefill": prefill, "decode": decode},
        **more,
    }


def tensor(size: int, replicas: int = 1, pipeline: int = 1, **engine: Any) -> dict[str, Any]:
    sizes = {"tensor_parallel_size": size, "pipeline_parallel_size": pipeline}
    return {"replicas": replicas, "engine": {**sizes, **engine}}


POOLS = {
    "equal pools": pools(tensor(8), tensor(8)),
    "two of four ranks to one of eight": pools(tensor(4, 2), tensor(8)),
    "layer by layer": pools(tensor(4, 2), tensor(8), hand_over={"kv": "layerwise"}),
    "first token from prefill": pools(tensor(8), tensor(4, 2), hand_over={"first_token": "prefill"}),
    "two stages to one": pools(tensor(4, pipeline=2), tensor(8)),
    "one stage to two": pools(tensor(4, 2), tensor(4, pipeline=2), hand_over={"kv": "layerwise"}),
    "few blocks to land on": pools(tensor(8), tensor(8, num_gpu_blocks_override=800)),
}


@cache
def asked_for() -> dict[int, int]:
    """Output tokens of the requests of `TRAFFIC`, by a service that has prefill and decode in one place."""
    requests = simulate(Scenario.model_validate({**ALONE, "workload": TRAFFIC})).requests
    return dict(zip(requests["request_id"], requests["generated_tokens"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLS)
def test_every_token_asked_for_comes_out_of_the_pools_and_every_prompt_goes_over_once(name):
    result = simulate(Scenario.model_validate(POOLS[name]))
    requests, hand_overs = result.requests, result.hand_overs
    assert set(requests["status"]) == {"finished"}
    assert dict(zip(requests["request_id"], requests["generated_tokens"], strict=True)) == asked_for()
    handed = set(hand_overs["request_id"])
    assert len(handed) == len(hand_overs)
    single = set(requests.filter(requests["output_tokens"] == 1)["request_id"])
    may_end_at_prefill = single if name == "first token from prefill" else set()
    assert handed == set(requests["request_id"]) - may_end_at_prefill


@pytest.mark.parametrize("name", POOLS)
def test_bytes_handed_over_are_the_kv_bytes_of_the_prompts(name):
    result = simulate(Scenario.model_validate(POOLS[name]))
    prompts = dict(zip(result.requests["request_id"], result.requests["prompt_tokens"], strict=True))
    tokens = sum(prompts[request] for request in result.hand_overs["request_id"])
    assert result.summary()["kv_hand_over_bytes"] == pytest.approx(GB_PER_TOKEN * tokens, rel=1e-12)


@pytest.mark.parametrize(
    "name", ["equal pools", "two of four ranks to one of eight", "layer by layer", "two stages to one"]
)
def test_between_servers_each_kv_byte_crosses_one_nic_once_however_it_is_resharded(name):
    result = simulate(Scenario.model_validate(POOLS[name]))
    into = result.links.filter(result.links["link"].str.contains(r"^leaf\d+->node1"))["n_bytes"].sum()
    assert into == pytest.approx(result.summary()["kv_hand_over_bytes"], rel=1e-9)


def test_layer_by_layer_only_the_last_layer_is_waited_for():
    whole, behind = (simulate(Scenario.model_validate(POOLS[name])).hand_overs for name in
                     ("two of four ranks to one of eight", "layer by layer"))  # fmt: skip

    def exposed_s(frame: Any) -> Any:
        return (frame["arrived_s"] - frame["prefilled_s"]).to_numpy()

    assert np.median(exposed_s(behind)) < np.median(exposed_s(whole)) / 20


@pytest.mark.parametrize("nic_rate", ["x1", "x0.01"])
def test_layers_leave_as_they_are_computed(nic_rate):
    """Nothing before the first layer is there, all but the last when they are computed, that one then."""
    one = {
        **pools(tensor(8), tensor(8), hand_over={"kv": "layerwise"}),
        "model": "llama-3-8b",
        "workload": {"arrivals": {"kind": "burst"}, "prompt_tokens": 4000, "output_tokens": 3, "requests": 1},
    }
    scenario = with_changes(
        Scenario.model_validate(one), {"topology.links.infiniband-ndr.bytes_per_s": nic_rate}
    )
    result = simulate(scenario)
    ((began_s, ended_s, arrived_s),) = zip(
        result.steps["start_s"][:1],
        result.hand_overs["prefilled_s"],
        result.hand_overs["arrived_s"],
        strict=True,
    )
    layer_s = (ended_s - began_s) / 32
    nic = result.links.filter(result.links["link"] == "leaf0->node1.nic0")
    alone_s = nic["n_bytes"][0] / nic["bytes_per_s"][0]
    if nic_rate == "x1":  # all at once, just in time, and one layer alone
        assert nic["busy_s"][0] == pytest.approx(alone_s, rel=0.12)
        assert arrived_s - ended_s < layer_s / 5
    else:  # the network is behind from the first layer on
        assert nic["busy_s"][0] > alone_s
        assert arrived_s - began_s == pytest.approx(layer_s + nic["busy_s"][0], abs=0.1 * layer_s)


MIXED: dict[str, Any] = {
    "topology": {"systems": {"cheap": {"topology": "l40s-12", "nodes": 2}, "quick": "nd-h100-v5"}},
    "model": "llama-3-8b",
    "workload": TRAFFIC,
    "pools": {
        "decode": {
            "replicas": 3, "gpu": "l40s", "engine": {"tensor_parallel_size": 2, "max_model_len": 8192},
        },
        "prefill": {"replicas": 2, "gpu": "h100-sxm", "engine": {"tensor_parallel_size": 4}},
    },
}  # fmt: skip


@pytest.mark.slow
def test_pools_may_be_of_different_kinds_of_gpu():
    """Prefill on H100, decode on L40S: each at the pace of its own kind, joined by the network of both."""
    found, result = differences(MIXED)
    assert found == []
    assert set(result.requests["status"]) == {"finished"}
    assert (result.requests["generated_tokens"] == result.requests["output_tokens"]).all()
    tokens = result.requests["prompt_tokens"].sum()
    assert result.summary()["kv_hand_over_bytes"] == pytest.approx(131_072 * tokens, rel=1e-12)
    into = result.links.filter(result.links["link"].str.contains(r"^leaf\d+->node[01]"))["n_bytes"].sum()
    assert into == pytest.approx(131_072 * tokens, rel=1e-9)  # over NICs, once
    busy = dict(zip(result.gpus["gpu"], result.gpus["busy_s"], strict=True))
    assert {gpu.partition(".")[0] for gpu, seconds in busy.items() if seconds > 0.0} == {"node0", "node2"}

    def step_s(gpu: str, role: str) -> float:
        alone = {
            **ALONE,
            "topology": gpu,
            "model": "llama-3-8b",
            "workload": {**ALONE["workload"], "output_tokens": 2},
        }
        alone["engine"] = MIXED["pools"][role]["engine"]
        alone["without"] = ()
        row = 0 if role == "prefill" else -1
        return float(simulate(Scenario.model_validate(alone)).steps["first_step_s"][row])

    one = {
        **MIXED,
        "workload": {**ALONE["workload"], "output_tokens": 2},
        "hand_over": {"first_token": "prefill"},
    }
    steps = simulate(Scenario.model_validate(one)).steps.sort("start_s")
    assert steps["first_step_s"][0] == pytest.approx(step_s("nd-h100-v5", "prefill"), rel=1e-9)
    assert steps["first_step_s"][1] == pytest.approx(step_s("l40s-12", "decode"), rel=1e-9)


def test_a_pool_on_gpus_that_are_not_there_is_refused_with_those_that_are():
    wrong = {**MIXED, "pools": {**MIXED["pools"], "decode": {"gpu": "h200-sxm"}}}
    with pytest.raises(ValidationError, match=r"pools.decode.gpu: .*'h200-sxm'; there are h100-sxm, l40s"):
        Scenario.model_validate(wrong)
    too_many = {**MIXED, "pools": {**MIXED["pools"], "prefill": {"gpu": "h100-sxm", "replicas": 9}}}
    with pytest.raises(InfeasibleError, match="need"):
        simulate(Scenario.model_validate(too_many))
    both = {**MIXED, "placement": {"kind": "explicit", "ranks": [[0]]}}
    with pytest.raises(InfeasibleError, match="leave out gpu"):
        simulate(Scenario.model_validate(both))


def test_blocks_are_reserved_before_anything_is_sent_and_never_more_than_there_are():
    result = simulate(Scenario.model_validate(POOLS["few blocks to land on"]))
    frame = result.hand_overs
    waited_s = (frame["reserved_s"] - frame["prefilled_s"]).to_numpy()
    assert (frame["arrived_s"] > frame["reserved_s"]).all()
    assert waited_s.max() > 0.1  # somebody stood in line
    blocks = {row: -(-(tokens + 1) // 16) for row, tokens in enumerate(result.requests["prompt_tokens"])}
    finished = dict(zip(result.requests["request_id"], result.requests["finished_s"], strict=True))
    for moment in frame["reserved_s"]:
        held = sum(
            blocks[request]
            for request, since in zip(frame["request_id"], frame["reserved_s"], strict=True)
            if since <= moment < finished[request]
        )
        assert held <= 800


ALONE: dict[str, Any] = {
    "topology": "nd-h100-v5",
    "model": "llama-3-8b",
    "workload": {
        "arrivals": {"kind": "burst"}, "prompt_tokens": 3000, "output_tokens": 40, "requests": 1,
    },
    "without": ("collective_latency", "collective_bytes"),
}  # fmt: skip
APART: dict[str, Any] = {**ALONE, "pools": {"prefill": {}, "decode": {}}}


def test_over_an_infinite_network_one_request_takes_as_long_as_in_one_place():
    co_located = simulate(Scenario.model_validate(ALONE)).requests
    apart = simulate(Scenario.model_validate({**APART, "hand_over": {"first_token": "prefill"}})).requests
    for column in ("first_token_s", "finished_s"):
        assert apart[column][0] == pytest.approx(co_located[column][0], rel=1e-12)


def test_with_the_first_token_from_decode_it_takes_exactly_one_decode_step_longer():
    scenario = Scenario.model_validate(ALONE)
    (pool,) = scenario.all_pools.values()
    network = Network(scenario.wired.graph)
    cost = StageCost(shards_of(pool, scenario, network.gpus[:1])[0], network)
    step_s, _ = cost.step(Batch(decodes=1, decode_kv_tokens=3000, sampled=1))
    co_located = simulate(scenario).requests
    apart = simulate(Scenario.model_validate(APART)).requests
    for column in ("first_token_s", "finished_s"):
        assert apart[column][0] - co_located[column][0] == pytest.approx(step_s, rel=1e-9)


@pytest.mark.slow
def test_a_hand_over_and_the_collectives_it_meets_both_see_each_other():
    deep = {**small("deepseek-v3", 12)}
    apart = {
        "topology": "hgx-h200",
        "nodes": 3,
        "model": deep,
        "precision": {"weights": "fp8", "kv_cache": "bf16"},
        "pools": {
            "prefill": {"engine": {"data_parallel_size": 8, "enable_expert_parallel": True}},
            "decode": {"engine": {"data_parallel_size": 16, "enable_expert_parallel": True}},
        },
        "workload": {
            "arrivals": {"kind": "poisson", "rate_per_s": 60.0},
            "prompt_tokens": 6000, "output_tokens": 40, "requests": 60,
        },
    }  # fmt: skip
    scenario = Scenario.model_validate(apart)
    result = simulate(scenario)
    nics = result.links.filter(result.links["link"].str.contains(r"^leaf\d+->node1.nic"))
    assert (nics["shared_s"] > 0.0).all()
    assert result.blame["sharing"].sum() > 0.0
    unshared = simulate(scenario, without=("sharing",))
    late = (result.hand_overs["arrived_s"] - result.hand_overs["reserved_s"]).sum()
    alone = (unshared.hand_overs["arrived_s"] - unshared.hand_overs["reserved_s"]).sum()
    assert late > alone * 1.01
    assert result.summary()["mean_itl_ms"] > unshared.summary()["mean_itl_ms"]


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLS)
def test_folded_pools_leave_the_records_of_played_ones(name):
    found, _ = differences({**POOLS[name], "model": small("llama-3-70b", 6)})
    assert found == []


def test_a_latent_cache_goes_to_the_data_parallel_rank_that_will_read_it():
    apart = {
        "topology": "hgx-h200",
        "nodes": 3,
        "model": small("deepseek-v3", 8),
        "precision": {"weights": "fp8", "kv_cache": "bf16"},
        "pools": {
            "prefill": {"engine": {"tensor_parallel_size": 8}},
            "decode": {"engine": {"data_parallel_size": 8, "enable_expert_parallel": True}},
        },
        "workload": {
            "arrivals": {"kind": "burst"}, "prompt_tokens": 1000, "output_tokens": 20, "requests": 32,
        },
    }  # fmt: skip
    found, result = differences(apart)
    assert found == []
    into = result.links.filter(result.links["link"].str.contains(r"^leaf\d+->node1.nic"))["n_bytes"]
    each = 4 * 1000 * load_model("deepseek-v3").mla.cached_values * 2 * 8  # type: ignore[union-attr]
    assert into.to_list() == pytest.approx([each] * 8, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_a_decode_pool_short_of_blocks_preempts_and_serves_everybody(policy: str) -> None:
    """Whose cache has come and waits holds blocks that the preempted one before it needs: it goes first."""
    lengths = {"kind": "lognormal", "cv": 1.0}
    found, folded = differences(
        {
            "topology": "nd-h100-v5",
            "model": small("llama-3-8b"),
            "pools": {
                "prefill": {"role": "prefill", "engine": {}},
                "decode": {
                    "role": "decode",
                    "replicas": 2,
                    "engine": {
                        "num_gpu_blocks_override": 120,
                        "max_num_seqs": 16,
                        "scheduling_policy": policy,
                    },
                },
            },
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": 200},
                "prompt_tokens": {**lengths, "mean": 300},
                "output_tokens": {**lengths, "mean": 100},
                "requests": 120,
            },
        }
    )
    assert found == []
    assert set(folded.requests["status"]) <= {"finished", "rejected"}
    assert folded.requests["preemptions"].sum() > 10
