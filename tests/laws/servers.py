"""Scenarios in which the runtime is a textbook server: a given service time in place of kernels."""

from __future__ import annotations

from typing import Any

from sim.scenario.scenario import Scenario

TOKENS = 100_000  # mean of a geometric length whose law is exponential to five digits


def server(
    *,
    rate_per_s: float,
    service: str,
    requests: int,
    replicas: int = 1,
    router: str = "central_queue",
    **engine: Any,
) -> Scenario:
    """Poisson arrivals to `replicas` servers, one request at a time, mean service 1 s by the law
    `service`.
    """
    laws: dict[str, tuple[dict[str, float], Any]] = {
        "deterministic": ({"step_s": 1.0}, 1),
        "exponential": (
            {"token_s": 1.0 / TOKENS},
            {"kind": "geometric", "mean": TOKENS, "high": 64 * TOKENS},
        ),
        "few_very_long": (  # mean 1 s and cv2 4: 0.5 s, and 9 s one time in seventeen
            {"token_s": 1.0 / TOKENS},
            {"kind": "empirical", "values": [TOKENS // 2, 9 * TOKENS], "weights": [16, 1]},
        ),
        "uniform": ({"token_s": 1.0 / TOKENS}, {"kind": "uniform", "low": 1, "high": 2 * TOKENS - 1}),
    }
    time, prompt = laws[service]
    return Scenario.model_validate(
        {
            "topology": "a100-x4",
            "model": "llama-3-8b",
            "replicas": replicas,
            "router": router,
            "engine": {
                "scheduler": "one_at_a_time",
                "service_time": time,
                "enable_prefix_caching": False,
                **engine,
            },
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
                "prompt_tokens": prompt,
                "output_tokens": 1,
                "requests": requests,
            },
        }
    )
