"""Every key of the schema has a rule, and the word of a key is the one that a reader of the run would say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.effects.words import rule_of
from sim.results.key_words import Acted, DidNotBind, NoEffect, name_of
from sim.scenario.written_keys import LABELS
from tests.laws.every_key import all_keys
from tests.laws.key_scenarios import SCENARIOS, chat, server, small


def test_every_key_of_the_schema_has_a_rule() -> None:
    keys = {re.sub(r"\{\w+\}", "", name) for name in all_keys()}
    lacking = {
        key for key in keys if rule_of(key) is None and not set(re.split(r"[.\[\]]+", key)) & set(LABELS)
    }
    assert not lacking


def words(written: dict[str, Any]) -> dict[str, Any]:
    result = sim.simulate(sim.Scenario.model_validate(written))
    return {name_of(key): word for key, word in result.key_words.words.items()}


def one_gpu(**more: Any) -> dict[str, Any]:
    return {"topology": "nd-h100-v5", "model": small("llama-3-8b"), "workload": chat(6), **more}


NO_EFFECT: dict[str, dict[str, Any]] = {
    "engine.expert_routing.popularity": one_gpu(engine={"expert_routing": {"popularity": "zipf"}}),
    "engine.dispatch_dtype": one_gpu(engine={"dispatch_dtype": "bf16"}),
    "engine.enable_prefix_caching": one_gpu(engine={"enable_prefix_caching": False}),
    "engine.disable_custom_all_reduce": one_gpu(engine={"disable_custom_all_reduce": True}),
    "engine.host.step_s": one_gpu(engine={"host": {"step_s": 0.5}}),
    "engine.host.sequence_s": one_gpu(engine={"host": {"sequence_s": 1e-9}}),
    "engine.inter_node": one_gpu(engine={"inter_node": "infiniband"}),
    "engine.long_prefill_token_threshold": one_gpu(
        engine={"scheduler": "static", "long_prefill_token_threshold": 64}
    ),
    "engine.pipeline_split": one_gpu(engine={"pipeline_split": "even"}),
    "engine.gpu_memory_utilization": one_gpu(
        engine={"gpu_memory_utilization": 0.5, "free_gpu_memory_fraction": 0.5}
    ),
    "precision.experts": one_gpu(precision={"experts": "fp8"}),
    "router.kind": one_gpu(router={"kind": "nearest", "requests_per_hop": 3}),
    "router.requests_per_hop": one_gpu(router={"kind": "nearest", "requests_per_hop": 3}),
    "router_staleness_s": one_gpu(router_staleness_s=0.1),
    "hand_over.kv": one_gpu(hand_over={"kv": "layerwise"}),
    "kv_reload": one_gpu(kv_reload="always"),
    "on_failure": one_gpu(on_failure="abort"),
    "faults[0].link": one_gpu(faults=[{"at_s": 0, "link": "node0.gpu0->nvlink0", "capacity": 0.1}]),
    "faults[0].gpu": one_gpu(faults=[{"at_s": 0, "gpu": "node0.gpu7"}]),
    "workload.model": one_gpu(workload=chat(6, model="llama-3-8b")),
    "workload.classes.one.priority": one_gpu(workload=chat(6, classes={"one": {"priority": 2}})),
    "workload.classes.one.share": one_gpu(workload=chat(6, classes={"one": {"share": 2}})),
    "precision.weights": {**server(), "precision": {"weights": "fp8"}},
}


@pytest.mark.parametrize("key", NO_EFFECT)
def test_a_key_that_nothing_reads_has_no_effect_and_the_reason_is_said(key: str) -> None:
    word = words(NO_EFFECT[key])[key]
    assert isinstance(word, NoEffect)
    assert word.why


def test_limits_that_nothing_came_near_did_not_bind_and_the_peak_is_said() -> None:
    found = words(
        one_gpu(engine={"max_num_seqs": 256, "max_num_batched_tokens": 8000, "max_model_len": 8000})
    )
    told = found["engine.max_num_seqs"]
    assert isinstance(told, DidNotBind)
    limit, _, peak = told.what.partition(", peak ")
    assert limit == "256"
    assert 1 <= int(peak) <= 6
    for key in ("max_num_batched_tokens", "max_model_len"):
        assert isinstance(found[f"engine.{key}"], DidNotBind)


def test_the_same_limits_act_where_the_run_comes_up_to_them() -> None:
    few = {
        "max_num_seqs": 2,
        "num_gpu_blocks_override": 80,
        "max_num_batched_tokens": 64,
        "max_model_len": 1000,
    }
    found = words(one_gpu(engine=few, workload=chat(12, 2000.0)))
    for key in ("max_num_seqs", "num_gpu_blocks_override", "max_num_batched_tokens"):
        assert isinstance(found[f"engine.{key}"], Acted)


def test_links_that_carry_nothing_have_no_effect_and_those_that_do_act() -> None:
    machine = {**sim.load_topology("nd-h100-v5").model_dump(), "name": "mine"}
    found = words(one_gpu(topology=machine, engine={"tensor_parallel_size": 8}))
    assert isinstance(found["topology.links.nvlink4.bytes_per_s"], Acted)
    assert isinstance(found["topology.links.nvlink4.latency_s"], Acted)
    assert isinstance(found["topology.links.infiniband-ndr.bytes_per_s"], NoEffect)
    assert isinstance(found["topology.transports.ib-degraded.bytes_per_s"], NoEffect)


def test_a_link_that_is_not_the_narrowest_did_not_bind() -> None:
    scenario = sim.with_changes(
        SCENARIOS["two servers, degraded InfiniBand"].scenario,
        {"topology.links.pcie5-x16.bytes_per_s": 50e9},
    )
    word = sim.simulate(scenario).key_words.words["topology", "links", "pcie5-x16", "bytes_per_s"]
    assert isinstance(word, DidNotBind)


def test_without_copies_between_gpus_links_that_carry_nothing_are_read() -> None:
    scenario = sim.with_changes(
        SCENARIOS["staged in host memory"].scenario, {"topology.links.nvlink3.latency_s": 4e-7}
    )
    word = sim.simulate(scenario).key_words.words["topology", "links", "nvlink3", "latency_s"]
    assert not isinstance(word, NoEffect)


def test_a_name_sets_one_key_and_a_change_of_a_block_those_in_it() -> None:
    scenario = sim.Scenario(topology="nd-h100-v5", model="llama-3-8b", workload="single-user", replicas=2)  # type: ignore[arg-type]
    assert scenario.keys_written == (("topology",), ("model",), ("workload",), ("replicas",))
    near = sim.with_changes(scenario, {"router": {"kind": "nearest", "requests_per_hop": 2}})
    assert ("router", "requests_per_hop") in near.keys_written
    again = sim.with_changes(near, {"router.kind": "random"})
    assert [key for key in again.keys_written if key[0] == "router"] == [("router", "kind")]


def test_a_topology_of_ones_own_sets_the_keys_of_its_file(tmp_path: Any) -> None:
    (tmp_path / "mine.yaml").write_text(
        "parts: {gpu: {kind: gpu, count: 2, model: h100-sxm}, nvswitch: {kind: nvswitch, latency_s: 1us}}\n"
        "wires: [{from: gpu, to: nvswitch, pattern: all, link: nvlink4, links: 18}]\n"
        "links: {nvlink4: {latency_s: 1us}}\n"
    )
    (tmp_path / "run.yaml").write_text(
        "topology: mine.yaml\nmodel: llama-3-8b\nworkload: single-user\nengine: {max_num_seqs: 4}\n"
    )
    written = sim.load_scenario(tmp_path / "run.yaml").keys_written
    assert ("topology", "links", "nvlink4", "latency_s") in written
    assert ("engine", "max_num_seqs") in written
    assert not any("kernels" in key or "bytes_per_s" in key for key in written)


def test_the_words_are_in_the_summary() -> None:
    result = sim.simulate(sim.Scenario.model_validate(one_gpu(engine={"max_num_seqs": 64, "block_size": 32})))
    told = result.summary()["keys"]
    assert "engine.block_size" in told["acted"]
    assert told["did_not_bind"]["engine.max_num_seqs"].startswith("64, peak ")
    assert told["no_effect"] == {key: why for key, why in told["no_effect"].items() if why}


def test_words_are_there_when_the_trace_is_not_any_more(tmp_path: Path) -> None:
    trace = tmp_path / "requests.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,100,5\n0.1,100,5\n")
    arrivals = {"kind": "trace", "path": str(trace), "limit": 9}
    scenario = {"topology": "nd-h100-v5", "model": small("llama-3-8b"), "workload": {"arrivals": arrivals}}
    result = sim.simulate(sim.Scenario.model_validate(scenario))
    trace.unlink()
    assert result.summary()["keys"]["did_not_bind"]["workload.arrivals.limit"] == "9, 2 rows are played"
