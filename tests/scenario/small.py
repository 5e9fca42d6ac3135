"""A small scenario, in Python and in a file."""

from __future__ import annotations

from typing import Any

from sim.scenario import Scenario

WORKLOAD = {
    "arrivals": {"kind": "closed_loop", "users": 1},
    "prompt_tokens": 50,
    "output_tokens": 5,
    "requests": 2,
}


def scenario(**rest: Any) -> Scenario:
    """Llama-3-8B on one server of H100."""
    return Scenario.model_validate(
        {"topology": "nd-h100-v5", "model": "llama-3-8b", "workload": WORKLOAD, **rest}
    )
