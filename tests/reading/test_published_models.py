"""Every family against what its card says, and against what a step cannot be faster or slower than."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from sim.catalog import load_topology
from sim.cli.model_table import BEGIN, END, table_of
from sim.cost.batch import Batch
from sim.cost.memory import shard_kv_bytes_per_token
from sim.cost.network import Network
from sim.cost.shard import Shard
from sim.cost.stage_cost import StageCost
from sim.inputs.engine import Engine
from sim.inputs.hardware import Gpu
from sim.inputs.model import Model
from sim.inputs.precision import Precision
from sim.reading.huggingface import read_model

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "tests" / "data" / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_within_a_percent_of_the_published(name: str) -> None:
    written = json.loads((CONFIGS / f"{name}.json").read_text())
    model = read_model(CONFIGS / f"{name}.json")
    if published := written.get("_published_parameters"):
        assert model.parameters == pytest.approx(published, rel=0.025 if "_note" in written else 0.01)
    if active := written.get("_published_active_parameters"):  # without the embedding, rounded
        embeddings = model.embedding_parameters + model.lm_head_parameters
        assert active * 0.93 < model.active_parameters < active * 1.05 + embeddings


def test_the_table_of_the_page_is_what_the_command_writes() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == table_of(CONFIGS)


def test_a_million_tokens_of_compressed_entries_are_as_small_as_published() -> None:
    """9.62 GiB a sequence of DeepSeek-V4-Pro in 16 bits, keys of the indexer among them (vLLM's post on it);
    8.7 GiB with those keys in 8 bits.
    """
    model = read_model(CONFIGS / "deepseek-v4-pro.json")
    keys = sum(model.shape_of(layer).index_bytes_per_token_per_layer for layer in range(model.layers))
    in_16_bits = model.kv_bytes_per_token() + keys * (2 * 128 / 132 - 1)
    assert 2**20 * in_16_bits / 2**30 == pytest.approx(9.62, abs=0.005)
    assert 2**20 * model.kv_bytes_per_token() / 2**30 == pytest.approx(8.7, abs=0.05)
    # beside them, of any length: a window in every layer and what the entries to come are made from
    of_window, of_entries = 61 * 128 * 512 * 2, 30 * 8 * 2 * 2 * (512 + 128) * 4 + 31 * 128 * 2 * 512 * 4
    assert model.window_bytes_of_layers(0, 61) == of_window + of_entries


@pytest.mark.parametrize(("name", "experts"), [("deepseek-v4-flash", "w4a8"), ("deepseek-v4-pro", "nvfp4")])
def test_four_bit_experts_of_a_checkpoint_in_eight_bits_are_read(name: str, experts: str) -> None:
    checkpoint = read_model(CONFIGS / f"{name}.json").checkpoint
    assert checkpoint is not None
    assert checkpoint.precision == {"weights": "fp8_block", "experts": experts}


@cache
def machine() -> tuple[Network, Gpu]:
    topology = load_topology("hgx-h200")
    return Network(topology.graph), topology.gpu_models["h200-sxm"]


def stage(name: str, weights: str = "fp8_block") -> StageCost:
    network, gpu = machine()
    model = read_model(CONFIGS / f"{name}.json")
    able = [size for size in (1, 2, 4) if size in model.tensor_parallel_sizes]
    precision = Precision(weights=weights)
    groups = (tuple(network.gpus[: able[-1]]),)
    engine = Engine(tensor_parallel_size=able[-1])
    return StageCost(Shard(model, engine, precision, gpu, groups, 0, model.layers), network)


def entries_seen(shape: Model, tokens: float) -> float:
    """Entries that one token attends to behind `tokens` cached ones."""
    chosen = tokens if shape.indexer is None or shape.shares_index else min(tokens, shape.indexer.topk)
    if shape.compression is not None:
        window, ratio = shape.compression.window, shape.compression.ratio
        return min(tokens, window) + (min(tokens / ratio, chosen) if ratio else 0.0)
    if shape.indexer is not None:
        return min(tokens, shape.indexer.topk)
    near = shape.sliding_layers / shape.layers if shape.sliding_window else 0.0
    return min(tokens, shape.sliding_window or tokens) * near + tokens * (1.0 - near)


def bytes_of_entry(shape: Model, ranks: int) -> float:
    if shape.compression is not None and shape.mla is not None:
        return 2.0 * shape.mla.cached_values
    return shape.kv_bytes_of_layers(0, 1, ranks) - shape.index_bytes_per_token_per_layer


def read_bytes(shard: Shard, batch: int, tokens: int) -> float:
    """Bytes that a rank reads at least in a decode of `batch` texts of `tokens` tokens: the weights, of the
    experts those that are hit, KV caches or what is chosen of them, and states.
    """
    model, ranks = shard.model, shard.tensor_parallel_size
    weights, seen, states = float(model.lm_head_parameters or model.embedding_parameters), 0.0, 0.0
    for layer in range(model.layers):
        shape = model.shape_of(layer)
        weights += model.layer_parameters(layer)
        if model.is_moe_layer(layer):
            idle = (1.0 - shape.experts_per_token / shape.experts) ** batch
            weights -= idle * shape.experts * shape.expert_parameters
        seen += tokens * shape.index_bytes_per_token_per_layer
        if shape.keeps_kv:
            seen += entries_seen(shape, tokens) * bytes_of_entry(shape, ranks)
        states += 2 * shape.linear.of_rank(ranks).state_bytes if shape.linear is not None else 0.0
    return weights / ranks + batch * (seen + states)


@pytest.mark.parametrize("name", NAMES)
def test_a_decode_takes_between_one_and_three_times_its_bytes_over_the_bandwidth(name: str) -> None:
    """Without the starts of kernels, the host and collectives, which do not grow with bytes in HBM."""
    cost, sequences, tokens = stage(name), 64, 4000
    batch = Batch(decodes=sequences, decode_kv_tokens=sequences * tokens, sampled=sequences)
    bound_s = read_bytes(cost.shard, sequences, tokens) / cost.shard.gpu.hbm_bytes_per_s
    seconds, causes = cost.step(batch)
    assert bound_s < seconds
    assert causes.memory + causes.compute < 3 * bound_s


@pytest.mark.parametrize("name", NAMES)
def test_a_prefill_takes_between_one_and_three_times_its_arithmetic_and_bytes(name: str) -> None:
    """In 16 bits, of whose kernels most were measured, and without collectives: products of all weights with
    the tokens, pairs of tokens in attention, and every weight read once.
    """
    cost, tokens = stage(name, "bf16"), 8192
    model, ranks = cost.shard.model, cost.shard.tensor_parallel_size
    passed = model.active_parameters - model.embedding_parameters - model.lm_head_parameters
    flops = 2.0 * passed * tokens
    pairs = {
        id(shape): sum(entries_seen(shape, past + 0.5) for past in range(tokens)) for shape in model.shapes
    }
    for layer in range(model.layers):
        shape = model.shape_of(layer)
        if shape.keeps_kv:
            flops += 2.0 * pairs[id(shape)] * (shape.query_width + shape.output_width)
    bound_s = flops / (ranks * cost.shard.gpu.flops["bf16"])
    read_s = 2.0 * model.parameters / ranks / cost.shard.gpu.hbm_bytes_per_s
    seconds, causes = cost.step(Batch(chunks=((tokens, 0),), sampled=1))
    assert bound_s < seconds
    assert causes.memory + causes.compute < 3 * (bound_s + read_s)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_layers_of_several_kinds_is_exact(name: str) -> None:
    """One step, many steps and the program of a step are the same float."""
    cost = stage(name)
    decodes = Batch(decodes=16, decode_kv_tokens=16 * 900.0, sampled=16)
    seconds, causes_of = cost.decode_steps(decodes, 20)
    for step in (0, 7, 19):
        assert seconds[step] == cost.step(decodes.grown(step))[0]
    assert sum(causes_of(20)) == pytest.approx(seconds.sum())
    mixed = decodes._replace(chunks=((500, 100),), sampled=17)
    for batch in (decodes, mixed):
        program = cost.program(batch)
        assert program.total_s == cost.step(batch)[0]
        assert sum(block.repeat for block in program.blocks) >= len(program.blocks)
        last = program.blocks[-2]
        assert last.offsets_s[-1] + last.ops[-1].seconds == pytest.approx(last.period_s)
        assert program.traffic().links == cost.traffic(batch).links
    assert shard_kv_bytes_per_token(cost.shard) > 0
