"""Processor time of an engine around a step, as long as nothing in a scenario says otherwise.

An engine that does not schedule ahead chooses the sequences of a step, prepares their inputs, and hands out
their tokens while its GPUs wait. vLLM is one before 0.14, under Ray, and with pipeline stages. Where it
stops: an engine that schedules ahead does the same work during the step before, and is taken to hide all of
it, also where that takes longer than the step.
"""

from __future__ import annotations

from sim.inputs.engine import Engine

# fitted: vLLM of late 2025 on H100 and B200, 8 to 2,048 sequences of nine models (ML.ENERGY leaderboard v3):
# `sim calibrate hosts TABLE`. Held out by model, the step is off by 8 % in the middle, and 26 % without.
STEP_S, SEQUENCE_S = 1.2e-3, 45e-6
# fitted: Qwen2.5-72B at TP8 x PP2 under Ray, 14.80 ms a token: 2.8 ms a step with one sequence.
STEP_OVER_PROCESSES_S = 2.8e-3 - SEQUENCE_S


def step_s(engine: Engine) -> float:
    """Of every step, beside what its sequences take."""
    if engine.host.step_s is not None:
        return engine.host.step_s
    alone = engine.backend == "vllm" and engine.executor != "ray" and engine.pipeline_parallel_size == 1
    return STEP_S if alone else STEP_OVER_PROCESSES_S


def sequence_s(engine: Engine) -> float:
    """Of every sequence in a step. Other engines than vLLM were measured as a whole, and have none here."""
    if engine.host.sequence_s is not None:
        return engine.host.sequence_s
    return SEQUENCE_S if engine.backend == "vllm" else 0.0
