"""KV blocks over time: what sequences hold at every moment, in prefill, in pools, in pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.results.over_time import blocks_in_use, over_time
from sim.runtime.engine import queue as engine_queue
from sim.scenario.scenario import Scenario
from sim.simulate import Result, simulate

GIVEN = {"service_time": {"step_s": 1.0}, "async_scheduling": False}


def service(engine: dict[str, Any], **workload: Any) -> dict[str, Any]:
    one = {"arrivals": {"kind": "burst"}, "prompt_tokens": 160, "output_tokens": 33, "requests": 1}
    engine = {**GIVEN, **engine}
    return {
        "topology": "a100-x4", "model": "llama-3-8b", "engine": engine, "workload": {**one, **workload},
    }  # fmt: skip


def ran(data: dict[str, Any]) -> Result:
    return simulate(Scenario.model_validate(data))


def test_a_prompt_in_chunks_holds_the_blocks_of_the_chunks_that_have_begun() -> None:
    frame = over_time(ran(service({"max_num_batched_tokens": 64})).records, every_s=0.5)
    assert frame["kv_blocks"].head(5).to_list() == [4, 8, 8, 10, 10]
    assert frame["kv_blocks"].max() == 10 + 2  # 160 prompt tokens and 32 of the answer: the last is not kept
    assert frame["kv_blocks"].tail(1).item() == 0


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_the_blocks_of_all_batches_in_flight_are_counted(stages: int) -> None:
    """Eight prompts of ten blocks, all of them admitted, however many batches they decode in."""
    engine = {"pipeline_parallel_size": stages, "service_time": None, "max_num_seqs": 8}
    result = ran(service(engine, requests=8, output_tokens=200))
    in_decode_s = float(np.max(result.requests["first_token_s"].to_numpy())) * 1.01
    columns = {name: result.kv_blocks[name].to_numpy() for name in result.kv_blocks.columns}
    assert 80 <= blocks_in_use(np.array([in_decode_s]), columns)[0, 0][0] <= 90


def test_a_prefill_pool_holds_blocks_until_the_kv_cache_has_arrived() -> None:
    data = service({"service_time": None}, requests=12, prompt_tokens=4000)
    data |= {"pools": {"prefill": {"role": "prefill"}, "decode": {"role": "decode"}}}
    result = ran(data)
    first = result.hand_overs.row(0, named=True)
    middle_s = (first["prefilled_s"] + first["arrived_s"]) / 2
    columns = {name: result.kv_blocks[name].to_numpy() for name in result.kv_blocks.columns}
    in_use = blocks_in_use(np.array([first["prefilled_s"] / 2, middle_s, result.end_s]), columns)
    assert in_use[first["sender"], 0][:2].min() >= 250  # 4000 tokens
    assert in_use[first["receiver"], 0].tolist()[0] == 0
    assert in_use[first["receiver"], 0][1] >= 251  # reserved, with the block of the next token
    assert [held[2] for held in in_use.values()] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"max_num_seqs": 4},
        {"num_gpu_blocks_override": 60},
        {"pipeline_parallel_size": 2},
        {"enable_prefix_caching": False},
        {"speculation": {"num_speculative_tokens": 2, "acceptance_rate": 0.5}},
    ],
    ids=str,
)
def test_the_line_between_two_changes_is_right_to_a_block_per_sequence(engine: dict[str, Any]) -> None:
    """Held against what the block pools have at every step of a run that plays each of them."""
    data = service(
        {"service_time": None, "max_num_batched_tokens": 256, "max_num_seqs": 16, **engine},
        arrivals={"kind": "poisson", "rate_per_s": 100.0},
        prompt_tokens={"kind": "uniform", "low": 10, "high": 300},
        output_tokens={"kind": "uniform", "low": 1, "high": 200},
        requests=40,
    )
    seen: list[tuple[float, int, int]] = []
    release_ended = engine_queue.RequestQueue.release_ended

    def noted(queue: engine_queue.RequestQueue) -> None:
        release_ended(queue)
        seen.append((queue.env.now, queue.block_pool.used, len(queue.running)))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine_queue.RequestQueue, "release_ended", noted)
        result = simulate(Scenario.model_validate(data), fold=False)
    at_s, used, running = (np.array(column) for column in zip(*seen, strict=True))
    last = np.append(at_s[1:] != at_s[:-1], True)
    columns = {name: result.kv_blocks[name].to_numpy() for name in result.kv_blocks.columns}
    shown = blocks_in_use(at_s[last], columns)[0, 0]
    assert used.max() > 30
    if "num_gpu_blocks_override" in engine:
        assert set(result.kv_blocks["of_blocks"]) == {59}  # one is vLLM's null block
    assert (np.abs(shown - used[last]) <= np.maximum(running[last], 1)).all()
