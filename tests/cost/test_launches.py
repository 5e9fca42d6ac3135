from __future__ import annotations

import pytest

from sim.catalog import load_gpu
from sim.cost.launches import (
    COMPILED_LAUNCH_S,
    MODULE_LAUNCH_S,
    OLDER_HOST,
    attention_launches,
    expert_launches,
    gemm_launches,
    launch_s,
)
from sim.inputs.engine import Engine
from sim.reading.huggingface import model_of
from sim.scenario.changes import with_changes
from sim.scenario.scenario import Scenario
from sim.simulate import simulate

QWEN2_5_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    "max_position_embeddings": 32768, "tie_word_embeddings": False,
}  # fmt: skip


def test_vllm_launches_compiled_code_unless_eager_and_sglang_its_modules() -> None:
    h100, a100 = load_gpu("h100-sxm"), load_gpu("a100-80gb-sxm")
    eager = {"enforce_eager": True}
    assert launch_s(Engine(), h100) == COMPILED_LAUNCH_S
    assert launch_s(Engine.model_validate(eager), h100) == MODULE_LAUNCH_S["vllm"]
    assert launch_s(Engine.model_validate(eager), a100) == pytest.approx(OLDER_HOST * MODULE_LAUNCH_S["vllm"])
    assert launch_s(Engine(backend="sglang"), h100) == MODULE_LAUNCH_S["sglang"]


def test_a_launch_time_that_is_given_holds_in_every_mode() -> None:
    for eager in (True, False):
        engine = Engine.model_validate({"enforce_eager": eager, "host": {"launch_s": 1e-5}})
        assert launch_s(engine, load_gpu("a100-80gb-sxm")) == 1e-5


def test_launches_are_those_of_the_kernels_of_an_op() -> None:
    assert [attention_launches(has_prefill) for has_prefill in (True, False)] == [2, 3]
    assert [gemm_launches(dtype, False) for dtype in ("bf16", "fp8", "w4a16")] == [1, 2, 1]
    assert gemm_launches("fp8", True) == 1
    assert [expert_launches(dtype) for dtype in ("bf16", "fp8")] == [7, 9]


def test_a_7b_on_an_a100_takes_1_7_times_as_long_a_token_without_graphs() -> None:
    """Qwen2.5-Omni-7B on A800, vLLM 0.29: 22 ms eager, 13 ms with graphs (vllm-omni#7960). Hosts differ."""
    graphs = Scenario.model_validate(
        {
            "topology": "dgx-a100",
            "model": model_of(QWEN2_5_7B, "qwen2.5-7b"),
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": 1},
                "prompt_tokens": 128,
                "output_tokens": 100,
                "requests": 2,
            },
        }
    )
    eager = with_changes(graphs, {"engine.enforce_eager": True})
    eager_ms, graphs_ms = (float(simulate(one).summary()["mean_tpot_ms"]) for one in (eager, graphs))
    assert 1.4 < eager_ms / graphs_ms < 2.1
    assert 14.0 < eager_ms < 22.0 * 1.1


def test_compiled_code_launches_within_the_usual_5_to_10_microseconds() -> None:
    assert 5e-6 <= COMPILED_LAUNCH_S <= 10e-6
