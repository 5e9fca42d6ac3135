"""What an engine's processor spends on a step and on every sequence that runs in it: scheduling, inputs,
sampling, handing out tokens.

A synchronous engine's GPUs wait for all of it, once a step. An asynchronous one does it while they compute
the step before: a step takes the longer of the two. Where it stops: one constant for all models, hosts and
lengths of texts; what an engine's front end does in processes of its own is not in it.
"""

from __future__ import annotations

from sim.inputs.engine import Engine

# fitted: Qwen2.5-72B under Ray at TP8 x PP2, 14.80 ms a token where the GPUs need 10.1; only the sum with
# `engine.host.stage_s` and the running sequences is identifiable.
RAY_STEP_S = 2.6e-3
# fitted: 71 services on the ML.ENERGY leaderboard (vLLM 0.11.1; five dense models on H100 and B200, 8 to 512
# sequences, chats): median gap between tokens less the GPU's step. Fitted without one of the models, its rows
# are 2.3 to 5.2 % off in the median. It is what the gaps lack, whatever spends it: published settings ask
# for asynchronous scheduling, and sampling with a top-p sorts all logits, which no kernel here prices.
# Qwen3-32B on H100 under vLLM 0.12, without asynchronous scheduling and no row of the fit, agrees.
STEP_S, SEQUENCE_S = 1.1e-3, 47e-6
# The same of a sequence where the engine hides it behind the step before.
HIDDEN_SEQUENCE_S = {
    # assumed: what is hidden of it was not measured. All of a step is at most 19 us a sequence (gpt-oss-120b
    # at TP4 under vLLM 0.11.2, 9.67 ms with 512), so that a hidden `SEQUENCE_S` would be too long.
    "vllm": 0.0,
    "sglang": 0.0,  # assumed: its fastest steps with 512 sequences take 45 us each, which bounds little
    # fitted: Mixtral-8x7B in 8 bits on 8 H200 under TensorRT-LLM 0.17, all requests at once, 128 tokens in,
    # 128 or 2048 out: without it 15 and 11 % too many tokens a second, with it 1 % too few.
    "trtllm": 14e-6,
}


def step_s(engine: Engine) -> float:
    """Seconds of a synchronous engine's host a step. `engine.host.step_s` overrides it."""
    if engine.host.step_s is not None:
        return engine.host.step_s
    return RAY_STEP_S if engine.executor == "ray" or engine.pipeline_parallel_size > 1 else STEP_S


def sequence_s(engine: Engine) -> float:
    """Seconds of the host for a sequence in a step: on top of the step, or hidden behind the one before.
    `engine.host.sequence_s` overrides it. Only vLLM was measured without asynchronous scheduling.
    """
    if engine.host.sequence_s is not None:
        return engine.host.sequence_s
    if engine.schedules_async:
        return HIDDEN_SEQUENCE_S[engine.backend]
    return SEQUENCE_S if engine.backend == "vllm" else 0.0
