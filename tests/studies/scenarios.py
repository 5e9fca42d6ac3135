"""Small scenarios that studies run many times."""

from __future__ import annotations

from typing import Any

from sim.scenario import Scenario


def scenario(**changes: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "topology": "a100-x4",
            "model": "llama-3-8b",
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": 4.0},
                "prompt_tokens": 100,
                "output_tokens": 5,
                "requests": 10,
            },
            **changes,
        }
    )


def server(**workload: Any) -> Scenario:
    """M/D/1 with a service of 100 ms."""
    return scenario(
        engine={"scheduler": "one_at_a_time", "service_time": {"step_s": 0.1}},
        workload={
            "arrivals": {"kind": "poisson", "rate_per_s": 2.0},
            "prompt_tokens": 1,
            "output_tokens": 1,
            "requests": 4000,
            **workload,
        },
    )
