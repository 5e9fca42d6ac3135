from __future__ import annotations

from typing import Any

import pytest

from sim.cost.batch import Batch
from sim.cost.kernels.kernels import formula
from sim.cost.kernels.timing import KernelTiming
from sim.cost.launches import PIECEWISE_LAUNCH_S
from sim.cost.network import Network
from sim.cost.pricing import Pricer
from sim.cost.program import Op
from sim.cost.step_templates import Templates
from sim.deployment import shards_of
from sim.inputs.engine import MAX_GRAPH_TOKENS
from sim.scenario.scenario import Scenario


def templates(
    topology: str = "nd-h100-v5",
    model: str = "llama-3-8b",
    without: frozenset[str] = frozenset(),
    **engine: Any,
) -> Templates:
    """Of the first stage of a model."""
    scenario = Scenario.model_validate(
        {"topology": topology, "model": model, "workload": "single-user", "engine": engine}
    )
    network = Network(scenario.wired.graph)
    (pool,) = scenario.all_pools.values()
    shard = shards_of(pool, scenario, network.gpus[: pool.engine.world_size])[0]
    return Templates(Pricer(shard, network, without, formula))


def decodes(sequences: int) -> Batch:
    return Batch(decodes=sequences, decode_kv_tokens=1000 * sequences, sampled=sequences)


def test_decodes_in_one_captured_graph_share_a_template_but_for_what_they_sample() -> None:
    of = templates().of
    assert of(decodes(17)).layers is of(decodes(24)).layers
    assert of(decodes(17)).layers is not of(decodes(25)).layers
    assert of(decodes(17)) is of(decodes(17)._replace(decode_kv_tokens=9e6))
    assert of(decodes(24)).tail_s > of(decodes(17)).tail_s


def test_without_graphs_every_kernel_of_a_layer_waits_for_its_launch() -> None:
    eager = templates(enforce_eager=True, host={"launch_s": 1e-3})
    (run,) = eager.of(decodes(8)).layers
    kind = run.first
    # Attention writes the cache and puts the parts of split contexts together: two launches more.
    assert kind.launch_s == pytest.approx(1e-3 * (len(kind.before) + 3 + len(kind.after)))


def test_a_replayed_graph_launches_nothing_and_one_with_prefill_a_piece_a_layer() -> None:
    of = templates().of
    assert of(decodes(8)).layers[0].first.launch_s == 0.0
    assert of(Batch(chunks=((8, 0),), sampled=1)).layers[0].first.launch_s == PIECEWISE_LAUNCH_S


def test_without_the_host_nothing_waits_for_a_launch() -> None:
    (run,) = templates(without=frozenset({"host"}), enforce_eager=True).of(decodes(8)).layers
    assert run.first.launch_s == 0.0


def test_graphs_are_captured_for_twice_what_may_run() -> None:
    """vLLM's `VllmConfig._set_cudagraph_sizes`: beyond the largest graph a step has the tokens it has."""
    few, many = templates(max_num_seqs=64), templates(max_num_seqs=256)
    mixed = Batch(chunks=((200, 0),), decodes=60, decode_kv_tokens=6000.0, sampled=61)
    assert (
        few.of(mixed).layers[0].first.launch_s > many.of(mixed).layers[0].first.launch_s == PIECEWISE_LAUNCH_S
    )


def test_the_largest_capture_size_costs_no_memory_and_captures_every_step() -> None:
    found = templates(max_cudagraph_capture_size=MAX_GRAPH_TOKENS)
    assert len(found._capture) < 100_000
    assert found.of(decodes(1000)).layers is found.of(decodes(1008)).layers


def test_a_block_puts_attention_between_the_two_parts_of_its_layer() -> None:
    (run,) = templates().of(decodes(8)).layers
    kind = run.first
    block = run.block((KernelTiming(5e-6, 0.0, 0.0, 5e-6),), 0.0)
    assert block.ops == (*kind.before, Op("attention", 5e-6), *kind.after)
    assert block.period_s == kind.before_s + 5e-6 + kind.after_s
    assert block.offsets_s[len(kind.before)] == pytest.approx(kind.before_s)
    assert block.repeat == 32


def test_the_largest_captured_graph_serves_its_own_size_and_none_beyond() -> None:
    of = templates(max_num_seqs=64).of
    largest = 128
    assert of(decodes(largest)).layers[0].first.launch_s == 0.0
    assert of(decodes(largest)).layers is of(decodes(largest - 7)).layers
    assert of(decodes(largest + 1)).layers is not of(decodes(largest)).layers


def test_small_graphs_are_captured_for_one_two_and_four_tokens() -> None:
    of = templates().of
    assert of(decodes(3)).layers is of(decodes(4)).layers
    assert len({id(of(decodes(n)).layers) for n in (1, 2, 4, 5)}) == 4


def test_the_host_comes_before_the_layers_once() -> None:
    template = templates(host={"step_s": 1e-3}, async_scheduling=False).of(decodes(8))
    assert template.before_layers_s > 1e-3
    assert sum(block.period_s * block.repeat for block in template.before_layers) == template.before_layers_s
